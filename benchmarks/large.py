"""A large database, made by the server itself: many tenants, a million messages, an index never without company."""

from __future__ import annotations

from typing import Final

import psycopg

__all__ = ["fill"]

_ID: Final = "('0190000{kind}-0000-7000-8000-' || lpad(to_hex({number}), 12, '0'))::uuid"
_REBUILT: Final = """
SELECT format('ALTER TABLE %%s DROP CONSTRAINT %%I', conrelid::regclass, conname),
       format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', conrelid::regclass, conname, pg_get_constraintdef(oid))
  FROM pg_constraint WHERE contype = 'u' AND conrelid = 'message_history'::regclass
UNION ALL
SELECT format('DROP INDEX %%I', indexname), indexdef
  FROM pg_indexes JOIN pg_class ON relname = indexname
 WHERE schemaname = 'public' AND tablename = ANY(%s)
   AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = pg_class.oid)
"""
_TABLES: Final = ("tenants", "users", "conversations", "message_history", "events", "notes")


def fill(
    connection: psycopg.Connection,
    *,
    tenants: int = 20,
    users: int = 10_000,
    messages: int = 1_000_000,
    events: int = 100_000,
    notes: int = 100_000,
) -> None:
    """Fill a migrated database as its superuser, whom row-level security does not bind; rows of all tenants are mixed.

    Each user has two conversations. Indexes are built afterwards, which takes half of the time.
    """
    conversations = users * 2
    rebuilt = connection.execute(_REBUILT, [list(_TABLES)]).fetchall()
    for drop, _ in rebuilt:
        connection.execute(drop)
    connection.execute("SET session_replication_role = replica")  # skips the checks of foreign keys, which are correct
    connection.execute("SET maintenance_work_mem = '256MB'")
    tenant = _id("0", f"u % {tenants}")
    user = _id("1", "u")
    connection.execute(
        f"INSERT INTO tenants (id, slug, name) SELECT {_id('0', 't')}, 'tenant-' || t, 'Tenant'"
        f" FROM generate_series(0, {tenants - 1}) AS t"
    )
    connection.execute(
        f"INSERT INTO users (tenant_id, id, telegram_id, username) SELECT {tenant}, {user}, u, 'user' || u"
        f" FROM generate_series(1, {users}) AS u"
    )
    connection.execute(
        "INSERT INTO conversations (tenant_id, id, user_id, session_id, channel, external_chat_id, last_seq,"
        f" last_message_at) SELECT {tenant}, {_id('2', 'c')}, {user}, 's' || c, 'telegram', c::text,"
        f" {messages // conversations}, now() - c * interval '1 minute'"
        f" FROM generate_series(1, {conversations}) AS c, LATERAL (SELECT 1 + c % {users} AS u) AS of_user"
    )
    connection.execute(
        "INSERT INTO message_history (tenant_id, id, conversation_id, user_id, seq, message_id, role, content,"
        " model, input_tokens, output_tokens, token_count, created_at)"
        f" SELECT {tenant}, {_id('3', 'm')}, {_id('2', 'c')}, {user}, 1 + (m - 1) / {conversations},"
        " 'telegram:bot:' || c || ':' || m, CASE (m / 7) % 2 WHEN 0 THEN 'user' ELSE 'assistant' END,"
        " 'A message of some length, as people write them: ' || m, 'model-' || m % 3, 10, 20, 15,"
        f" now() - ({messages} - m) * interval '3 seconds'"
        f" FROM generate_series(1, {messages}) AS m, LATERAL (SELECT 1 + (m - 1) % {conversations} AS c) AS of_talk,"
        f" LATERAL (SELECT 1 + c % {users} AS u) AS of_user"
    )
    connection.execute(
        "INSERT INTO events (tenant_id, id, user_id, title, start_datetime, end_datetime, timezone, rrule,"
        f" reminder_datetime) SELECT {tenant}, {_id('4', 'e')}, {user}, 'An event', at, at + interval '1 hour',"
        " 'Europe/Madrid', CASE WHEN e % 50 = 0 THEN 'FREQ=WEEKLY' END,"
        " CASE WHEN e % 10 = 0 THEN at - interval '15 minutes' END"
        f" FROM generate_series(1, {events}) AS e, LATERAL (SELECT 1 + e % {users} AS u,"
        f" now() + (e - {events // 2}) * interval '10 minutes' AS at) AS of_user"
    )
    connection.execute(
        "INSERT INTO notes (tenant_id, id, user_id, title, content, tags, pinned)"
        f" SELECT {tenant}, {_id('5', 'n')}, {user}, 'Note ' || n, 'Comprar canción ' || n,"
        f" ARRAY['tag' || n % 10], n % 100 = 0 FROM generate_series(1, {notes}) AS n,"
        f" LATERAL (SELECT 1 + n % {users} AS u) AS of_user"
    )
    for _, build in rebuilt:
        connection.execute(build)
    connection.execute("SET session_replication_role = origin")
    connection.execute("RESET maintenance_work_mem")
    connection.execute("VACUUM ANALYZE " + ", ".join(_TABLES))


def _id(kind: str, number: str) -> str:
    return _ID.format(kind=kind, number=number)
