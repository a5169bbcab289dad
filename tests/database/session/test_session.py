"""get_db: commits on success, rolls back on any exception; one engine for each event loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import warnings
from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncEngine

import src.database
from src.config import Settings
from src.database import AsyncSessionLocal, engine, get_db, get_read_db
from src.database.errors import ConnectionFailed, DatabaseError, DuplicateKeyError, TransactionAborted
from src.database.models import User
from src.database.repositories import UserRepository
from src.database.session import AsyncSession
from src.database.session.engines import _loops


async def count_users() -> int:
    async with get_db() as session:
        return await UserRepository(session).count()


@pytest.mark.usefixtures("cloned_database")
async def test_commits_when_the_block_ends() -> None:
    async with get_db() as session:
        session.add(User())

    assert await count_users() == 1


@pytest.mark.usefixtures("cloned_database")
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, asyncio.CancelledError])
async def test_rolls_back_on_any_exception(error: type[BaseException]) -> None:
    async def fail() -> None:
        async with get_db() as session:
            session.add(User())
            await session.flush()
            raise error

    with pytest.raises(error):
        await fail()

    assert await count_users() == 0


@pytest.mark.usefixtures("cloned_database")
async def test_a_cancelled_task_leaves_nothing_behind(superuser: psycopg.Connection) -> None:
    started = asyncio.Event()

    async def work() -> None:
        async with get_db() as session:
            session.add(User())
            await session.flush()
            started.set()
            await session.execute(text("SELECT pg_sleep(60)"))

    task = asyncio.create_task(work())
    await started.wait()
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await count_users() == 0
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    for _ in range(50):
        (left,) = superuser.execute(others).fetchone() or (None,)
        if left == 0:
            break
        await asyncio.sleep(0.1)
    assert left == 0


@pytest.mark.usefixtures("cloned_database")
async def test_an_error_at_commit_reaches_the_caller_and_rolls_back() -> None:
    async with get_db() as session:
        await UserRepository(session).get_or_create_by_telegram_id(1)

    with pytest.raises(DuplicateKeyError):
        async with get_db() as session:
            session.add(User(telegram_id=1))

    assert await count_users() == 1


@pytest.mark.usefixtures("cloned_database")
async def test_the_factory_creates_sessions() -> None:
    async with AsyncSessionLocal() as session:
        assert await session.scalar(text("SELECT 1")) == 1


def test_importing_reads_and_opens_nothing() -> None:
    code = (
        "import os; os.environ['ENVIRONMENT'] = 'nonsense'\n"
        "import src.database, src.database.models, src.database.repositories, src.config\n"
        "from src.database import engine, get_db, AsyncSessionLocal, tenant_context, create_engine, Base\n"
        "from sqlalchemy.ext.asyncio import AsyncEngine\n"
        "assert isinstance(engine, AsyncEngine)\n"
    )

    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_the_engine_keeps_its_name_beside_its_module() -> None:
    from src.database.engine import DatabaseEngine  # noqa: PLC0415 - the import is what is tested

    assert isinstance(engine, DatabaseEngine)
    assert src.database.engine is engine
    assert isinstance(engine, AsyncEngine)


@pytest.mark.parametrize("environment", ["test", "staging"])
def test_works_under_one_event_loop_after_another(
    environment: str, cloned_database: URL, use_database: Callable[..., Settings], superuser: psycopg.Connection
) -> None:
    """With a pool too: a loop's connections end with it."""
    use_database(cloned_database, ENVIRONMENT=environment)

    async def main() -> int | None:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT 1"))
        async with get_db() as session:
            number: int | None = await session.scalar(text("SELECT 1"))
            return number

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert asyncio.run(main()) == 1
        assert asyncio.run(main()) == 1
        gc.collect()

    assert [str(warning.message) for warning in caught] == []
    backends = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    assert superuser.execute(backends).fetchone() == (0,)


def test_a_loop_that_is_closed_without_a_shutdown_is_forgotten(cloned_database: URL) -> None:
    async def use() -> None:
        async with get_db() as session:
            await session.execute(text("SELECT 1"))

    loop = asyncio.new_event_loop()
    loop.run_until_complete(use())
    loop.close()
    asyncio.run(use())

    assert loop not in _loops


async def test_nested_scopes_are_transactions_of_their_own(cloned_database: URL) -> None:
    async with get_db() as outer:
        outer.add(User())
        await outer.flush()
        async with get_db() as inner:
            assert await UserRepository(inner).count() == 0


@pytest.mark.usefixtures("cloned_database")
async def test_many_scopes_at_the_same_time() -> None:
    async def one(number: int) -> None:
        async with get_db() as session:
            session.add(User(telegram_id=number))

    await asyncio.gather(*(one(number) for number in range(100)))

    assert await count_users() == 100


@pytest.mark.usefixtures("cloned_database")
@pytest.mark.parametrize("statement", ["SELECT 1/0", "SELECT * FROM nothing"])
async def test_commit_raises_after_a_caught_error(statement: str) -> None:
    """PostgreSQL answers COMMIT with ROLLBACK then, and the driver does not raise."""

    async def continue_after_an_error() -> None:
        async with get_db() as session:
            await UserRepository(session).add(User())
            with contextlib.suppress(DatabaseError):
                await session.execute(text(statement))

    with pytest.raises(TransactionAborted, match="nothing was committed"):
        await continue_after_an_error()

    assert await count_users() == 0


async def test_commit_raises_after_a_lost_connection(cloned_database: URL, superuser: psycopg.Connection) -> None:
    """SQLAlchemy's own error for the next statement is not one of this package's."""
    async with get_db() as session:
        pid = await session.scalar(text("SELECT pg_backend_pid()"))
        superuser.execute("SELECT pg_terminate_backend(%s)", (pid,))
        with pytest.raises(ConnectionFailed):
            await session.execute(text("SELECT 1"))
        for go_on in (session.execute(text("SELECT 1")), UserRepository(session).add(User())):
            with pytest.raises(TransactionAborted, match="nothing was committed"):
                await go_on
        await session.rollback()

        assert await session.scalar(text("SELECT 1")) == 1


@pytest.mark.usefixtures("cloned_database")
async def test_in_autocommit_an_error_does_not_affect_later_statements() -> None:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        with contextlib.suppress(DatabaseError):
            await connection.execute(text("SELECT 1/0"))
        await connection.execute(text("SELECT 1"))
        await connection.commit()


@pytest.mark.usefixtures("cloned_database")
async def test_commit_raises_after_a_failed_flush() -> None:
    async def continue_after_an_error() -> None:
        async with get_db() as session:
            await UserRepository(session).add(User(telegram_id=1))
            with contextlib.suppress(DuplicateKeyError):
                await UserRepository(session).add(User(telegram_id=1))

    with pytest.raises(TransactionAborted, match="nothing was committed"):
        await continue_after_an_error()

    assert await count_users() == 0


@pytest.mark.filterwarnings("ignore:Session's state has been changed on a non-active transaction")
@pytest.mark.parametrize("fails", ["a statement", "a flush"])
async def test_a_statement_after_a_caught_error_raises_with_the_remedy(
    session: AsyncSession, user: User, fails: str
) -> None:
    users = UserRepository(session)
    await users.update(user.id, telegram_id=1)

    with pytest.raises(DatabaseError):
        await (users.add(User(telegram_id=1)) if fails == "a flush" else session.execute(text("SELECT 1/0")))

    for go_on in (users.count(), session.execute(text("SELECT 1")), users.add(User())):
        with pytest.raises(TransactionAborted, match="of this transaction failed before") as raised:
            await go_on
        assert "begin_nested" in str(raised.value.hint)


@pytest.mark.usefixtures("cloned_database")
async def test_an_error_in_a_savepoint_rolls_back_the_savepoint_alone() -> None:
    async with get_db() as session:
        await UserRepository(session).add(User())
        with contextlib.suppress(DatabaseError):
            async with session.begin_nested():
                await session.execute(text("SELECT 1/0"))

    assert await count_users() == 1


@pytest.mark.usefixtures("cloned_database")
async def test_a_value_that_the_driver_refuses_does_not_abort_the_transaction() -> None:
    async with get_db() as session:
        await UserRepository(session).add(User())
        with pytest.raises(DatabaseError):
            await UserRepository(session).exists(User.telegram_id == 2**80)

    assert await count_users() == 1


def test_the_help_of_get_db_is_its_own() -> None:
    for function in (get_db, get_read_db):
        assert "Example:" in (function.__doc__ or "")
        assert function.__name__ in {"get_db", "get_read_db"}
