"""get_db and get_read_db: the sessions of a block, over the engines of whichever event loop runs."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Final, TypeVar, cast

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from src.database.engine import DatabaseEngine
from src.database.session.binding import TenantBinding
from src.database.session.engines import DEFAULT, READING, binding_of, engine_of_loop, has_replica, tenant_binding
from src.database.session.reading import ReadSession, wait_for_replica
from src.database.session.session import AsyncSession

SessionT_co = TypeVar("SessionT_co", bound=AsyncSession, covariant=True)


class _CurrentEngine(DatabaseEngine):
    """The engine of whichever event loop asks: it can be imported before there is one, and outlives them all."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        """Open nothing, read nothing."""
        self._name = name

    @property
    def sync_engine(self) -> Engine:  # type: ignore[override] # the parent's is an attribute, set once
        return engine_of_loop(self._name).sync_engine

    async def start(self) -> None:
        await engine_of_loop(self._name).start()

    async def dispose(self, close: bool = True) -> None:
        await engine_of_loop(self._name).dispose(close)


class _SessionFactory(async_sessionmaker[AsyncSession]):
    """A factory that reads the default tenant when it makes a session, not when it is imported."""

    def __call__(self, **options: Any) -> AsyncSession:
        options.setdefault("binding", tenant_binding())
        return super().__call__(**options)


engine: Final[DatabaseEngine] = _CurrentEngine(DEFAULT)
read_engine: Final[DatabaseEngine] = _CurrentEngine(READING)
AsyncSessionLocal: Final = _SessionFactory(bind=engine, class_=AsyncSession, expire_on_commit=False)


def _read_session(bind: AsyncEngine, binding: TenantBinding) -> ReadSession:
    return ReadSession(bind=bind, binding=binding, expire_on_commit=False)


async def _session_scope() -> AsyncGenerator[AsyncSession, None]:
    """Yield a session; commit on success. Anything else, cancellation included, ends in `close`, which rolls back."""
    async with AsyncSessionLocal() as session:  # its exit is shielded: a second cancellation cannot cut it short
        yield session
        if not session.sync_session.use.is_closed:  # the block itself closed it
            await session.commit()


async def _read_scope() -> AsyncGenerator[ReadSession, None]:
    """Yield a session that reads."""
    async with _read_session(read_engine, binding_of(TenantBinding, "reading")) as session:
        yield session
        await session.end()


async def _fresh_read_scope() -> AsyncGenerator[ReadSession, None]:
    """Yield a session for reading whose server has all that was committed before; the primary where no replica has."""
    async with AsyncExitStack() as stack:
        binding = binding_of(TenantBinding, "reading")
        session = await stack.enter_async_context(_read_session(read_engine, binding))
        if has_replica() and not await wait_for_replica(engine, session):
            primary = engine.execution_options(postgresql_readonly=True)
            session = await stack.enter_async_context(_read_session(primary, tenant_binding()))
        yield session
        await session.end()


class SessionScope(AbstractAsyncContextManager[SessionT_co], AsyncIterator[SessionT_co]):
    """The result of `get_db()`: a context manager for services, an asynchronous generator for FastAPI."""

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
    """Open a session that reads, for `async with` or `Depends`: on the replica if there is one.

    A read of a repository is one round trip. A caller's own SQL is sent in a transaction that only reads, and that ends
    with the session: BEGIN with the tenant's binding is one round trip, and its end another one. Each statement sees
    what is committed by then; `stream` reads one state, and so does all that follows `await session.snapshot()`. The
    server refuses writes.

    Args:
        read_your_writes: Wait until the replica has what was committed before, or else read from the primary.
    """
    return SessionScope(_fresh_read_scope if read_your_writes else _read_scope)


# FastAPI before 0.124 does not look behind `functools.wraps`, but it does look at `__call__`.
cast("Any", get_db).__call__ = _session_scope
cast("Any", get_read_db).__call__ = _read_scope
