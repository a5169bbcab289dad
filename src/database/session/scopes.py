"""get_db and get_read_db: a session for a block, on the engine of the running event loop."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import AsyncGeneratorType, TracebackType
from typing import Any, Final, Generic, ParamSpec, TypeVar

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from src.database.engine import DatabaseEngine
from src.database.session.binding import TenantBinding
from src.database.session.engines import DEFAULT, READING, binding_of, engine_of_loop, has_replica, tenant_binding
from src.database.session.reading import ReadSession, wait_for_replica
from src.database.session.replacement import replaced_sessions
from src.database.session.session import AsyncSession

SessionT_co = TypeVar("SessionT_co", bound=AsyncSession, covariant=True)
P = ParamSpec("P")
ScopeT = TypeVar("ScopeT")


class _CurrentEngine(DatabaseEngine):
    """Stands for the engine of the running event loop: it can be imported before a loop runs."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name  # the parent's __init__ would need an engine, and so the settings

    @property
    def sync_engine(self) -> Engine:  # type: ignore[override] # an attribute of the parent
        return engine_of_loop(self._name).sync_engine

    async def start(self) -> None:
        await engine_of_loop(self._name).start()

    async def dispose(self, close: bool = True) -> None:
        await engine_of_loop(self._name).dispose(close)


class _SessionFactory(async_sessionmaker[AsyncSession]):
    """A session factory that reads the settings when it creates a session, not at import."""

    def __call__(self, **options: Any) -> AsyncSession:
        options.setdefault("binding", tenant_binding())
        return super().__call__(**options)


engine: Final[DatabaseEngine] = _CurrentEngine(DEFAULT)
read_engine: Final[DatabaseEngine] = _CurrentEngine(READING)
AsyncSessionLocal: Final = _SessionFactory(bind=engine, class_=AsyncSession, expire_on_commit=False)


def _read_session(bind: AsyncEngine, binding: TenantBinding) -> ReadSession:
    return ReadSession(bind=bind, binding=binding, expire_on_commit=False)


async def _session_scope() -> AsyncGenerator[AsyncSession, None]:
    """Yield a session, and commit if the block ends without an exception."""
    async with AsyncSessionLocal() as session:  # its exit rolls back, shielded from a second cancellation
        yield session
        if not session.sync_session.use.is_closed:  # the caller may have closed it
            await session.commit()


async def _read_scope() -> AsyncGenerator[ReadSession, None]:
    """Yield a read session."""
    async with _read_session(read_engine, binding_of(TenantBinding, "reading")) as session:
        yield session
        await session.end()


async def _read_your_writes_scope() -> AsyncGenerator[ReadSession, None]:
    """Yield a read session of the replica if it has replayed all earlier commits, else one of the primary."""
    async with AsyncExitStack() as stack:
        binding = binding_of(TenantBinding, "reading")
        session = await stack.enter_async_context(_read_session(read_engine, binding))
        if has_replica() and not await wait_for_replica(engine, session):
            primary = engine.execution_options(postgresql_readonly=True)
            session = await stack.enter_async_context(_read_session(primary, tenant_binding()))
        yield session
        await session.end()


class SessionScope(AbstractAsyncContextManager[SessionT_co], AsyncIterator[SessionT_co]):
    """The result of `get_db()`: a context manager for services, an asynchronous generator for frameworks."""

    def __init__(self, scope: Callable[[], AsyncGenerator[SessionT_co, None]]) -> None:
        self._generator = scope()
        self._manager = asynccontextmanager(lambda: self._generator)()

    @property  # type: ignore[misc] # `object` declares it to be writable
    def __class__(self) -> type:
        """The class that `isinstance` accepts beside this one: so Litestar and taskiq recognize a generator."""
        return AsyncGeneratorType

    async def __aenter__(self) -> SessionT_co:
        return await self._manager.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._manager.__aexit__(kind, error, traceback)

    async def __anext__(self) -> SessionT_co:
        return await anext(self._generator)

    async def athrow(self, *raised: Any) -> SessionT_co:
        """Raise an exception inside the scope, as a generator does."""
        return await self._generator.athrow(*raised)

    async def aclose(self) -> None:
        """End the scope without a commit, as a generator does."""
        await self._generator.aclose()


class _Dependency(Generic[P, ScopeT]):
    """A callable object that opens a scope. Frameworks also find the scope's generator function in the object.

    FastAPI, FastStream and taskiq look behind `__wrapped__` or at `__call__`; Litestar looks at `__call__`, and only if
    the object is not a function. They call the object, and treat its `SessionScope` as the generator.
    """

    __name__: str

    def __init__(self, function: Callable[P, ScopeT], generator: Callable[[], AsyncGenerator[Any, None]]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        # As attributes of the object: a call still finds the method of the class.
        vars(self).update(__wrapped__=generator, __call__=generator, __annotations__=generator.__annotations__)

    def __call__(self, *arguments: P.args, **options: P.kwargs) -> ScopeT:
        return self._function(*arguments, **options)


def _dependency(
    generator: Callable[[], AsyncGenerator[Any, None]],
) -> Callable[[Callable[P, ScopeT]], _Dependency[P, ScopeT]]:
    """Return a decorator for a function that opens the scope of this generator function."""
    return lambda function: _Dependency(function, generator)


@_dependency(_session_scope)
def get_db() -> SessionScope[AsyncSession]:
    """Open a session, for `async with` or as a dependency: `Depends(get_db, scope="function")` in FastAPI.

    The session commits at the end of the block, and rolls back on any exception, cancellation included. It opens no
    connection before its first statement. It raises SessionInUse if a second task uses it at the same time, and
    SessionClosed after the block.

    Example:
        async with get_db() as session:
            await UserRepository(session).update(user.id, display_name="Ada Lovelace")

    Returns:
        A context manager that yields an :class:`AsyncSession`.
    """
    replaced = replaced_sessions()
    return SessionScope(_session_scope if replaced is None else replaced.session)


@_dependency(_read_scope)
def get_read_db(*, read_your_writes: bool = False) -> SessionScope[ReadSession]:
    """Open a read session, for `async with` or as a dependency; on the replica if there is one. Writes are refused.

    A read of a repository is one round trip. A caller's own SQL is sent in a READ ONLY transaction that ends with the
    session: BEGIN with the tenant binding is one round trip, ROLLBACK another one. Each statement sees the state that
    is committed when it starts; `stream` reads one state, and so do all statements after `await session.snapshot()`.

    Args:
        read_your_writes: Wait, for at most 1 s, until the replica has replayed all earlier commits; if it has not, read
            from the primary.

    Example:
        async with get_read_db() as session:
            number_of_users = await UserRepository(session).count()

    Returns:
        A context manager that yields a :class:`ReadSession`.
    """
    if (replaced := replaced_sessions()) is not None:
        return SessionScope(replaced.read_session)
    return SessionScope(_read_your_writes_scope if read_your_writes else _read_scope)
