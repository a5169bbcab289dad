"""The data of a run: many tenants in this project's schema, and the same rows in the plain schema of the peers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

import psycopg

from benchmarks.large import fill
from benchmarks.sample import Rows

__all__ = ["PEER_ROLE", "TENANTS", "Loaded", "load"]

PEER_ROLE: Final = "bench_peer"
TENANTS: Final = 20
MESSAGES_A_USER: Final = 100
MOST_OTHERS: Final = 100_000
"""Events and notes, at most."""
MOST_ROWS: Final = 500
"""Rows to choose from, at most, of many tenants as of one: so the working sets are equal."""
EXPORTER: Final = 1_000_000_000
"""The Telegram id of the first user with long conversations."""
_FLOOR: Final = Path(__file__).with_name("floor.sql")
_PLAIN: Final = Path(__file__).with_name("plain.sql")
_AFTER_THE_ROWS: Final = "-- After the rows:"
_WORDS: Final = (
    "reunion presupuesto cliente factura proyecto entrega equipo llamada contrato viaje hotel vuelo medico receta"
    " farmacia compra mercado pan leche fruta cena amigos cumpleanos regalo libro pelicula musica concierto"
    " entradas coche taller seguro casa alquiler luz agua internet banco cuenta tarjeta pago deadline meeting"
    " report draft review budget invoice customer release server backup password garden kitchen birthday holiday"
    " school teacher lesson homework doctor dentist appointment insurance train station ticket museum restaurant"
    " recipe dinner breakfast coffee"
)
RowT = TypeVar("RowT", bound=tuple[Any, ...])


@dataclass(frozen=True, slots=True)
class Loaded:
    """The rows to call with: of all tenants, and as many of one tenant."""

    mixed: Rows
    one: Rows


def load(
    ours: psycopg.Connection,
    plain: psycopg.Connection,
    *,
    messages: int,
    tenants: int = TENANTS,
    long: int = 5_000,
    exported: int = 100_000,
    notes: int = 200,
    searchers: int = 20,
    bulk: int = 1_000,
) -> Loaded:
    """Fill a migrated database, copy the rows into an empty one with the plain schema, and return rows to call with.

    Args:
        ours: The superuser's, to the migrated database.
        plain: The superuser's, to the empty database.
        messages: Messages in conversations of fifty.
        tenants: Tenants, whose rows are mixed.
        long: Messages of each long conversation: each tenant has one, and the first one the exporter's beside it.
        exported: Messages of the exporter, in long conversations.
        notes: Notes of each user who searches.
        searchers: Users of the first tenant who search; the other tenants have one each.
        bulk: Messages of one bulk insert.
    """
    users = max(messages // MESSAGES_A_USER, tenants * 2)
    others = min(messages // 5, MOST_OTHERS)
    fill(ours, tenants=tenants, users=users, messages=messages, events=others, notes=others)
    ours.execute(_FLOOR.read_text())
    ids = [row[0] for row in ours.execute("SELECT id FROM tenants ORDER BY id").fetchall()]
    chats = max(1, exported // long)
    ours.execute("SET session_replication_role = replica")  # the keys are right: the foreign keys need no check
    exporter, *_ = [
        _add_user_with_long_conversations(ours, tenant_id, conversations=1 if number else chats, messages=long)
        for number, tenant_id in enumerate(ids)
    ]
    for number, tenant_id in enumerate(ids):
        _add_notes(ours, tenant_id, users=1 if number else searchers, notes=notes)
    ours.execute("RESET session_replication_role")
    [hot] = ours.execute(
        "INSERT INTO conversations (tenant_id, id, user_id, session_id, channel, external_chat_id)"
        " VALUES (%s, uuidv7(), %s, 'hot', 'telegram', 'hot') RETURNING id",
        [ids[0], exporter],
    ).fetchall()
    _copy(ours, plain)
    for connection in (ours, plain):
        connection.execute("VACUUM ANALYZE")
    ours.execute("CHECKPOINT")
    choices = _choices(ours)
    mixed, one = (
        Rows(
            people=choices["people"][place],
            conversations=choices["conversations"][place],
            long_conversations=choices["long_conversations"][place],
            searchers=choices["searchers"][place],
            hot=(ids[0], hot[0]),
            exporter=(ids[0], exporter),
            long=long,
            exported=chats * long,
            bulk=bulk,
        )
        for place in (0, 1)
    )
    return Loaded(mixed, one)


def _choices(ours: psycopg.Connection) -> dict[str, tuple[list[Any], list[Any]]]:
    """Return what calls choose from: of all tenants, and of one."""
    chats = "users JOIN conversations ON conversations.tenant_id = users.tenant_id AND user_id = users.id"
    talks = "SELECT conversations.tenant_id, conversations.id FROM " + chats
    queries = {
        "people": "SELECT DISTINCT ON (users.tenant_id, users.id) users.tenant_id, users.id, telegram_id,"
        f" external_chat_id FROM {chats} WHERE telegram_id < %(exporter)s ORDER BY users.tenant_id, users.id",
        "conversations": f"{talks} WHERE telegram_id < %(exporter)s ORDER BY 1, 2",
        "long_conversations": f"{talks} WHERE telegram_id >= %(exporter)s AND session_id <> 'hot' ORDER BY 1, 2",
        "searchers": "SELECT DISTINCT tenant_id, user_id FROM notes WHERE title LIKE 'Nota %%' ORDER BY 1, 2",
    }
    return {
        name: _mixed_and_one(ours.execute(query, {"exporter": EXPORTER}).fetchall()) for name, query in queries.items()
    }


def _mixed_and_one(rows: Sequence[RowT]) -> tuple[list[RowT], list[RowT]]:
    """Return rows of all tenants, the same number of each, and as many rows of the first tenant."""
    by_tenant: defaultdict[UUID, list[RowT]] = defaultdict(list)
    for row in rows:
        by_tenant[row[0]].append(row)
    one = next(iter(by_tenant.values()))[:MOST_ROWS]
    share = max(1, len(one) // len(by_tenant))
    return [row for of_tenant in by_tenant.values() for row in of_tenant[:share]], one


def _add_user_with_long_conversations(
    ours: psycopg.Connection, tenant_id: UUID, *, conversations: int, messages: int
) -> UUID:
    """Insert a user with long conversations, whose messages are interleaved as in real use."""
    [(user_id,)] = ours.execute(
        "INSERT INTO users (tenant_id, id, telegram_id) VALUES (%s, uuidv7(), %s) RETURNING id", [tenant_id, EXPORTER]
    ).fetchall()
    ours.execute(
        "WITH talk AS (INSERT INTO conversations (tenant_id, id, user_id, session_id, channel, external_chat_id,"
        " last_seq, last_message_at) SELECT %(tenant)s, uuidv7(), %(user)s, 'long' || n, 'telegram', 'long' || n,"
        " %(messages)s, now() FROM generate_series(1, %(conversations)s) AS n RETURNING id)"
        " INSERT INTO message_history (tenant_id, id, conversation_id, user_id, seq, message_id, role, content, model,"
        " input_tokens, output_tokens, token_count, created_at) SELECT %(tenant)s, uuidv7(), talk.id, %(user)s, seq,"
        " 'long:' || talk.id || seq, CASE seq %% 2 WHEN 0 THEN 'assistant' ELSE 'user' END,"
        " 'A message of some length, as people write them: ' || seq, 'model-1', 10, 20, 15,"
        " now() - (%(messages)s - seq) * interval '1 minute' FROM generate_series(1, %(messages)s) AS seq, talk",
        {"tenant": tenant_id, "user": user_id, "messages": messages, "conversations": conversations},
    )
    return UUID(str(user_id))


def _add_notes(ours: psycopg.Connection, tenant_id: UUID, *, users: int, notes: int) -> None:
    """Insert many notes of forty words each for some of a tenant's users."""
    ours.execute("SELECT setseed(0.5)")
    ours.execute(
        "WITH words AS (SELECT string_to_array(%(words)s, ' ') AS word), person AS (SELECT id FROM users"
        " WHERE tenant_id = %(tenant)s AND telegram_id < %(exporter)s ORDER BY id LIMIT %(users)s)"
        " INSERT INTO notes (tenant_id, id, user_id, title, content)"
        " SELECT %(tenant)s, uuidv7(), person.id, 'Nota ' || n,"
        " (SELECT string_agg(word[1 + floor(random() * cardinality(word))], ' ')"
        " FROM words, generate_series(1, 40) AS w WHERE n = n) FROM person, generate_series(1, %(notes)s) AS n",
        {"words": _WORDS, "tenant": tenant_id, "exporter": EXPORTER, "users": users, "notes": notes},
    )


def _copy(ours: psycopg.Connection, plain: psycopg.Connection) -> None:
    """Create the plain schema for the peers' role, with the rows of this project's."""
    tables, keys = _PLAIN.read_text().split(_AFTER_THE_ROWS)
    plain.execute(tables)
    columns = plain.execute(
        "SELECT table_name::text, string_agg(column_name::text, ', ') FROM information_schema.columns"
        " WHERE table_schema = 'public' AND is_generated = 'NEVER' GROUP BY table_name"
    ).fetchall()
    for table, names in columns:
        with (
            ours.cursor().copy(f"COPY {table} ({names}) TO STDOUT (FORMAT BINARY)") as source,
            plain.cursor().copy(f"COPY {table} ({names}) FROM STDIN (FORMAT BINARY)") as target,
        ):
            for part in source:
                target.write(part)
    plain.execute(keys)
    with suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):  # another run has created it
        plain.execute(f"CREATE ROLE {PEER_ROLE} LOGIN")
    plain.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {PEER_ROLE}")
