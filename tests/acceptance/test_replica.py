"""A streaming replica: reads use it, writes do not, and `read_your_writes` sees recent commits."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from sqlalchemy import URL, text

from src.config import Settings
from src.database import engine, get_db, get_read_db
from src.database.base import uuid7
from src.database.errors import ConnectionFailed, DatabaseError
from src.database.health import CheckResult, readiness
from src.database.models import User
from src.database.repositories import UserRepository
from src.database.session.scopes import read_engine
from tests.acceptance.pgbouncer import needs_pgbouncer, pgbouncer
from tests.acceptance.replication import Pair, running_pair

IS_REPLICA = text("SELECT pg_is_in_recovery()")
INSERT = text("INSERT INTO users (tenant_id, id) SELECT id, id FROM tenants")
Use = Callable[..., Settings]


@pytest.fixture(scope="module")
def running() -> Iterator[Pair]:
    with running_pair() as pair:
        yield pair


@pytest.fixture
async def pair(running: Pair) -> AsyncIterator[Pair]:
    """The pair of the module; the replica has replayed all writes before the test."""
    running.wait_until_streaming()
    yield running
    await engine.dispose()
    await read_engine.dispose()
    running.second.sql("SELECT pg_wal_replay_resume()")


async def add_user() -> int:
    """Commit a user, and return the number of users."""
    async with get_db() as session:
        session.add(User(display_name="Ada"))
        await session.flush()
        return await UserRepository(session).count()


@pytest.mark.parametrize("pool", [{}, {"pool_max": "2"}], ids=["unpooled", "pooled"])
async def test_reads_go_to_the_replica_and_everything_else_to_the_primary(
    pair: Pair, use_database: Use, pool: dict[str, str]
) -> None:
    replica = pair.url(pair.second, **pool).render_as_string(hide_password=False)
    use_database(pair.url(pair.first, **pool), DATABASE_REPLICA_URL=replica)

    async with get_db() as session, get_read_db() as reading, get_read_db(read_your_writes=True) as fresh:
        found = [await each.scalar(IS_REPLICA) for each in (session, reading, fresh)]

    assert found == [False, True, True]


@pytest.mark.parametrize("read_your_writes", [False, True])
@pytest.mark.parametrize(
    "paused", [pytest.param(False, id="in time"), pytest.param(True, id="behind", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("has_replica", [True, False])
async def test_the_server_rejects_a_write_in_a_read_session(
    pair: Pair, use_database: Use, read_your_writes: bool, paused: bool, has_replica: bool
) -> None:
    """On the replica, on the primary in its place, and without a replica."""
    primary = pair.url(pair.first, target_session_attrs="read-write", pool_max="2")
    replica = {"DATABASE_REPLICA_URL": pair.url(pair.second).render_as_string()} if has_replica else {}
    use_database(primary, **replica)
    if paused:
        pair.second.sql("SELECT pg_wal_replay_pause()")
    before = await add_user()

    async def write(*, after_a_commit: bool) -> None:
        async with get_read_db(read_your_writes=read_your_writes) as session:
            if after_a_commit:
                await session.scalar(IS_REPLICA)
                await session.commit()
            await session.execute(INSERT)

    for after_a_commit in (False, True):
        with pytest.raises(DatabaseError, match="the transaction is read-only") as refused:
            await write(after_a_commit=after_a_commit)
        assert not isinstance(refused.value, ConnectionFailed), "no server was lost: the caller is at fault"
    assert await add_user() == before + 1


@pytest.mark.slow
async def test_a_row_just_committed_is_seen_on_the_primary_while_the_replica_is_behind(
    pair: Pair, use_database: Use
) -> None:
    use_database(pair.url(pair.first), DATABASE_REPLICA_URL=pair.url(pair.second).render_as_string())
    async with get_read_db() as session:
        before = await UserRepository(session).count()
    pair.second.sql("SELECT pg_wal_replay_pause()")

    assert await add_user() == before + 1
    async with get_read_db() as session:
        assert await UserRepository(session).count() == before
    async with get_read_db(read_your_writes=True) as session:
        assert await session.scalar(IS_REPLICA) is False
        assert await UserRepository(session).count() == before + 1
        await session.snapshot()
        await add_user()
        assert [row async for row in await session.stream(text("SELECT count(*) FROM users"))] == [(before + 1,)]

    pair.second.sql("SELECT pg_wal_replay_resume()")
    async with get_read_db(read_your_writes=True) as session:
        assert await session.scalar(IS_REPLICA) is True
        assert await UserRepository(session).count() == before + 2


@pytest.mark.slow
async def test_rows_just_committed_are_read_from_the_replica(pair: Pair, use_database: Use) -> None:
    use_database(pair.url(pair.first), DATABASE_REPLICA_URL=pair.url(pair.second).render_as_string())
    for _ in range(20):
        count = await add_user()
        async with get_read_db(read_your_writes=True) as session:
            found = await session.scalar(IS_REPLICA), await UserRepository(session).count()
        assert found == (True, count)


async def test_an_idle_primary_at_the_start_of_a_segment_does_not_seem_ahead(pair: Pair, use_database: Use) -> None:
    """After `pg_switch_wal`, which archive_timeout calls, its position is behind a header that no replica replays."""
    use_database(pair.url(pair.first), DATABASE_REPLICA_URL=pair.url(pair.second).render_as_string())
    async with get_read_db(read_your_writes=True) as session:
        await session.execute(IS_REPLICA)
    pair.first.sql("SELECT pg_switch_wal()")

    started = time.monotonic()
    async with get_read_db(read_your_writes=True) as session:
        assert await session.scalar(IS_REPLICA) is True
    assert time.monotonic() - started < 0.9, "the call waits for WAL that does not arrive"


@pytest.mark.parametrize(
    ("attributes", "reads_replica", "swapped_reads_replica"),
    [
        ("any", False, True),
        ("prefer-standby", True, True),
        ("standby", True, True),
        ("read-only", True, True),
        ("primary", False, False),
        ("read-write", False, False),
    ],
)
async def test_the_first_host_with_the_target_session_attributes_is_used(
    pair: Pair, use_database: Use, attributes: str, reads_replica: bool, swapped_reads_replica: bool
) -> None:
    for nodes, expected in (
        ((pair.first, pair.second), reads_replica),
        ((pair.second, pair.first), swapped_reads_replica),
    ):
        use_database(pair.url(*nodes, target_session_attrs=attributes))
        for scope in (get_db, get_read_db):
            async with scope() as session:
                assert await session.scalar(IS_REPLICA) is expected, scope.__name__


@pytest.mark.slow
@needs_pgbouncer
async def test_behind_pgbouncer_reads_go_to_the_replica_and_see_what_was_written(pair: Pair, use_database: Use) -> None:
    with pgbouncer(str(pair.first.folder)) as first, pgbouncer(str(pair.second.folder)) as second:
        primary = first.url("thea", target_session_attrs="read-write")
        use_database(primary, DATABASE_PGBOUNCER="true", DATABASE_REPLICA_URL=str(second.url("thea")))
        count = await add_user()
        async with get_read_db(read_your_writes=True) as session:
            assert await session.scalar(IS_REPLICA) is True
            assert await UserRepository(session).count() == count
        pair.second.sql("SELECT pg_wal_replay_pause()")
        count = await add_user()
        async with get_read_db(read_your_writes=True) as session:
            assert await session.scalar(IS_REPLICA) is False
            assert await UserRepository(session).count() == count
            with pytest.raises(DatabaseError, match="the transaction is read-only"):
                await session.execute(INSERT)
            await session.rollback()
        assert await add_user() == count + 1


async def test_an_unregistered_default_tenant_does_not_block_reading(pair: Pair, use_database: Use) -> None:
    use_database(pair.url(pair.second), DATABASE_DEFAULT_TENANT=str(uuid7()))

    async with get_db() as session:
        assert await UserRepository(session).count() == 0


@pytest.mark.slow
async def test_readiness_reports_the_lag_of_the_replica(pair: Pair, use_database: Use) -> None:
    use_database(pair.url(pair.first), DATABASE_REPLICA_URL=pair.url(pair.second).render_as_string())

    async def check_replica(*, lag: float = 3600) -> CheckResult:
        report = await readiness(max_replica_lag_seconds=lag, timeout_seconds=20)
        assert report.can_serve, "whatever the replica does, what is written is served"
        return report.checks["replica"]

    await add_user()
    pair.wait_until_streaming()
    in_time = await check_replica()
    pair.second.sql("SELECT pg_wal_replay_pause()")
    await add_user()
    a_little, too_far = await check_replica(), await check_replica(lag=0.001)
    pair.second.sql("SELECT pg_wal_replay_resume()")
    pair.wait_until_streaming()
    caught_up = await check_replica(lag=0.001)

    assert in_time.status == caught_up.status == "healthy"
    assert in_time.found.startswith("the replica has all changes that the primary had ")
    assert (a_little.status, a_little.found.endswith(" s behind")) == ("healthy", True)
    assert (too_far.status, too_far.found.endswith(" s behind")) == ("degraded", True)


async def test_a_missing_replica_is_degraded(pair: Pair, use_database: Use) -> None:
    elsewhere = URL.create("postgresql", "nobody", None, "127.0.0.1", 1, "none")
    for replica in (pair.url(pair.first), elsewhere):
        use_database(pair.url(pair.first), DATABASE_REPLICA_URL=replica.render_as_string())
        report = await readiness(timeout_seconds=20)
        assert (report.status, report.checks["replica"].status) == ("degraded", "degraded")
        assert report.can_serve


async def test_a_replica_without_its_primary_is_checked_too(pair: Pair, use_database: Use) -> None:
    elsewhere = URL.create("postgresql", "nobody", None, "127.0.0.1", 1, "none")
    use_database(elsewhere, DATABASE_REPLICA_URL=pair.url(pair.second).render_as_string())

    report = await readiness(timeout_seconds=20)

    assert report.status == "unhealthy"
    assert report.checks["replica"].found.startswith("a standby answers; ")
