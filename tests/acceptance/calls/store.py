"""The calls of the store, and a store that records its statements."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final

from src.database.base import uuid7
from src.database.repositories import NewMessage
from src.database.session import get_engine, tenant_binding
from src.database.store import Identity, StateStore, Store, StorePool
from src.database.store.calls import Calls
from tests.acceptance.calls.conversations import held
from tests.acceptance.calls.messages import AT, items
from tests.acceptance.calls.rows import Call, Rows, a_message, listed
from tests.acceptance.calls.state import BY_KEY

__all__ = ["CALLS", "STATE", "Sent", "recorded_store"]

Sent = tuple[str, tuple[Any, ...]]
"""A statement and its arguments."""


async def messages_of(store: Store, rows: Rows, *, limit: int) -> list[Any]:
    """Return the first messages of a stream, and close the stream."""
    found: list[Any] = []
    async with aclosing(store.stream_messages(rows.user)) as messages:
        async for message in messages:
            found.append(message)
            if len(found) == limit:
                break
    return found


async def page_items(store: Store, rows: Rows) -> list[Any]:
    return list((await store.page(rows.conversation, limit=1)).items)


async def open_own(store: Store, _: Rows) -> Any:
    user, _created = await store.get_or_create_user(1)
    return await store.open_conversation("own", user.id)


def with_state(call: Call, store: Store, rows: Rows) -> Awaitable[Any]:
    return call.run(store.state, rows)


async def hold_lease(state: StateStore) -> None:
    async with state.lease(str(uuid7())):
        pass


def new() -> NewMessage:
    return a_message(str(uuid7()))


STATE: Final = "state."
"""The prefix of the calls of `Store.state`."""
CALLS: Final = {
    "user_by_telegram_id": Call(lambda s, _: s.user_by_telegram_id(1), statements=1),
    "get_or_create_user": Call(lambda s, _: s.get_or_create_user(1), statements=1, makes_rows=True),
    "get_or_create_by_identity": Call(
        lambda s, _: s.get_or_create_by_identity("google", "same"), statements=1, makes_rows=True
    ),
    "append": Call(lambda s, b: s.append(b.conversation, new()), statements=1),
    "append_many": Call(lambda s, b: s.append_many(b.conversation, [new(), new()]), statements=1),
    "recent": Call(lambda s, b: s.recent(b.conversation), statements=1),
    "recent, by tokens": Call(lambda s, b: s.recent(b.conversation, token_budget=100), statements=1),
    "last": Call(lambda s, b: s.last(b.conversation), statements=1),
    "page": Call(page_items, statements=1),
    "page_since": Call(lambda s, b: items(s.page_since(AT, conversation_id=b.conversation)), statements=1),
    "page_since, of a user": Call(lambda s, b: items(s.page_since(AT, user_id=b.user)), statements=1),
    "search": Call(lambda s, b: items(s.search(b.user, "secret or x or of")), statements=1),
    "latest_conversations": Call(lambda s, b: items(s.latest_conversations(b.user)), statements=1),
    "stream_conversation": Call(lambda s, b: listed(s.stream_conversation(b.conversation)), statements=1),
    "open_conversation": Call(open_own, statements=2, makes_rows=True),
    "clear": Call(lambda s, b: s.clear(b.conversation), statements=1),
    "renew_turn": Call(lambda s, b: s.renew_turn(held(b)), statements=1),
    "release_turn": Call(lambda s, b: s.release_turn(held(b)), statements=1),
    "claim_turn": Call(lambda s, b: s.claim_turn(b.conversation, "thief"), statements=1),
    "pop": Call(lambda s, b: s.pop(b.conversation), statements=1),
    "fork": Call(lambda s, b: s.fork(b.conversation), statements=1),
    "turn": Call(lambda s, _: s.turn(1, "telegram", "1", [new()]), statements=1, makes_rows=True),
    "turn, by identity": Call(
        lambda s, _: s.turn(Identity("google", "same"), "telegram", "1", [new()]), statements=1, makes_rows=True
    ),
    "stream_messages": Call(lambda s, b: messages_of(s, b, limit=1000), statements=1),
    "stream_messages, in part": Call(lambda s, b: messages_of(s, b, limit=1), statements=1),
    "claim_due_reminders": Call(lambda s, _: s.claim_due_reminders("w"), statements=1),
    **{f"{STATE}{name}": replace(call, run=partial(with_state, call)) for name, call in BY_KEY.items()},
    f"{STATE}lease": Call(lambda s, _: hold_lease(s.state), statements=2, makes_rows=True),
    "delete_conversation": Call(lambda s, b: s.delete_conversation(b.conversation), statements=1),
}


class _Wire:
    """A connection of the driver that records the statements of the store, and may change them before they are sent."""

    def __init__(self, connection: Any, sent: list[Sent], rewrite: Callable[[str], str]) -> None:
        self._connection = connection
        self._sent = sent
        self._rewrite = rewrite

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def fetch(self, statement: str, *arguments: Any, **options: Any) -> Any:
        return self._connection.fetch(self._record(statement, arguments), *arguments, **options)

    def cursor(self, statement: str, *arguments: Any, **options: Any) -> Any:
        return self._connection.cursor(self._record(statement, arguments), *arguments, **options)

    def _record(self, statement: str, arguments: tuple[Any, ...]) -> str:
        statement = self._rewrite(statement)
        self._sent.append((statement, arguments))
        return statement


@asynccontextmanager
async def recorded_store(rewrite: Callable[[str], str] = str) -> AsyncIterator[tuple[Store, list[Sent]]]:
    """Yield a store with its own connections, and the list of its statements.

    Args:
        rewrite: Changes a statement before it is sent.
    """
    engine = get_engine("store")
    sent: list[Sent] = []

    async def open_connection() -> Any:
        return _Wire(await engine.open_connection(), sent, rewrite)

    pool = StorePool(open_connection, engine.limits)
    try:
        yield Store(Calls(pool, tenant_binding())), sent
    finally:
        await pool.close()
