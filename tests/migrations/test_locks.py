"""Migrations beside readers and writers: they release their locks and retry."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psycopg
import pytest
from sqlalchemy import URL
from structlog.testing import capture_logs

from src.config import Settings
from src.database import get_db
from src.database.errors import DatabaseError, LockNotAvailable
from src.database.migrate import Patience, current, migration_connection, upgrade
from src.database.models import User
from src.database.repositories import UserRepository
from tests.migrations.drafts import Drafts

SOON = Patience(lock_seconds=0.25, attempts=20, pause_seconds=0.1)
SLACK = 0.75
"""The seconds that a request may take beside its wait for the lock: the machines of CI are busy."""
ADD_COLUMN = "op.add_column('users', sa.Column('extra_name', sa.Text()))"


@asynccontextmanager
async def traffic() -> AsyncIterator[list[float]]:
    """Run readers and writers of users, each request in a short transaction; yield the seconds of each request."""
    took: list[float] = []

    async def request(*, writes: bool) -> None:
        async with get_db() as session:
            users = UserRepository(session)
            if writes:
                session.add(User(username="Ada"))
                await session.flush()
            else:
                await users.count()

    async def repeat(*, writes: bool) -> None:
        while True:
            began = time.monotonic()
            await request(writes=writes)
            took.append(time.monotonic() - began)
            await asyncio.sleep(0.01)

    await request(writes=True)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(repeat(writes=bool(number % 2))) for number in range(4)]
        yield took
        for task in tasks:
            task.cancel()


@pytest.mark.slow
async def test_a_migration_releases_its_locks_and_retries(
    owner_settings: Settings, drafts: Drafts, another_session: Callable[..., int]
) -> None:
    drafts.add("table", "op.create_table('before_it', sa.Column('id', sa.Integer()))")
    drafts.add("column", ADD_COLUMN)

    async with traffic() as took:
        another_session(3)  # on a busy machine the upgrade needs more than a second to reach the locked table
        with capture_logs() as logs:
            done = await upgrade(owner_settings, folder=drafts.folder, patience=SOON)

    assert [step.name[-6:] for step in done.steps] == [" table", "column"]
    assert [log["event"] for log in logs].count("migration_begins_again") >= 2
    assert len(took) > 20
    assert max(took) < 0.25 + SLACK


async def test_a_migration_without_its_lock_names_the_blocking_session(
    owner_settings: Settings, superuser: psycopg.Connection, drafts: Drafts, another_session: Callable[..., int]
) -> None:
    drafts.add("table", "op.create_table('before_it', sa.Column('id', sa.Integer()))")
    drafts.add("column", ADD_COLUMN)
    pid = another_session(2)

    with pytest.raises(LockNotAvailable, match="given up after 3 attempts; the earlier steps are committed") as caught:
        await upgrade(
            owner_settings, folder=drafts.folder, patience=Patience(lock_seconds=0.2, attempts=3, pause_seconds=0.05)
        )

    assert f"held by pid {pid} " in str(caught.value)
    assert caught.value.sqlstate == "55P03"
    assert await current(owner_settings) == ("table",)


@pytest.mark.slow
async def test_the_progress_and_the_blockers_of_a_long_index_are_logged(
    owner_settings: Settings, drafts: Drafts, another_session: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.database.migrate.lock.FIRST_OBSERVATION_SECONDS", 0.1)
    monkeypatch.setattr("src.database.migrate.lock.OBSERVATION_SECONDS", 0.1)
    drafts.add("index", "create_index_concurrently('ix_x', 'users', ['tenant_id'])")
    pid = another_session(2, writes=True)

    with capture_logs() as logs:
        await upgrade(owner_settings, folder=drafts.folder)

    waits = next(log for log in logs if log["event"] == "migration_waits")
    built = next(log for log in logs if log["event"] == "index_is_built")
    assert waits["held_by"].startswith(f"pid {pid} (")
    assert (built["table"], built["phase"]) == ("users", "waiting for writers before build")


async def test_a_deadlock_is_retried(owner_settings: Settings, superuser: psycopg.Connection, drafts: Drafts) -> None:
    superuser.execute("CREATE SEQUENCE runs")
    superuser.execute("GRANT ALL ON SEQUENCE runs TO PUBLIC")
    drafts.add(
        "deadlock",
        "op.execute(\"DO $$ BEGIN IF nextval('runs') = 1 THEN"
        " RAISE EXCEPTION USING ERRCODE = 'deadlock_detected'; END IF; END $$\")",
    )

    done = await upgrade(owner_settings, folder=drafts.folder, patience=SOON)

    assert done.after == ("deadlock",)


@pytest.mark.parametrize(("asked", "expected"), [("+1", "one"), ("+2", "column")])
async def test_a_relative_revision_keeps_its_target_over_retries(
    owner_settings: Settings, drafts: Drafts, another_session: Callable[..., int], asked: str, expected: str
) -> None:
    """After the first of two steps is committed, +2 would name a later revision."""
    for revision in ("one", "column", "three"):
        drafts.add(revision, ADD_COLUMN if revision == "column" else "op.execute('SELECT 1')")
    another_session(0.5)

    done = await upgrade(owner_settings, asked, folder=drafts.folder, patience=SOON)

    assert done.after == (expected,)


async def test_the_lock_timeout_of_the_url_is_used(
    owner_settings: Settings, use_database: Callable[..., Settings]
) -> None:
    assert owner_settings.DATABASE_URL is not None
    url = owner_settings.DATABASE_URL.update_query_dict({"lock_timeout": "1500", "statement_timeout": "100"})
    limits = "SELECT current_setting('lock_timeout'), current_setting('statement_timeout'),"
    limits += " current_setting('idle_in_transaction_session_timeout')"

    found = []
    for settings in (owner_settings, use_database(url)):
        async with migration_connection(settings) as connection:
            found.append(tuple((await connection.exec_driver_sql(limits)).one()))

    assert found == [("5s", "0", "1min"), ("1500ms", "0", "1min")]


async def test_waiting_for_another_migrator_names_its_session(owner_settings: Settings) -> None:
    async with migration_connection(owner_settings) as connection:
        pid = (await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
        await connection.commit()
        with pytest.raises(LockNotAvailable, match=rf"held the lock for 0 s: pid {pid} \(thea-database/"):
            await upgrade(owner_settings, patience=Patience(migrator_seconds=0.3))
        assert await current(owner_settings)  # it only reads, and does not wait


async def test_two_databases_are_migrated_from_one_event_loop(clone: Callable[..., URL], drafts: Drafts) -> None:
    """`alembic.op` is global in the process: the statements of one migration could go to the other database."""
    for number in range(5):
        drafts.add(f"n{number}", f"op.execute('CREATE TABLE t{number} (i int)')\nop.execute('SELECT pg_sleep(0.01)')")
    both = [Settings(ENVIRONMENT="test", DATABASE_URL=clone(f"loop_{number}")) for number in range(2)]

    done = await asyncio.gather(*(upgrade(settings, folder=drafts.folder) for settings in both))

    assert [len(one.steps) for one in done] == [5, 5]


@pytest.mark.slow
@pytest.mark.parametrize(
    "slow", ["op.execute('SELECT pg_sleep(5)')", "create_index_concurrently('ix_x', 'users', ['tenant_id'])"]
)
async def test_a_cancelled_migration_can_be_repeated(
    owner_settings: Settings, drafts: Drafts, another_session: Callable[..., int], slow: str
) -> None:
    drafts.add("slow", slow)
    another_session(0.6, writes=True)  # the index waits for it

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await upgrade(owner_settings, folder=drafts.folder)

    (drafts.folder / "slow.py").write_text((drafts.folder / "slow.py").read_text().replace("sleep(5)", "sleep(0)"))
    done = await upgrade(owner_settings, folder=drafts.folder)
    assert len(done.steps) == 1


@pytest.mark.parametrize(
    "arguments", [{"attempts": 0}, {"lock_seconds": -1}, {"migrator_seconds": -1}, {"pause_seconds": -0.1}]
)
def test_limits_of_patience_are_checked(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=re.compile(rf"{next(iter(arguments))} must be .* got")):
        Patience(**arguments)  # type: ignore[arg-type] # of either kind


async def test_a_role_without_privileges_gets_the_remedy(cloned_database: URL, drafts: Drafts) -> None:
    drafts.add("column", ADD_COLUMN)

    with pytest.raises(DatabaseError, match="DATABASE_MIGRATION_URL; `thea-db bootstrap`"):
        await upgrade(Settings(ENVIRONMENT="test", DATABASE_URL=cloned_database), folder=drafts.folder)
