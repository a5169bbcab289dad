"""A canary for each private name of SQLAlchemy: the name still means what `sqlalchemy_internals.py` uses it for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import URL, Connection, bindparam, event, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import make_transient_to_detached, selectinload
from sqlalchemy.orm.attributes import instance_state

from src.config import Settings
from src.database import create_engine
from src.database.base import ChangeableDict
from src.database.engine import DatabaseEngine, SizedPool
from src.database.engine import sqlalchemy_internals as internals
from src.database.engine.pool import FairQueue
from src.database.models import Conversation, User
from src.database.statements.entities import DIALECT
from tests import canary

ONE = text("SELECT 1")
SLOWLY = "DATABASE_FAST_PATH=false does without it"
ALWAYS = "DATABASE_FAST_PATH=false does not help"


def private(name: str, *, remedy: str = SLOWLY) -> AbstractContextManager[None]:
    return canary.canary("sqlalchemy", name, used_in="src/database/engine/sqlalchemy_internals.py", remedy=remedy)


@pytest.fixture
async def engine(cloned_database: URL) -> AsyncIterator[DatabaseEngine]:
    sizes: dict[str, Any] = {"DATABASE_POOL_SIZE": 1, "DATABASE_MAX_OVERFLOW": 0}
    settings = Settings(ENVIRONMENT="test", DATABASE_URL=cloned_database, DATABASE_FAST_PATH=True, **sizes)
    made = create_engine(settings, poolclass=SizedPool)
    yield made
    await made.dispose()


def adapter_of(connection: Connection) -> Any:
    return connection.connection.dbapi_connection


def test_a_canary_names_the_private_name_its_file_and_the_switch() -> None:
    message = r"sqlalchemy 2.*`_gone`.*sqlalchemy_internals.*DATABASE_FAST_PATH=false"

    with pytest.raises(AssertionError, match=message), private("_gone"):
        raise AttributeError


async def test_transaction_of_the_adapter(engine: DatabaseEngine) -> None:
    def begin(connection: Connection) -> tuple[bool, bool, bool]:
        driver = adapter_of(connection).driver_connection
        before = driver.is_in_transaction()
        internals.begin_with(connection, "SELECT 1")
        begun = driver.is_in_transaction()
        connection.execute(ONE)  # it does not send BEGIN again: the server would warn
        connection.rollback()
        return before, begun, driver.is_in_transaction()

    with private("AsyncAdapt_asyncpg_connection._transaction"):
        async with engine.connect() as connection:
            await connection.begin()
            assert await connection.run_sync(begin) == (False, True, False)


async def test_handle_exception_of_the_adapter(engine: DatabaseEngine) -> None:
    def begin_again(connection: Connection) -> None:
        driver = adapter_of(connection).driver_connection
        driver.state.began("SELECT 1 / 0")
        with pytest.raises(adapter_of(connection).dbapi.Error, match="division by zero"):
            internals.begin_again(adapter_of(connection))

    with private("AsyncAdapt_asyncpg_connection._handle_exception"):
        async with engine.connect() as connection:
            await connection.run_sync(begin_again)


async def test_execute_mutex(engine: DatabaseEngine) -> None:
    with private("AsyncAdapt_dbapi_connection._execute_mutex"):
        async with engine.connect() as connection:
            adapter = await connection.run_sync(adapter_of)
            async with internals.statement_lock(adapter):
                executing = asyncio.ensure_future(connection.execute(ONE))
                await asyncio.sleep(0.05)
                assert not executing.done()
            assert (await executing).scalar_one() == 1


async def test_handle_exception(engine: DatabaseEngine) -> None:
    handled: list[Any] = []
    event.listen(engine.sync_engine, "handle_error", lambda context: handled.append(context.sqlalchemy_exception))

    def fail(connection: Connection) -> None:
        async def divide(driver: Any) -> None:
            await driver.fetchval("SELECT 1 / 0")

        try:
            adapter_of(connection).run_async(divide)
        except Exception as error:  # noqa: BLE001 - the driver's
            internals.raise_as_sqlalchemy(connection, "SELECT 1 / 0", error)

    names = "Connection._handle_dbapi_exception or AsyncAdapt_dbapi_connection._handle_exception"
    with private(names):
        async with engine.connect() as connection:
            with pytest.raises(Exception, match="SQLSTATE 22012"):
                await connection.run_sync(fail)
        assert isinstance(handled[0], DBAPIError)
        assert handled[0].statement == "SELECT 1 / 0"


async def test_dbapi_connection(engine: DatabaseEngine) -> None:
    def replace(connection: Connection) -> Any:
        adapter_of(connection).driver_connection.terminate()
        connection.invalidate()
        internals.replace_driver_connection(connection)
        return connection.execute(ONE).scalar_one()

    with private("Connection._dbapi_connection"):
        async with engine.connect() as connection:
            await connection.begin()
            assert await connection.run_sync(replace) == 1
            assert connection.in_transaction()


def test_generate_cache_key() -> None:
    with private("HasCacheKey._generate_cache_key"):
        one, other = (internals.cache_key_of(select(User).where(User.username == name)) for name in ("Ada", "Bob"))
        longer = internals.cache_key_of(select(User).where(User.username == "Ada").limit(1))

        assert one is not None
        assert other is not None
        assert longer is not None
        assert one.key == other.key != longer.key
        assert [bind.effective_value for bind in other.bindparams] == ["Bob"]


def test_cache_key_bind_match() -> None:
    statement = update(User).where(User.id == bindparam("user_id")).values(username="Ada", locale="en")

    with private("SQLCompiler._cache_key_bind_match"):
        key = internals.cache_key_of(statement)
        assert key is not None
        compiled: Any = statement.compile(dialect=DIALECT, cache_key=key)
        numbers = internals.text_parameters(compiled, key)

        values = {name: key.bindparams[number].effective_value for name, number in numbers.items()}
        assert set(compiled.positiontup) <= set(values)
        assert {values[name] for name in compiled.positiontup} == {"Ada", "en", None}


def test_result_columns() -> None:
    with private("SQLCompiler._result_columns"):
        compiled = select(User.id, User.username).compile(dialect=DIALECT)
        found = internals.result_columns(compiled)

        columns = User.__table__.columns
        assert [column in objects for column, objects in zip((columns.id, columns.username), found, strict=True)] == [
            True,
            True,
        ]


def test_parents() -> None:
    with private("MutableBase._parents"):
        value, user = ChangeableDict({"tone": "dry"}), User(tenant_id=uuid4(), id=uuid4())
        make_transient_to_detached(user)
        state = instance_state(user)
        state.dict["preferences"] = value
        internals.track_changes(value, state, "preferences")
        assert not state.modified

        value["tone"] = "kind"

        assert state.modified


def test_extra_criteria() -> None:
    with private("_AttributeStrategyLoad._extra_criteria", remedy=ALWAYS):
        option: Any = selectinload(User.conversations.and_(Conversation.title == "Work"))

        [criterion] = internals.criteria_of_option(option.context[0])

        assert criterion.compare(Conversation.title == "Work")


async def test_queue_class(engine: DatabaseEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    put = FairQueue.put

    def record(queue: Any, item: Any, block: bool = True, timeout: float | None = None) -> None:
        kept.append(item)
        put(queue, item, block, timeout)

    monkeypatch.setattr(FairQueue, "put", record)

    with private("QueuePool._queue_class"):
        async with engine.connect() as connection:
            await connection.execute(ONE)
        assert len(kept) == 1


async def test_create_connection(engine: DatabaseEngine) -> None:
    failures: list[Any] = []

    @event.listens_for(engine.sync_engine, "connect")
    def fail_once(*_: Any) -> None:
        if not failures:
            failures.append(True)
            raise RuntimeError("the first connection")

    with private("Pool._create_connection or _ConnectionRecord(connect=False)"):
        with pytest.raises(RuntimeError, match="the first connection"):
            await engine.connect().start()
        pool: Any = engine.pool
        assert (pool.checkedin(), pool.checkedout()) == (1, 0), "the entry is kept for the next caller"
        async with engine.connect() as connection:
            assert (await connection.execute(ONE)).scalar_one() == 1


async def test_close_connection(engine: DatabaseEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Any] = []
    for name in ("do_close", "do_terminate"):
        monkeypatch.setattr(engine.dialect, name, closed.append)

    with private("Pool._close_connection"):
        async with engine.connect() as connection:
            (await connection.get_raw_connection()).driver_connection.terminate()  # type: ignore[union-attr]
            await connection.invalidate()
            assert closed == []

            await connection.get_raw_connection()
            await connection.invalidate()
            assert len(closed) == 1
    closed[0].driver_connection.terminate()
