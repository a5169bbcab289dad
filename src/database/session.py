"""The only process state: the engines of each event loop, the session factories, get_db and get_read_db."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final, TypeVar, cast

import asyncpg
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import async_sessionmaker

from src import config
from src.config.environment import Purpose
from src.database.binding import TenantBinding
from src.database.engine import DatabaseEngine, create_engine
from src.database.errors import ConfigurationError
from src.database.observe import DefaultTenantLog, watch
from src.database.reading import ReadBinding, ReadSession, wait_for_replica
from src.database.resolve import transaction_limits
from src.database.tenancy import AsyncSession
from src.database.transaction_status import NumberedBinding

__all__ = [
    "AsyncSessionLocal",
    "SessionScope",
    "engine",
    "engines_of_loop",
    "forget_settings",
    "get_db",
    "get_engine",
    "get_read_db",
    "has_replica",
    "numbered_binding",
    "open_connection",
    "tenant_binding",
]

_Loop = asyncio.AbstractEventLoop
BindingT = TypeVar("BindingT", bound=TenantBinding)
SessionT_co = TypeVar("SessionT_co", bound=AsyncSession, covariant=True)

DEFAULT: Final = "default"
READING: Final = "read"
_POOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")

_engines: Final[dict[_Loop | None, dict[str, DatabaseEngine]]] = {}
_guards: Final[dict[_Loop, list[tuple[AsyncGenerator[None, None], dict[str, DatabaseEngine]]]]] = {}
"""What each loop runs as it shuts down, with the engines that are disposed of then: several after `forget_settings`."""


def get_engine(name: str) -> DatabaseEngine:
    """Return the engine of this name, with a pool of its own, for the running event loop.

    For what must not wait for the others' connections nor take them away: a web framework's session store, a queue.
    The settings say how large each pool is; together they have to fit into the server.

    Args:
        name: What errors call the pool, and the server its connections: ``<service>/<environment>/<name>/<process>``.

    Raises:
        ConfigurationError: The name is not 1 to 32 letters, digits, dashes and underscores, or is taken by `get_db`.
    """
    if not _POOL_NAME.fullmatch(name):
        raise ConfigurationError(f"a pool's name must be 1 to 32 letters, digits, - and _, got {name!r}")
    if name in {DEFAULT, READING}:
        raise ConfigurationError(f"a pool's name must not be {name!r}: get_db and get_read_db use it")
    return _engine_of_loop(name)


def _engine_of_loop(name: str) -> DatabaseEngine:
    """Return an engine of the running event loop: a connection works on the loop that opened it and on no other."""
    loop = _running_loop()
    engines = _engines.get(loop)
    if engines is None:
        _forget_closed_loops()
        engines = _engines[loop] = {}
        if loop is not None:
            guard = _until_shutdown(loop, engines)
            _guards.setdefault(loop, []).append((guard, engines))
            with suppress(StopIteration):  # run to the yield: that is what registers it with the loop
                guard.asend(None).send(None)
    if name not in engines:
        made = _create_read_engine() if name == READING else create_engine(config.get_settings(), name=name)
        engines[name] = watch(made, config.get_settings(), name=name)
    return engines[name]


def engines_of_loop() -> dict[str, DatabaseEngine]:
    """Return the engines that the running event loop has by now, by their names; none is made for it."""
    return dict(_engines.get(_running_loop(), {}))


async def open_connection(*, reading: bool = False) -> asyncpg.Connection[Any]:
    """Open a connection of the driver's to where `get_db` goes, or `get_read_db`; whoever asks for it closes it.

    No pool knows it: it waits for nobody, and takes nobody's place.

    Raises:
        ConnectionFailed: The database cannot be reached.
        ConfigurationError: It is not what the settings ask for.
    """
    return await _engine_of_loop(READING if reading else DEFAULT).open_connection()


def has_replica() -> bool:
    """Return True if `get_read_db` goes to another server than `get_db`."""
    return config.get_settings().DATABASE_REPLICA_URL is not None


def _forget_closed_loops() -> None:
    """Discard the engines of loops that were closed without a shutdown, and end their connections.

    `loop.close()` alone runs nothing. This runs at the next loop's first engine, so one closed loop may remain.
    """
    for loop in {*list(_engines), *list(_guards)}:
        if loop is None or not loop.is_closed():
            continue
        _engines.pop(loop, None)
        for _, engines in _guards.pop(loop, []):
            for made in engines.values():
                made.hang_up()


def _create_read_engine() -> DatabaseEngine:
    made = create_engine(config.get_settings(), purpose="reading", name=READING)
    if isinstance(binding := _read_binding(), ReadBinding):
        binding.bind_at_checkout(made.sync_engine)
    return made


def _running_loop() -> _Loop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _until_shutdown(loop: _Loop, of_loop: dict[str, DatabaseEngine]) -> AsyncGenerator[None, None]:
    """Dispose of a loop's engines when the loop shuts its asynchronous generators down, as `asyncio.run` does."""
    try:
        yield
    finally:
        if _engines.get(loop) is of_loop:  # after `forget_settings` others may have come in their place
            del _engines[loop]
        _guards.pop(loop, None)
        await asyncio.gather(*(one.dispose() for one in of_loop.values()))


class _CurrentEngine(DatabaseEngine):
    """The engine of whichever event loop asks: it can be imported before there is one, and outlives them all."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        """Open nothing, read nothing."""
        self._name = name

    @property
    def sync_engine(self) -> Engine:  # type: ignore[override] # the parent's is an attribute, set once
        return _engine_of_loop(self._name).sync_engine

    async def start(self) -> None:
        await _engine_of_loop(self._name).start()

    async def dispose(self, close: bool = True) -> None:
        await _engine_of_loop(self._name).dispose(close)


class _SessionFactory(async_sessionmaker[AsyncSession]):
    """A factory that reads the default tenant when it makes a session, not when it is imported."""

    def __call__(self, **options: Any) -> AsyncSession:
        options.setdefault("binding", tenant_binding())
        return super().__call__(**options)


class _ReadSessionFactory(async_sessionmaker[ReadSession]):
    """The same for reading; behind PgBouncer, where no setting outlives a transaction, in a read-only transaction."""

    def __call__(self, **options: Any) -> ReadSession:
        options.setdefault("binding", _read_binding())
        return super().__call__(**options)


@functools.cache
def tenant_binding() -> TenantBinding:
    """Return how the settings have transactions bound to their tenants."""
    return _make_binding(TenantBinding)


@functools.cache
def numbered_binding() -> NumberedBinding:
    """Return the same, with the transactions' numbers."""
    return _make_binding(NumberedBinding)


@functools.cache
def _read_binding() -> TenantBinding:
    return _make_binding(TenantBinding if config.get_settings().DATABASE_PGBOUNCER else ReadBinding, purpose="reading")


def _make_binding(kind: Callable[..., BindingT], purpose: Purpose = "application") -> BindingT:
    settings = config.get_settings()
    limits = transaction_limits(settings, purpose=purpose)
    return kind(settings.DATABASE_DEFAULT_TENANT, limits=limits, on_default_tenant=_default_tenant_log())


@functools.cache
def _default_tenant_log() -> DefaultTenantLog | None:
    """Return the log of uses of the default tenant; in development and test there is none, and the use is usual."""
    return None if config.get_settings().is_local else DefaultTenantLog()


def forget_settings() -> None:
    """Have the next engine and session read the settings anew: for tests that change the environment."""
    config.get_settings.cache_clear()
    tenant_binding.cache_clear()
    numbered_binding.cache_clear()
    _read_binding.cache_clear()
    _default_tenant_log.cache_clear()
    _engines.clear()


engine: Final[DatabaseEngine] = _CurrentEngine(DEFAULT)
_read_engine: Final[DatabaseEngine] = _CurrentEngine(READING)
AsyncSessionLocal: Final = _SessionFactory(bind=engine, class_=AsyncSession, expire_on_commit=False)
_ReadSessionLocal: Final = _ReadSessionFactory(bind=_read_engine, class_=ReadSession, expire_on_commit=False)


async def _session_scope() -> AsyncGenerator[AsyncSession, None]:
    """Yield a session; commit on success. Anything else, cancellation included, ends in `close`, which rolls back."""
    async with AsyncSessionLocal() as session:  # its exit is shielded: a second cancellation cannot cut it short
        yield session
        if not session.sync_session.use.is_closed:  # the block itself closed it
            await session.commit()


async def _read_scope() -> AsyncGenerator[ReadSession, None]:
    """Yield a session for reading."""
    async with _ReadSessionLocal() as session:
        yield session
        await session.end()


async def _fresh_read_scope() -> AsyncGenerator[ReadSession, None]:
    """Yield a session for reading whose server has all that was committed before; the primary where no replica has."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(_ReadSessionLocal())
        if config.get_settings().DATABASE_REPLICA_URL is not None and not await wait_for_replica(engine, session):
            await session.close()  # whoever reads from the primary keeps no connection to the replica
            primary = engine.execution_options(postgresql_readonly=True)
            session = await stack.enter_async_context(_ReadSessionLocal(bind=primary, binding=tenant_binding()))
        yield session
        await session.end()


class SessionScope(AbstractAsyncContextManager[SessionT_co], AsyncIterator[SessionT_co]):
    """What `get_db()` returns: a context manager for services, an asynchronous generator for FastAPI."""

    def __init__(self, scope: Callable[[], AsyncGenerator[SessionT_co, None]]) -> None:
        self._generator = scope()
        self._manager = asynccontextmanager(lambda: self._generator)()

    async def __aenter__(self) -> SessionT_co:
        return await self._manager.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._manager.__aexit__(kind, error, traceback)

    async def __anext__(self) -> SessionT_co:
        return await anext(self._generator)

    async def athrow(self, *raised: Any) -> SessionT_co:
        """Raise inside the scope (the generator's protocol)."""
        return await self._generator.athrow(*raised)

    async def aclose(self) -> None:
        """End the scope without a commit (the generator's protocol)."""
        await self._generator.aclose()


@functools.wraps(_session_scope)
def get_db() -> SessionScope[AsyncSession]:
    """Open a session for `async with`, or for `Depends` with `scope="function"` in FastAPI.

    It commits when the block ends, and rolls back on any exception, cancellation included. The session raises
    SessionInUse where a second task uses it meanwhile, and SessionClosed after the block.
    """
    return SessionScope(_session_scope)


@functools.wraps(_read_scope)
def get_read_db(*, read_your_writes: bool = False) -> SessionScope[ReadSession]:
    """Open a session that reads, for `async with` or `Depends`: on the replica where there is one.

    One round trip a statement, and one to bind the tenant, but where the same tenant's repositories alone used the
    connection last. Each sees what is committed by then; `stream`
    reads one state, and so does all that follows `await session.snapshot()`. The server refuses writes.

    Args:
        read_your_writes: Wait until the replica has what was committed before, or else read from the primary.
    """
    return SessionScope(_fresh_read_scope if read_your_writes else _read_scope)


# FastAPI before 0.124 does not look behind `functools.wraps`, but it does look at `__call__`.
cast("Any", get_db).__call__ = _session_scope
cast("Any", get_read_db).__call__ = _read_scope
