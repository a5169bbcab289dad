"""The data of a run: a large database, and in it a tenant of whom a few have much."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import psycopg

from benchmarks.large import fill
from benchmarks.sample import Sample

__all__ = ["PEER_ROLE", "load"]

PEER_ROLE: Final = "bench_peer"
"""Whom row-level security does not bind: what it costs is this project's alone."""
TENANT: Final = "01900000-0000-7000-8000-000000000001"
MESSAGES_A_USER: Final = 100
MOST_ROWS: Final = 100_000
_WORDS: Final = (
    "reunion presupuesto cliente factura proyecto entrega equipo llamada contrato viaje hotel vuelo medico receta"
    " farmacia compra mercado pan leche fruta cena amigos cumpleanos regalo libro pelicula musica concierto"
    " entradas coche taller seguro casa alquiler luz agua internet banco cuenta tarjeta pago deadline meeting"
    " report draft review budget invoice customer release server backup password garden kitchen birthday holiday"
    " school teacher lesson homework doctor dentist appointment insurance train station ticket museum restaurant"
    " recipe dinner breakfast coffee"
)


def load(
    connection: psycopg.Connection,
    *,
    messages: int = 1_000_000,
    tenants: int = 20,
    long: int = 5_000,
    exported: int = 100_000,
    notes: int = 200,
    searchers: int = 20,
    bulk: int = 1_000,
) -> Sample:
    """Fill a migrated database as its superuser, and return what is asked of it.

    Args:
        connection: The superuser's.
        messages: How many in all, in conversations of fifty, beside those of the user who has many.
        tenants: Whose rows lie mixed.
        long: How many messages each long conversation has.
        exported: How many messages of one user there are, in long conversations.
        notes: How many each of those who search has.
        searchers: How many do.
        bulk: How many messages are appended at once.
    """
    users = max(messages // MESSAGES_A_USER, tenants * 2)
    others = min(messages, MOST_ROWS)
    fill(connection, tenants=tenants, users=users, messages=messages, events=others, notes=others)
    _make_role(connection)
    exporting = _talker(connection, conversations=max(1, exported // long), messages=long)
    searching = _searchers(connection, searchers, notes)
    hot = connection.execute(
        "INSERT INTO conversations (tenant_id, id, user_id, session_id, channel, external_chat_id)"
        " VALUES (%s, uuidv7(), %s, 'hot', 'telegram', 'hot') RETURNING id",
        [TENANT, exporting],
    ).fetchone()
    connection.execute("VACUUM ANALYZE")
    connection.execute("CHECKPOINT")
    people = connection.execute(
        "SELECT DISTINCT ON (users.id) users.id::text, telegram_id, external_chat_id FROM users JOIN conversations"
        " ON conversations.tenant_id = users.tenant_id AND user_id = users.id"
        " WHERE users.tenant_id = %s AND users.id <> %s ORDER BY users.id LIMIT 500",
        [TENANT, exporting],
    ).fetchall()
    talks = connection.execute(
        "SELECT id::text, user_id = %s FROM conversations WHERE tenant_id = %s AND session_id <> 'hot'",
        [exporting, TENANT],
    ).fetchall()
    return Sample(
        host=connection.info.host,
        database=connection.info.dbname,
        peer=PEER_ROLE,
        tenant_id=TENANT,
        people=people,
        conversations=[key for key, is_long in talks if not is_long],
        long_conversations=[key for key, is_long in talks if is_long],
        hot_conversation=str(hot[0]) if hot else "",
        long=long,
        exporting_user=exporting,
        exported=max(1, exported // long) * long,
        searchers=searching,
        bulk=bulk,
    )


def _make_role(connection: psycopg.Connection) -> None:
    with suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):  # it is there, or comes just now
        connection.execute(f"CREATE ROLE {PEER_ROLE} LOGIN BYPASSRLS IN ROLE pg_read_all_data, pg_write_all_data")


def _talker(connection: psycopg.Connection, *, conversations: int, messages: int) -> str:
    """Make a user with long conversations, whose messages lie mixed as they would have come."""
    [user_id] = connection.execute(
        "INSERT INTO users (tenant_id, id, telegram_id) VALUES (%s, uuidv7(), 1000000000) RETURNING id::text", [TENANT]
    ).fetchone() or [""]
    connection.execute(
        "WITH talk AS (INSERT INTO conversations (tenant_id, id, user_id, session_id, channel, external_chat_id,"
        " last_seq, last_message_at) SELECT %(tenant)s, uuidv7(), %(user)s, 'long' || n, 'telegram', 'long' || n,"
        " %(messages)s, now() FROM generate_series(1, %(conversations)s) AS n RETURNING id)"
        " INSERT INTO message_history (tenant_id, id, conversation_id, user_id, seq, message_id, role, content, model,"
        " input_tokens, output_tokens, token_count, created_at) SELECT %(tenant)s, uuidv7(), talk.id, %(user)s, seq,"
        " 'long:' || talk.id || seq, CASE seq %% 2 WHEN 0 THEN 'assistant' ELSE 'user' END,"
        " 'A message of some length, as people write them: ' || seq, 'model-1', 10, 20, 15,"
        " now() - (%(messages)s - seq) * interval '1 minute' FROM generate_series(1, %(messages)s) AS seq, talk",
        {"tenant": TENANT, "user": user_id, "messages": messages, "conversations": conversations},
    )
    return str(user_id)


def _searchers(connection: psycopg.Connection, number: int, notes: int) -> list[str]:
    """Give some of the users many notes, of forty words each."""
    connection.execute("SELECT setseed(0.5)")
    rows = connection.execute(
        "SELECT id FROM users WHERE tenant_id = %s AND telegram_id < 1000000000 ORDER BY id LIMIT %s",
        [TENANT, number],
    ).fetchall()
    searchers = [str(row[0]) for row in rows]
    connection.execute(
        "WITH words AS (SELECT string_to_array(%s, ' ') AS word)"
        " INSERT INTO notes (tenant_id, id, user_id, title, content)"
        " SELECT %s, uuidv7(), person, 'Nota ' || n, (SELECT string_agg(word[1 + floor(random() * cardinality(word))],"
        " ' ') FROM words, generate_series(1, 40) AS w WHERE n = n)"
        " FROM unnest(%s::uuid[]) AS person, generate_series(1, %s) AS n",
        [_WORDS, TENANT, searchers, notes],
    )
    return searchers
