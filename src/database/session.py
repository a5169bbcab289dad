"""The only process state: an engine for each event loop, the session factory, and get_db."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final, cast

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from src.config import get_settings
from src.database.engine import create_engine
from src.database.tenancy import AsyncSession, TenantBinding

__all__ = ["AsyncSessionLocal", "SessionScope", "engine", "forget_settings", "get_db"]

_Loop = asyncio.AbstractEventLoop

_engines: Final[dict[_Loop | None, AsyncEngine]] = {}
_guards: Final[dict[_Loop, AsyncGenerator[None, None]]] = {}


def _running_loop() -> _Loop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _current_engine() -> AsyncEngine:
    """Return the engine of the running event loop: a connection works on the loop that opened it and on no other."""
    loop = _running_loop()
    found = _engines.get(loop)
    if found is None:
        found = _engines[loop] = create_engine(get_settings())
        if loop is not None:
            _guards[loop] = guard = _until_shutdown(loop, found)
            with suppress(StopIteration):  # run to the yield: that is what registers it with the loop
                guard.asend(None).send(None)
    return found


async def _until_shutdown(loop: _Loop, of_loop: AsyncEngine) -> AsyncGenerator[None, None]:
    """Dispose of a loop's engine when the loop shuts its asynchronous generators down, as `asyncio.run` does."""
    try:
        yield
    finally:
        _engines.pop(loop, None)
        _guards.pop(loop, None)
        await of_loop.dispose()


class _CurrentEngine(AsyncEngine):
    """The engine of whichever event loop asks: it can be imported before there is one, and outlives them all."""

    __slots__ = ()

    def __init__(self) -> None:
        """Open nothing, read nothing."""

    @property
    def sync_engine(self) -> Engine:  # type: ignore[override] # the parent's is an attribute, set once
        return _current_engine().sync_engine


class _SessionFactory(async_sessionmaker[AsyncSession]):
    """A factory that reads the default tenant when it makes a session, not when it is imported."""

    def __call__(self, **options: Any) -> AsyncSession:
        options.setdefault("binding", _tenant_binding())
        return super().__call__(**options)


@functools.cache
def _tenant_binding() -> TenantBinding:
    return TenantBinding(get_settings().DATABASE_DEFAULT_TENANT)


def forget_settings() -> None:
    """Have the next engine and session read the settings anew: for tests that change the environment."""
    get_settings.cache_clear()
    _tenant_binding.cache_clear()
    _engines.clear()


engine: Final[AsyncEngine] = _CurrentEngine()
AsyncSessionLocal: Final = _SessionFactory(bind=engine, class_=AsyncSession, expire_on_commit=False)


async def _session_scope() -> AsyncGenerator[AsyncSession, None]:
    """Yield a session; commit on success. Anything else, cancellation included, ends in `close`, which rolls back."""
    async with AsyncSessionLocal() as session:  # its exit is shielded: a second cancellation cannot cut it short
        yield session
        await session.commit()


class SessionScope(AbstractAsyncContextManager[AsyncSession], AsyncIterator[AsyncSession]):
    """What `get_db()` returns: a context manager for services, an asynchronous generator for FastAPI."""

    def __init__(self, scope: Callable[[], AsyncGenerator[AsyncSession, None]]) -> None:
        self._generator = scope()
        self._manager = asynccontextmanager(lambda: self._generator)()

    async def __aenter__(self) -> AsyncSession:
        return await self._manager.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._manager.__aexit__(kind, error, traceback)

    async def __anext__(self) -> AsyncSession:
        return await anext(self._generator)

    async def athrow(self, *raised: Any) -> AsyncSession:
        """Raise inside the scope (the generator's protocol)."""
        return await self._generator.athrow(*raised)

    async def aclose(self) -> None:
        """End the scope without a commit (the generator's protocol)."""
        await self._generator.aclose()


@functools.wraps(_session_scope)
def get_db() -> SessionScope:
    """Open a session for `async with`, or for `Depends` with `scope="function"` in FastAPI.

    It commits when the block ends, and rolls back on any exception, cancellation included.
    """
    return SessionScope(_session_scope)


# FastAPI before 0.124 does not look behind `functools.wraps`, but it does look at `__call__`.
cast("Any", get_db).__call__ = _session_scope
