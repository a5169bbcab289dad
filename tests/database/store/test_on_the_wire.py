"""The round trips of the store's calls, also behind PgBouncer, and the time that a silent server costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import URL, text

from src.config import Settings
from src.database import get_db, get_engine, get_read_db, tenant_context
from src.database.base import uuid7
from src.database.errors import CommitOutcomeUnknown, ConnectionFailed, NotFoundError
from src.database.models import Tenant
from src.database.repositories import MessageHistoryRepository, Turn
from src.database.session import engines_of_loop
from src.database.store import Identity, Store, get_store
from tests.acceptance.counting_relay import Relay, relaying
from tests.acceptance.pgbouncer import needs_kept_statements, needs_pgbouncer, pgbouncer
from tests.conftest import SOCKETS, url_of
from tests.database import mute_relay
from tests.database.store.paths import ByStore, new_message

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
CALLS: dict[str, Callable[[Store, UUID], Awaitable[object]]] = {
    "user_by_telegram_id": lambda store, _: store.user_by_telegram_id(1),
    "get_or_create_user": lambda store, _: store.get_or_create_user(1),
    "get_or_create_user, a new one": lambda store, _: store.get_or_create_user(time.time_ns()),
    "get_or_create_by_identity": lambda store, _: store.get_or_create_by_identity("google", "1"),
    "get_or_create_by_identity, a new one": lambda store, _: store.get_or_create_by_identity("google", str(uuid7())),
    "append": lambda store, there: store.append(there, new_message(uuid7())),
    "append, a duplicate": lambda store, there: store.append(there, new_message("first")),
    "append_many": lambda store, there: store.append_many(there, [new_message(uuid7()) for _ in range(50)]),
    "recent": lambda store, there: store.recent(there, limit=20),
    "recent by tokens": lambda store, there: store.recent(there, token_budget=1000),
    "last": lambda store, there: store.last(there, 20),
    "page": lambda store, there: store.page(there),
    "page_since": lambda store, there: store.page_since(LONG_AGO, conversation_id=there),
    "search": lambda store, there: store.search(there, "hello"),
    "latest_conversations": lambda store, there: store.latest_conversations(there),
    "claim_turn": lambda store, there: store.claim_turn(there, "w"),
    "release_turn": lambda store, there: store.release_turn(Turn(there, "w", 1, LONG_AGO)),
    "pop": lambda store, there: store.pop(there),
    "fork": lambda store, there: store.fork(there),
    "turn": lambda store, _: store.turn(
        1, "telegram", "1", [new_message(uuid7()), new_message(uuid7(), role="assistant")]
    ),
    "turn, a new user": lambda store, _: store.turn(time.time_ns(), "telegram", "1", [new_message(uuid7())]),
    "turn, by identity": lambda store, _: store.turn(Identity("google", "1"), "web", "1", [new_message(uuid7())]),
    "turn, a new identity": lambda store, _: store.turn(
        Identity("google", str(uuid7())), "web", "1", [new_message(uuid7())]
    ),
    "turn, silent for too long": lambda store, _: store.turn(
        1, "telegram", "idle", [new_message(uuid7())], idle_timeout=timedelta(0)
    ),
    "claim_due_reminders": lambda store, _: store.claim_due_reminders("w"),
    "state.get_by_key": lambda store, there: store.state.get_by_key("a", "b", conversation_id=there),
    "state.page_by_prefix": lambda store, _: store.state.page_by_prefix("a", "b"),
    "state.page_by_prefix, descending": lambda store, _: store.state.page_by_prefix("a", "b", descending=True),
    "state.set": lambda store, there: store.state.set("a", "b", {"c": 1}, conversation_id=there),
    "state.set_many": lambda store, _: store.state.set_many("a", {"b": 1, "c": b"2"}, expires_in=timedelta(days=1)),
    "state.merge": lambda store, _: store.state.merge("a", "b", {"c": 1}),
    "state.delete_by_key": lambda store, _: store.state.delete_by_key("a", "b"),
}


# Without a predicate: a transaction that is bound to another tenant returns that tenant's id.
TENANTS_SEEN = text("SELECT DISTINCT tenant_id FROM message_history UNION SELECT DISTINCT tenant_id FROM users")
FIRST_CALL_TRIPS = 4
"""On a new connection, beside its start: it is set up, and the statement is prepared and executed."""


@pytest.fixture
async def relay(cloned_database: URL, use_database: Callable[..., Settings]) -> AsyncIterator[Relay]:
    async with relaying(SOCKETS) as relay:
        use_database(relay.lead_to(cloned_database))
        yield relay
        await get_engine("store").dispose()


async def test_each_call_is_one_round_trip_whatever_tenant_the_connection_served_before(relay: Relay) -> None:
    tenants = [uuid7() for _ in range(3)]
    async with get_db() as session:
        session.add_all(Tenant(id=one, slug=str(one), name="x") for one in tenants)
    chats = {}
    for tenant in tenants:
        with tenant_context(tenant):
            chats[tenant] = (await ByStore().turn(1, "1", [new_message("first")])).conversation_id
    cost: dict[str, list[int]] = {}
    for name, call in CALLS.items():
        for tenant in tenants:
            with tenant_context(tenant):
                relay.sent.clear()
                await call(get_store(), chats[tenant])
            cost.setdefault(name, []).append(len(relay.sent))

    # The first call of a kind prepares its statement on the connection in a round trip of its own; the turn's is known.
    # The turn of an identity sends jsonb[] first, a type that the driver looks up once on a connection.
    assert {name: trips[1:] for name, trips in cost.items()} == {name: [1, 1] for name in CALLS}
    assert {name for name, trips in cost.items() if trips[0] > 2} == {"turn, by identity"}


async def test_the_first_call_on_a_new_connection_connects_and_prepares(relay: Relay) -> None:
    """The schema is checked once a store, not once a connection."""
    cost = []
    for _ in range(2):
        relay.passed = relay.starts = 0
        relay.sent.clear()
        await get_store().get_or_create_user(1)
        cost.append((relay.starts, len(relay.sent)))
        relay.sent.clear()
        await get_store().get_or_create_user(1)
        cost.append((0, len(relay.sent)))
        await get_store().pool.close()

    first, then, second, last = cost
    assert then == last == (0, 1)
    assert second == (1, FIRST_CALL_TRIPS)
    assert first[1] >= second[1]


@needs_pgbouncer
async def test_behind_pgbouncer_a_call_is_one_transaction_and_two_round_trips_without_errors(
    cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    """Without the driver's statement cache each call parses first (Flush), and then binds and executes (Sync)."""
    tenants = [uuid7() for _ in range(4)]
    use_database(cloned_database)
    async with get_db() as session:
        session.add_all(Tenant(id=one, slug=str(one), name="x") for one in tenants)
    with pgbouncer(SOCKETS, pool_size=4) as bouncer:
        async with relaying(bouncer.sockets) as relay:
            use_database(relay.lead_to(cloned_database), DATABASE_PGBOUNCER="true")
            chats, sent = {}, {}
            for tenant in tenants:
                with tenant_context(tenant):
                    chats[tenant] = (await ByStore().turn(1, "1", [new_message("first")])).conversation_id
            for name, call in CALLS.items():
                for tenant in tenants[:2]:
                    with tenant_context(tenant):
                        relay.sent.clear()
                        await call(get_store(), chats[tenant])
                        sent[name] = list(relay.sent)
            await get_engine("store").dispose()
        use_database(bouncer.url(str(cloned_database.database), pool_max="16"), DATABASE_PGBOUNCER="true")

        async def call_one(number: int) -> object:
            tenant = tenants[number % len(tenants)]
            with tenant_context(tenant):
                if number % 3:
                    return await get_store().user_by_telegram_id(1)
                return await get_store().append(chats[tenant], new_message(f"n{number}"))

        results = await asyncio.gather(*(call_one(number) for number in range(2000)), return_exceptions=True)
        await get_engine("store").dispose()

    assert {name: len(letters) for name, letters in sent.items()} == dict.fromkeys(CALLS, 2)
    assert {name: letters.count("S") for name, letters in sent.items()} == dict.fromkeys(CALLS, 1), "one transaction"
    assert [one for one in results if isinstance(one, BaseException)] == []


@pytest.mark.slow
@needs_kept_statements
async def test_behind_a_pgbouncer_that_keeps_prepared_statements_a_call_is_one_round_trip_without_errors(
    cloned_database: URL, use_database: Callable[..., Settings], superuser: psycopg.Connection
) -> None:
    """The driver's statement cache is on, and each call is another tenant's; 4 connections serve sessions and store."""
    tenants = [uuid7() for _ in range(20)]
    use_database(cloned_database)
    async with get_db() as session:
        session.add_all(Tenant(id=one, slug=str(one), name="x") for one in tenants)
    prepared = {"DATABASE_PGBOUNCER": "true", "DATABASE_PGBOUNCER_PREPARED": "true"}
    with pgbouncer(SOCKETS, pool_size=4, prepared_statements=200) as bouncer:
        async with relaying(bouncer.sockets) as relay:
            use_database(relay.lead_to(cloned_database), **prepared)
            chats, users, sent = {}, {}, {}
            for tenant in tenants:
                with tenant_context(tenant):
                    turn = await ByStore().turn(1, "1", [new_message("first")])
                chats[tenant], users[tenant] = turn.conversation_id, turn.user_id
            for name, call in CALLS.items():
                for tenant in tenants[:2]:
                    with tenant_context(tenant):
                        relay.sent.clear()
                        await call(get_store(), chats[tenant])
                        sent[name] = list(relay.sent)
            await get_engine("store").dispose()
        use_database(bouncer.url(str(cloned_database.database), pool_max="16"), **prepared)

        async def call_one(number: int) -> None:
            tenant = tenants[number % len(tenants)]
            with tenant_context(tenant):
                if number % 4 == 0:
                    await get_store().append(chats[tenant], new_message(f"n{number}"))
                elif number % 4 == 1:
                    assert await get_store().user_by_telegram_id(1) is not None
                elif number % 40 == 2:
                    streamed = [row.conversation_id async for row in get_store().stream_messages(users[tenant])]
                    assert chats[tenant] in streamed
                elif number % 4 == 2:
                    async with get_db() as session:
                        assert set(await session.scalars(TENANTS_SEEN)) == {tenant}
                else:
                    async with get_read_db() as session:
                        read = await MessageHistoryRepository(session).recent(chats[tenant])
                        assert {message.tenant_id for message in read} == {tenant}

        results = await asyncio.gather(*(call_one(number) for number in range(2000)), return_exceptions=True)
        ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
        superuser.execute(f"{ended} AND pid <> pg_backend_pid()")
        later = await asyncio.gather(*(call_one(2000 + number) for number in range(200)), return_exceptions=True)
        for one in engines_of_loop().values():
            await one.dispose()

    assert sent == {name: ["S"] for name in CALLS}
    assert [one for one in results if one is not None] == []
    assert [one for one in later if one is not None] == [], "a new server connection has prepared nothing"


@needs_pgbouncer
async def test_behind_pgbouncer_each_transaction_is_bound_by_itself(
    cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    tenants = [uuid7() for _ in range(4)]
    use_database(cloned_database)
    async with get_db() as session:
        session.add_all(Tenant(id=one, slug=str(one), name="x") for one in tenants)

    with pgbouncer(SOCKETS, pool_size=3) as bouncer:
        use_database(bouncer.url(str(cloned_database.database), pool_max="8"), DATABASE_PGBOUNCER="true")

        async def serve(tenant: UUID, caller: int) -> tuple[UUID, set[str]]:
            with tenant_context(tenant):
                for number in range(5):
                    turn = await get_store().turn(1, "telegram", "1", [new_message(f"{tenant}:{caller}:{number}")])
                rows = await get_store().recent(turn.conversation.id, limit=1000)
            return turn.conversation.id, {row.message_id for row in rows}

        served = await asyncio.gather(*(serve(tenant, caller) for tenant in tenants for caller in range(4)))
        for place, (conversation_id, keys) in enumerate(served):
            tenant = tenants[place // 4]
            assert all(key.startswith(str(tenant)) for key in keys)
            with tenant_context(tenant):
                stored = await get_store().recent(conversation_id, limit=1000)
            assert [row.seq for row in stored] == list(range(1, 21))
        await get_engine("store").dispose()


async def test_calls_to_a_silent_server_end_and_a_write_is_reported_as_uncertain(
    cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    with mute_relay.relaying() as relay:
        assert cloned_database.database is not None
        url = url_of(cloned_database.database).set(host="127.0.0.1", port=relay.port, query={"pool_max": "1"})
        use_database(url, DATABASE_STATEMENT_TIMEOUT="100", DATABASE_CONNECT_TIMEOUT="1")
        await ByStore().user(1)
        with pytest.raises(NotFoundError):  # prepares the statement: the next call sends it
            await get_store().append(uuid7(), new_message("x"))
        slot = get_store().pool._idle[0]
        slot.connection._config = slot.connection._config._replace(command_timeout=0.3)
        relay.fall_silent()
        since = time.monotonic()

        with pytest.raises(CommitOutcomeUnknown, match="call again with the same arguments"):
            await get_store().append(uuid7(), new_message("x"))
        with pytest.raises(ConnectionFailed):
            await ByStore().user(1)

        assert time.monotonic() - since < 5
        await get_engine("store").dispose()
