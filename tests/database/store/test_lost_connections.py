"""Lost connections of the store: errors report the outcome of a write correctly, and a stream ends in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from importlib import import_module
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database import get_engine, tenant_context
from src.database.base import uuid7
from src.database.errors import ConnectionFailed, DatabaseError
from src.database.store import Store, get_store
from tests.acceptance.counting_relay import Relay, relaying
from tests.acceptance.pgbouncer import needs_pgbouncer, pgbouncer
from tests.conftest import SOCKETS
from tests.database import mute_relay
from tests.database.store.paths import new_message

WRITES: dict[str, Callable[[Store, UUID], Awaitable[object]]] = {
    "append": lambda store, there: store.append(there, new_message(uuid7())),
    "append_many": lambda store, there: store.append_many(there, [new_message(uuid7()), new_message(uuid7())]),
    "turn": lambda store, _: store.turn(1, "telegram", "1", [new_message(uuid7())]),
    "claim_due_reminders": lambda store, _: store.claim_due_reminders("w"),
}
LIMIT_SECONDS, MARGIN_SECONDS = 0.5, 0.2


async def outcomes_of_cuts(
    relay: Relay, begin: Callable[[], object], write: Callable[[], Awaitable[object]]
) -> list[str]:
    """Repeat a new store's first write, the connection cut before the 1st, 2nd, ... round trip, until it succeeds."""
    outcomes: list[str] = []
    while not outcomes or outcomes[-1] != "written":
        begin()
        relay.passed, relay.cut_before = 0, len(outcomes) + 1
        try:
            await write()
        except DatabaseError as error:
            outcomes.append(type(error).__name__)
        else:
            outcomes.append("written")
        await get_engine("store").dispose()
    relay.cut_before = None
    return outcomes


@pytest.mark.parametrize("name", WRITES)
async def test_only_a_write_that_was_sent_is_uncertain(
    pooled: URL, conversation_id: UUID, use_database: Callable[..., Settings], name: str
) -> None:
    async with relaying(SOCKETS) as relay:
        outcomes = await outcomes_of_cuts(
            relay, lambda: use_database(relay.lead_to(pooled)), lambda: WRITES[name](get_store(), conversation_id)
        )

    *before, last, written = outcomes
    assert (last, written) == ("CommitOutcomeUnknown", "written")
    assert len(before) > 3, "connecting, binding the tenant and preparing the statement"
    assert set(before) == {"ConnectionFailed"}


@needs_pgbouncer
async def test_behind_pgbouncer_only_a_write_whose_commit_was_sent_is_uncertain(
    pooled: URL, conversation_id: UUID, use_database: Callable[..., Settings]
) -> None:
    with pgbouncer(SOCKETS) as bouncer:
        url = bouncer.url(str(pooled.database))
        async with relaying(bouncer.sockets) as relay:
            outcomes = await outcomes_of_cuts(
                relay,
                lambda: use_database(relay.lead_to(url), DATABASE_PGBOUNCER="true"),
                lambda: get_store().append(conversation_id, new_message("a")),
            )

    *before, last, written = outcomes
    assert (last, written) == ("CommitOutcomeUnknown", "written")
    assert set(before) == {"ConnectionFailed"}


@pytest.fixture
def short_limits(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Settings with which a call ends after LIMIT_SECONDS."""
    monkeypatch.setattr(import_module("src.database.session.targets"), "COMMAND_MARGIN_SECONDS", MARGIN_SECONDS)
    return {
        "DATABASE_STATEMENT_TIMEOUT": f"{(LIMIT_SECONDS - MARGIN_SECONDS) * 1000:.0f}",
        "DATABASE_CONNECT_TIMEOUT": "1",
    }


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before it begins", "under way"])
async def test_a_stream_from_a_silent_server_ends_within_one_limit(
    pooled: URL, conversation_id: UUID, use_database: Callable[..., Settings], short_limits: dict[str, str], when: str
) -> None:
    await get_store().append_many(conversation_id, [new_message(number) for number in range(1000)])
    await get_store().append(conversation_id, new_message("last"))
    await get_engine("store").dispose()
    with mute_relay.relaying() as relay:
        url = pooled.set(host="127.0.0.1", port=relay.port, query={"pool_max": "1"})
        use_database(url, **short_limits)
        user = await get_store().user_by_telegram_id(1)
        assert user is not None
        async with aclosing(get_store().stream_messages(user.id)) as rows:
            if when == "under way":
                await anext(rows)
            relay.fall_silent()
            since = time.monotonic()

            with pytest.raises(ConnectionFailed):
                async for _ in rows:
                    pass
            took = time.monotonic() - since

        await get_engine("store").dispose()
    assert LIMIT_SECONDS * 0.9 < took < LIMIT_SECONDS * 1.8


@needs_pgbouncer
async def test_a_stream_behind_pgbouncer_is_complete_and_leaves_nothing_on_the_server_connection(
    pooled: URL, conversation_id: UUID, use_database: Callable[..., Settings]
) -> None:
    await get_store().append_many(conversation_id, [new_message(number) for number in range(1000)])
    await get_store().append_many(
        conversation_id, [new_message(number, parts=[{"n": number}]) for number in range(1000, 1005)]
    )
    await get_engine("store").dispose()
    with pgbouncer(SOCKETS, pool_size=1) as bouncer:
        url = bouncer.url(str(pooled.database), pool_max="3")
        use_database(url, DATABASE_PGBOUNCER="true")
        user = await get_store().user_by_telegram_id(1)
        assert user is not None

        async def stream() -> list[str]:
            return [row.message_id async for row in get_store().stream_messages(user.id)]

        streamed = await asyncio.gather(stream(), stream(), stream())
        async with aclosing(get_store().stream_messages(user.id)) as rows:
            first = await anext(rows)
        [*_, last] = await get_store().recent(conversation_id)
        with tenant_context(uuid7()):
            foreign = await stream()
        await get_engine("store").dispose()
        connection = await asyncpg.connect(
            host=str(bouncer.sockets), user=url.username, database=url.database, statement_cache_size=0
        )
        left = await connection.fetchrow(
            "SELECT (SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%message_history%') AS prepared,"
            " (SELECT count(*) FROM pg_cursors WHERE name = 'rows') AS cursors,"
            " current_setting('app.tenant_id', true) AS tenant"
        )
        await connection.close()

    assert list(streamed) == [[str(number) for number in range(1005)]] * 3
    assert (first.message_id, last.parts, foreign) == ("0", [{"n": 1004}], [])
    assert tuple(left) == (0, 0, "")
