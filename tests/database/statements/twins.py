"""Two tenants with the same ids and keys, and calls of every SQL function and every read for the first of them.

A call must return the same whether the second tenant has rows or not, and must not change its rows. Each row of the
second tenant is there for a predicate: it would be found, counted or changed if the predicate were missing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid5

import asyncpg

from src.database.base import tenant_tables
from src.database.statements import Latest, Turn
from src.database.statements.call import Call
from src.database.store import Identity, Store
from tests.acceptance.calls import STORE_CALLS, Rows, a_message
from tests.acceptance.calls import Call as StoreCall
from tests.acceptance.calls.rows import listed
from tests.database.statements.one_connection import OneConnection

__all__ = ["CALLS", "FIRST", "SECOND", "answers", "insert_rows", "state_of"]

_NAMESPACE: Final = UUID(int=0)
_LONG_AGO: Final = datetime(2020, 1, 1, tzinfo=UTC)
_ANSWER_SECONDS: Final = 0.5
"""A function that does not find a row would repeat its search without end."""


def named(name: str) -> UUID:
    """Return the id of the row with this name, the same for both tenants."""
    return uuid5(_NAMESPACE, name)


FIRST: Final = named("first")
SECOND: Final = named("second")
_BOTH: Final = (FIRST, SECOND)

_USERS: Final[dict[str, tuple[int, tuple[UUID, ...], tuple[UUID, ...]]]] = {
    "u1": (1, _BOTH, ()),
    "in the same group": (2, _BOTH, (SECOND,)),
    "before u1": (1, _BOTH, _BOTH),
    "deleted": (4, _BOTH, (FIRST,)),
    "of the second alone": (5, (SECOND,), ()),
}
"""Telegram id, tenants, tenants in which the user is deleted."""
_IDENTITIES: Final[dict[str, dict[UUID, str]]] = {
    "same": {FIRST: "u1", SECOND: "in the same group"},
    "of a deleted user": {FIRST: "deleted", SECOND: "deleted"},
    "of the second alone": {SECOND: "u1"},
}
"""By subject, the owner in each tenant."""
_CONVERSATIONS: Final[dict[str, tuple[str, dict[UUID, str | None], tuple[UUID, ...], tuple[UUID, ...]]]] = {
    "c1": ("u1", {FIRST: "1", SECOND: "1"}, _BOTH, ()),
    "in another chat": ("u1", {FIRST: "2", SECOND: "1"}, (FIRST,), ()),
    "in the same group": ("in the same group", {FIRST: "1", SECOND: "1"}, _BOTH, ()),
    "unnamed": ("u1", {FIRST: None, SECOND: None}, _BOTH, ()),
    "unnamed, before u1": ("before u1", {FIRST: None, SECOND: None}, (), ()),
    "deleted": ("u1", {FIRST: "1", SECOND: "1"}, (), (FIRST,)),
    "deleted in both": ("u1", {FIRST: "8", SECOND: "8"}, (), _BOTH),
    "not deleted": ("u1", {FIRST: "5", SECOND: "5"}, (), (SECOND,)),
    "of the second alone": ("of the second alone", {SECOND: "6"}, (SECOND,), ()),
    "of the second alone, u1": ("u1", {SECOND: "7"}, (SECOND,), ()),
}
"""User, the chat in each tenant, tenants in which the conversation is active, tenants in which it is deleted."""
_EVENTS: Final[dict[str, tuple[str, tuple[UUID, ...], int]]] = {
    "due": ("u1", _BOTH, 2),
    "of a deleted user": ("deleted", _BOTH, 3),
    "of the second alone": ("u1", (SECOND,), 4),
}
"""User, tenants, and for how many hours the reminder is due."""
_ENTRIES: Final[dict[str, tuple[str | None, str | None, tuple[UUID, ...]]]] = {
    "of u1": ("u1", None, _BOTH),
    "of c1": (None, "c1", _BOTH),
    "of a deleted user": ("deleted", None, _BOTH),
    "of a deleted conversation": (None, "deleted", _BOTH),
    "of the second alone": ("u1", None, (SECOND,)),
}
"""User, conversation, and tenants; the name is the key."""


async def insert_rows(connection: asyncpg.Connection[Any], *tenants: UUID) -> None:
    """Insert the rows of these tenants, the second one's first: a search without the tenant meets them first."""
    for tenant in sorted(tenants, key=_BOTH.index, reverse=True):
        await connection.execute("INSERT INTO tenants (id, slug, name) VALUES ($1, $2, 'T')", tenant, str(tenant))
        for name, (telegram_id, owners, deleted) in _USERS.items():
            if tenant in owners:
                await connection.execute(
                    "INSERT INTO users (tenant_id, id, telegram_id, deleted_at, display_name)"
                    " VALUES ($1, $2, $3, $4, $5)",
                    tenant, named(name), telegram_id, _LONG_AGO if tenant in deleted else None, f"of {tenant}",
                )  # fmt: skip
        await _insert_identities(connection, tenant)
        for name, (user, chats, active, deleted) in _CONVERSATIONS.items():
            if tenant in chats:
                await connection.execute(
                    "INSERT INTO conversations (tenant_id, id, user_id, channel, external_chat_id, session_id,"
                    " is_active, closed_at, deleted_at, last_seq, title)"
                    " VALUES ($1, $2, $3, 'telegram', $4, $5, $6, $7, $8, 1, $9)",
                    tenant, named(name), named(user), chats[tenant], name, tenant in active,
                    None if tenant in active else _LONG_AGO, _LONG_AGO if tenant in deleted else None, f"of {tenant}",
                )  # fmt: skip
                await _insert_message(connection, tenant, name, user, f"in {name}", seq=1)
        if tenant == SECOND:
            await _insert_message(connection, tenant, "c1", "u1", "of the second alone, in c1", seq=2)
        for name, (user, owners, hours) in _EVENTS.items():
            if tenant in owners:
                due = datetime.now(UTC) - timedelta(hours=hours)
                await connection.execute(
                    "INSERT INTO events (tenant_id, id, user_id, title, start_datetime, reminder_datetime)"
                    " VALUES ($1, $2, $3, $4, $5, $5)",
                    tenant, named(name), named(user), f"of {tenant}", due,
                )  # fmt: skip

        await _insert_entries(connection, tenant)


async def _insert_entries(connection: asyncpg.Connection[Any], tenant: UUID) -> None:
    for name, (of_user, of_conversation, owners) in _ENTRIES.items():
        if tenant in owners:
            await connection.execute(
                "INSERT INTO state_entries (tenant_id, id, user_id, conversation_id, namespace, key, data)"
                " VALUES ($1, $2, $3, $4, 'n', $5, '\"x\"')",
                tenant, named(name), of_user and named(of_user), of_conversation and named(of_conversation), name,
            )  # fmt: skip


async def _insert_identities(connection: asyncpg.Connection[Any], tenant: UUID) -> None:
    for subject, owners in _IDENTITIES.items():
        if tenant in owners:
            await connection.execute(
                "INSERT INTO user_identities (tenant_id, id, user_id, provider, subject)"
                " VALUES ($1, $2, $3, 'google', $4)",
                tenant, named(subject), named(owners[tenant]), subject,
            )  # fmt: skip


async def _insert_message(
    connection: asyncpg.Connection[Any], tenant: UUID, conversation: str, user: str, key: str, *, seq: int
) -> None:
    # Only the second tenant's messages have a fingerprint, of other content.
    await connection.execute(
        "INSERT INTO message_history (tenant_id, id, conversation_id, user_id, seq, message_id, role, content,"
        " fingerprint, created_at) VALUES ($1, $2, $3, $4, $5, $6, 'user', $7, $8, $9)",
        tenant, named(key), named(conversation), named(user), seq, key, f"of {tenant}",
        bytes(32) if tenant == SECOND else None, _LONG_AGO,
    )  # fmt: skip


_ROWS: Final = Rows(named("u1"), named("c1"), named("in c1"), named("due"), named("none"), FIRST)
Answer = Callable[[Store, OneConnection], Awaitable[Any]]


def _of_the_store(call: StoreCall) -> Answer:
    return lambda store, _: call.run(store, _ROWS)


def _append(conversation: str, *keys: str, expected_last_seq: int | None = None) -> Answer:
    messages = [a_message(key) for key in keys]
    return lambda store, _: store.append_many(named(conversation), messages, expected_last_seq=expected_last_seq)


def _by_identity(subject: str) -> Answer:
    return lambda store, _: store.get_or_create_by_identity("google", subject)


def _turn_by_identity(subject: str) -> Answer:
    return lambda store, _: store.turn(Identity("google", subject), "telegram", "1", [a_message("t")])


def _open(session_id: str, user: str = "u1") -> Answer:
    return lambda store, _: store.open_conversation(session_id, named(user))


def _turn(conversation: str) -> Turn:
    return Turn(named(conversation), "w", 0, _LONG_AGO)


async def _fork_cleared(store: Store, _: OneConnection) -> Any:
    """Copy a conversation without messages; the second tenant's has some."""
    await store.clear(named("c1"))
    return await store.fork(named("c1"))


def _state(method: str, key: str, *values: Any, **options: Any) -> Answer:
    user, conversation, _ = _ENTRIES[key]
    owner = {"conversation_id": named(conversation)} if conversation else {"user_id": named(user or "")}
    return lambda store, _: getattr(store.state, method)("n", key, *values, **owner, **options)


def _start(user: str, chat: str, *, is_idle: bool = False, is_locked: bool = False) -> Answer:
    arguments = named(user), "telegram", chat, named("new"), "new", timedelta(0) if is_idle else None, None
    call: Call[Any] = Call("app_get_or_start_conversation", 1 + len(arguments) + 1)
    return lambda _, sender: sender.call(call, *arguments, is_locked)


async def _lose_a_key_to_another_call(store: Store, sender: OneConnection) -> Any:
    """Append two messages, the second of which is not inserted at first, as if another call held its key."""
    await sender.connection.execute(_SKIP_ONCE)
    keys = ["first key", "of the second alone, in c1"]
    row = {
        "message_ids": keys, "roles": ["user"] * 2, "contents": ["x", "skip once"], "token_counts": [None] * 2,
        "ids": [named(key) for key in keys], "fingerprints": [None] * 2, "created_ats": [_LONG_AGO] * 2,
        "parent_ids": [None] * 2, "tool_call_ids": [None] * 2, "tool_names": [None] * 2, "models": [None] * 2,
        "input_tokens": [None] * 2, "output_tokens": [None] * 2, "states": ["complete"] * 2,
        "edited_ats": [None] * 2, "parts": [None] * 2, "attachments": ["[]"] * 2, "metadata": ["{}"] * 2,
    }  # fmt: skip
    return await sender.call(Call("app_append_messages", 3 + len(row)), named("c1"), None, *row.values())


_SKIP_ONCE: Final = """
    CREATE FUNCTION skip_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF coalesce(current_setting('test.skipped', true), '') = '' THEN
            PERFORM set_config('test.skipped', 'yes', true);
            RETURN NULL;
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER skip_once BEFORE INSERT ON message_history
        FOR EACH ROW WHEN (NEW.content = 'skip once') EXECUTE FUNCTION skip_once();
"""

CALLS: Final[Mapping[str, Answer]] = {
    **{name: _of_the_store(call) for name, call in STORE_CALLS.items()},
    "user, none": lambda store, _: store.user_by_telegram_id(5),
    "create user": lambda store, _: store.get_or_create_user(5),
    **{f"user, {subject}": _by_identity(subject) for subject in _IDENTITIES},
    **{f"turn, {subject}": _turn_by_identity(subject) for subject in _IDENTITIES},
    "append where nothing is": _append("of the second alone", "x"),
    "append many where nothing is": _append("of the second alone", "x", "y"),
    "append again": _append("c1", "in c1"),
    "append another's key": _append("c1", "of the second alone, in c1"),
    "append many, one again": _append("c1", "new", "in c1"),
    "append many, another's key": _append("c1", "new", "of the second alone, in c1"),
    "append many, of another chat": _append("c1", "in in another chat"),
    "append many, of another user": _append("c1", "in in the same group"),
    "append many, of an earlier user": _append("unnamed", "in unnamed, before u1"),
    "append many, of a deleted conversation": _append("c1", "in deleted"),
    "append many, a key lost": _lose_a_key_to_another_call,
    "append, expecting": _append("c1", "of the second alone, in c1", expected_last_seq=0),
    "append many, expecting": _append("c1", "in c1", "of the second alone, in c1", expected_last_seq=0),
    "open": _open("c1"),
    "open, another's": _open("of the second alone, u1"),
    "open, deleted": _open("deleted in both"),
    "open, no user": _open("new", "of the second alone"),
    "clear, another's": lambda store, _: store.clear(named("of the second alone")),
    "pop, another's": lambda store, _: store.pop(named("of the second alone")),
    "claim the turn, another's": lambda store, _: store.claim_turn(named("of the second alone"), "w"),
    "renew the turn, another's": lambda store, _: store.renew_turn(_turn("of the second alone")),
    "release the turn, another's": lambda store, _: store.release_turn(_turn("of the second alone")),
    "release the turn": lambda store, _: store.release_turn(_turn("c1")),
    "delete, another's": lambda store, _: store.delete_conversation(named("of the second alone")),
    "fork, deleted": lambda store, _: store.fork(named("deleted")),
    "fork, cleared": _fork_cleared,
    "fork under another's id": lambda _, sender: sender.call(
        Call("app_fork_conversation", 6), named("c1"), 1, named("of the second alone"), "new", "{}"
    ),
    **{
        f"{method}, {key}": _state(method, key, *values)
        for method, *values in (("get_by_key",), ("page_by_prefix",), ("set", 1), ("delete_by_key",))
        for key in _ENTRIES
    },
    "page_by_prefix, descending": _state("page_by_prefix", "of u1", descending=True),
    "set, if unchanged": _state("set", "of u1", 1, expected_version=1),
    "set, missing": lambda _, sender: sender.call(
        Call("app_set_state", 11),
        named("u1"),
        None,
        "n",
        ["of the second alone"],
        [named("new")],
        ["1"],
        [None],
        None,
        False,
        7,
    ),
    "start, another's": _start("u1", "7"),
    "start and lock, another's": _start("u1", "7", is_locked=True),
    "start, idle": _start("u1", "1", is_idle=True),
    "start, no user": _start("of the second alone", "8"),
    "turn, idle": lambda store, _: store.turn(1, "telegram", "1", [a_message("t")], idle_timeout=timedelta(0)),
    "claim, one": lambda store, _: store.claim_due_reminders("w", limit=1),
    "recent, deleted": lambda store, _: store.recent(named("deleted")),
    "recent, deleted, by tokens": lambda store, _: store.recent(named("deleted"), token_budget=100),
    "latest, of a user of the second alone": lambda store, _: store.latest_conversations(named("of the second alone")),
    "page since, of the second alone": lambda store, _: store.page_since(
        _LONG_AGO, conversation_id=named("of the second alone")
    ),
    "page since, deleted": lambda store, _: store.page_since(_LONG_AGO, conversation_id=named("deleted")),
    "stream, deleted": lambda store, _: listed(store.stream_conversation(named("deleted"))),
    "search, of the second alone": lambda store, _: store.search(named("of the second alone"), "of"),
    "page, deleted": lambda store, _: store.page(named("deleted")),
}
"""The calls of the first tenant, on its own ids."""


async def answers(
    connection: asyncpg.Connection[Any], names: Iterable[str] = CALLS, rewrite: Callable[[str], str] = str
) -> AsyncGenerator[tuple[str, Any, list[str]], None]:
    """Make calls as the first tenant, and undo each; yield its name, what it returned or raised, what it sent.

    Args:
        connection: A superuser's connection, in a transaction.
        names: The calls.
        rewrite: Changes a statement before it is sent.
    """
    sent: list[str] = []

    def record(sql: str) -> str:
        sent.append(sql)
        return rewrite(sql)

    sender = OneConnection(connection, FIRST, record)
    before = await state_of(connection)
    await connection.execute(f"SET LOCAL statement_timeout = '{_ANSWER_SECONDS}s'")
    for name in names:
        sent.clear()
        sender.received.clear()
        savepoint = connection.transaction()
        await savepoint.start()
        try:
            found = _known([await CALLS[name](Store(sender), sender), list(sender.received)])
            if await state_of(connection) != before:
                found = "the other tenant's rows have changed"
        except Exception as error:  # noqa: BLE001 - an error is an answer
            found = type(error).__name__
        await savepoint.rollback()
        yield name, found, list(sent)


async def state_of(connection: asyncpg.Connection[Any]) -> list[Any]:
    """Return a digest of the second tenant's rows of each table."""
    digests = " UNION ALL ".join(
        f"SELECT '{table.name}', md5(string_agg(t::text, '' ORDER BY id)) FROM {table.name} t WHERE tenant_id = $1"  # noqa: S608
        for table in tenant_tables()
    )
    rows: list[Any] = await connection.fetch(digests, SECOND)
    return rows


_IDS: Final = {named(name) for name in (*_USERS, *_CONVERSATIONS, *_EVENTS, *_ENTRIES)}


def _known(part: Any) -> Any:
    """Return an answer without what differs from run to run: new ids, and times of today."""
    if isinstance(part, UUID):
        return part if part in _IDS else "a new id"
    if isinstance(part, datetime):
        return part if part.year == _LONG_AGO.year else "today"
    if isinstance(part, str):
        return part if part in _KEPT or part.startswith("of ") else "text"
    if isinstance(part, asyncpg.Record | dict):
        return [_known(value) for value in part.values()]
    if isinstance(part, Latest | Turn):
        part = [getattr(part, field.name) for field in fields(part)]
    if isinstance(part, list | tuple):
        return [_known(value) for value in part]
    items = getattr(part, "items", None)
    return _known(items) if isinstance(items, list | tuple) else part


_KEPT: Final = {"inserted", "duplicate", "no_conversation", "other_content", "other_chat"}
