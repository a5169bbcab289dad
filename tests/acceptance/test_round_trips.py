"""Round trips of sessions, and connections that are cut at any round trip."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import URL, select, text

from src.config import Settings
from src.database import engine, get_db, get_read_db
from src.database.base import uuid7
from src.database.errors import ConnectionFailed, DatabaseError
from src.database.models import Tenant, User
from src.database.repositories import ConversationRepository, MessageHistoryRepository, NewMessage, UserRepository
from src.database.session import AsyncSession, SessionScope, tenant_context
from src.database.session.scopes import read_engine
from tests.acceptance.calls import Rows, a_message, fill
from tests.acceptance.counting_relay import Relay

FIRST_CALL_TRIPS = 8
READ = select(User.display_name).order_by(User.display_name)


async def dispose() -> None:
    await engine.dispose()
    await read_engine.dispose()


async def read(session: AsyncSession, times: int = 1) -> list[str | None]:
    found: list[str | None] = []
    for _ in range(times):
        found = list(await session.scalars(READ))
    return found


async def cost(relay: Relay, scope: Callable[[], SessionScope[AsyncSession]], times: int) -> int:
    """Return the round trips of a session with this number of reads, on a warm connection."""
    for _ in range(2):
        relay.sent.clear()
        async with scope() as session:
            await read(session, times)
    return len(relay.sent)


@pytest.mark.fast_path
@pytest.mark.parametrize(("reads", "trips"), [(1, 3), (2, 4), (5, 7)])
async def test_a_callers_reads_are_begin_with_the_binding_the_statements_and_rollback(
    relay: Relay, reads: int, trips: int
) -> None:
    assert await cost(relay, get_read_db, reads) == trips
    assert relay.starts == 1, "the pool's one connection served throughout"


@pytest.mark.fast_path
async def test_count_and_exists_of_a_read_session_are_one_round_trip_each(relay: Relay) -> None:
    async with get_db() as session:
        session.add_all([User(display_name="a"), User(display_name="b")])
    for _ in range(2):  # the first time, the statements are prepared
        relay.sent.clear()
        async with get_read_db() as session:
            users = UserRepository(session)
            found = await users.count(), await users.count(User.display_name == "a"), await users.exists()
            missing = await users.exists(User.display_name == "c")

    assert (*found, missing) == (2, 1, True, False)
    assert len(relay.sent) == 4
    relay.sent.clear()
    with tenant_context(uuid7()):
        async with get_read_db() as session:
            assert (await UserRepository(session).count(), await UserRepository(session).exists()) == (0, False)
    assert len(relay.sent) == 2, "another tenant's, on the same connection"


@pytest.mark.fast_path
@pytest.mark.parametrize(("reads", "trips"), [(0, 0), (1, 3), (2, 4)])
async def test_a_session_is_begin_and_binding_in_one_commit_and_its_statements(
    relay: Relay, reads: int, trips: int
) -> None:
    async def scope_cost() -> int:
        return await cost(relay, get_db, reads)

    assert await scope_cost() == trips


@pytest.mark.fast_path
async def test_a_read_of_another_tenant_costs_the_same_and_sees_only_its_rows(relay: Relay) -> None:
    async with get_db() as session:
        session.add(User(display_name="of the default tenant"))
    assert await cost(relay, get_read_db, 1) == 3

    relay.sent.clear()
    with tenant_context(uuid7()):
        async with get_read_db() as session:
            found = await read(session)

    assert found == []
    assert len(relay.sent) == 3


@pytest.mark.fast_path
async def test_checking_out_and_releasing_a_warm_connection_sends_nothing(relay: Relay) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    relay.sent.clear()

    async with engine.connect():
        pass

    assert relay.sent == []
    assert relay.starts == 1


WRITES: dict[str, Callable[[AsyncSession, Rows, int], Awaitable[object]]] = {
    "append": lambda session, rows, n: MessageHistoryRepository(session).append(rows.conversation, a_message(str(n))),
    "append, a duplicate": lambda session, rows, _: MessageHistoryRepository(session).append(
        rows.conversation, NewMessage(message_id="same", role="user", content="secret")
    ),
    "append_many": lambda session, rows, n: MessageHistoryRepository(session).append_many(
        rows.conversation, [a_message(f"{n}:{place}") for place in range(20)]
    ),
    "get_or_create": lambda session, *_: UserRepository(session).get_or_create_by_telegram_id(1),
    "get_or_create, a new one": lambda session, _, n: UserRepository(session).get_or_create_by_telegram_id(100 + n),
    "get_or_start": lambda session, rows, _: ConversationRepository(session).get_or_start(rows.user, "telegram", "1"),
    "get_or_start, a new one": lambda session, rows, n: ConversationRepository(session).get_or_start(
        rows.user, "telegram", f"chat {n}"
    ),
}


@pytest.mark.fast_path
async def test_a_write_of_a_repository_is_three_round_trips_whatever_tenant_the_connection_served_before(
    relay: Relay,
) -> None:
    """BEGIN with the binding, the call, COMMIT. The first call of a kind also prepares its statement.

    Appending a duplicate also reads the stored message.
    """
    tenants = [uuid7() for _ in range(3)]
    async with get_db() as session:
        session.add_all(Tenant(id=one, slug=str(one), name="T") for one in tenants)
    rows = {}
    for tenant in tenants:
        with tenant_context(tenant):
            async with get_db() as session:
                rows[tenant] = await fill(session)
    trips: dict[str, list[int]] = {}
    for name, write in WRITES.items():
        for number, tenant in enumerate(tenants):
            with tenant_context(tenant):
                relay.sent.clear()
                async with get_db() as session:
                    await write(session, rows[tenant], number)
                trips.setdefault(name, []).append(len(relay.sent))

    expected = dict.fromkeys(WRITES, 3) | {"append, a duplicate": 4}
    assert {name: cost[1:] for name, cost in trips.items()} == {name: [cost] * 2 for name, cost in expected.items()}
    assert {name for name, cost in trips.items() if cost[0] > FIRST_CALL_TRIPS} == set(), trips


@pytest.mark.parametrize("read_your_writes", [False, True])
async def test_the_server_rejects_a_write_in_a_read_session(relay: Relay, read_your_writes: bool) -> None:
    with pytest.raises(DatabaseError, match="the transaction is read-only"):
        async with get_read_db(read_your_writes=read_your_writes) as session:
            await session.execute(text("INSERT INTO users (tenant_id, id) SELECT id, id FROM tenants"))
    with pytest.raises(DatabaseError, match="the transaction is read-only"):
        async with get_read_db(read_your_writes=read_your_writes) as session:
            session.add(User(display_name="added, and sent by the commit"))

    async with get_db() as session:
        assert await read(session) == []


async def test_a_callers_own_set_ends_with_the_session(relay: Relay) -> None:
    async with get_read_db() as session:
        await session.execute(text("SET default_transaction_read_only = off"))
        await session.execute(text("SELECT set_config('app.tenant_id', gen_random_uuid()::text, false)"))

    async with get_read_db() as session:
        settings = "SELECT current_setting('transaction_read_only'), current_setting('app.tenant_id')"
        found = (await session.execute(text(settings))).one()

        assert tuple(found) == ("on", str(session.tenant_id))


@pytest.mark.fast_path
async def test_a_stream_reads_in_a_transaction_that_ends_with_the_session(relay: Relay) -> None:
    async with get_db() as session:
        session.add_all([User(display_name=f"{n:04}") for n in range(1000)])

    async with get_read_db() as session:
        streamed = [name async for name in (await session.stream_scalars(READ.execution_options(yield_per=100)))]

    assert streamed == [f"{n:04}" for n in range(1000)]
    relay.sent.clear()
    async with get_read_db() as session:
        await read(session)
    assert len(relay.sent) == 3, "no transaction is left"


async def test_a_snapshot_reads_one_state_while_others_commit(relay: Relay) -> None:
    async def commit(name: str) -> None:
        async with get_db() as session:
            session.add(User(display_name=name))

    await commit("a")
    async with get_read_db() as session:
        assert await read(session) == ["a"]
        await commit("b")
        assert await read(session) == ["a", "b"], "before it, each statement sees what is committed by then"
        await session.snapshot()
        before = await read(session)
        await commit("c")
        during = await read(session)
        streamed = list(await (await session.stream_scalars(READ)).all())
    async with get_read_db() as session:
        after = await read(session)

    assert (before, during, streamed) == (["a", "b"],) * 3
    assert after == ["a", "b", "c"]


@pytest.mark.parametrize("scope", [get_db, get_read_db])
async def test_a_connection_cut_at_any_message_raises_connection_failed(
    scope: Callable[[], SessionScope[AsyncSession]],
    relay: Relay,
    cloned_database: URL,
    use_database: Callable[..., Settings],
) -> None:
    async def trips_on_a_new_engine() -> int:
        await dispose()
        use_database(relay.lead_to(cloned_database))
        relay.passed = 0
        async with scope() as session:
            await read(session, 2)
        return relay.passed

    await trips_on_a_new_engine()  # registers the default tenant
    trips = await trips_on_a_new_engine()
    raised = []
    for number in range(1, trips + 1):
        relay.cut_before = number
        try:
            await trips_on_a_new_engine()
        except Exception as error:  # noqa: BLE001 - the test checks its class
            raised.append(error)

    assert [error for error in raised if not isinstance(error, ConnectionFailed)] == []
    assert len(raised) == trips > 10


@pytest.mark.fast_path
async def test_a_dead_pooled_connection_is_replaced_when_it_is_bound(relay: Relay) -> None:
    assert await cost(relay, get_read_db, 1) == 3

    relay.cut_before = relay.passed + 1
    async with get_read_db() as session:
        await read(session)

    assert relay.starts == 2


async def test_a_read_session_with_a_lost_connection_raises_when_a_tenant_is_set_later(
    relay: Relay, use_database: Callable[..., Settings], cloned_database: URL
) -> None:
    use_database(relay.lead_to(cloned_database), ENVIRONMENT="staging")  # without a default tenant

    async def enter_late() -> None:
        async with get_read_db() as session:
            await session.execute(text("SELECT 1"))
            relay.cut_before = relay.passed + 1
            with tenant_context(uuid7()):
                await read(session)

    with pytest.raises(ConnectionFailed):
        await enter_late()
    async with get_read_db() as session:
        assert await session.scalar(text("SELECT current_setting('app.tenant_id')")) == ""
