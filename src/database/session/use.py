"""The check at the beginning of each operation of a session: it is open, and no other task uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial, wraps
from types import TracebackType
from typing import Any, Final, TypeVar

from sqlalchemy.ext import asyncio as sa_asyncio
from sqlalchemy.orm import Session
from sqlalchemy.util.concurrency import await_, in_greenlet

from src.database.errors import SessionClosed, SessionInUse

SessionT = TypeVar("SessionT", bound=type[Session])

# These send nothing. The later flush may run inside another tenant_context: so the session takes its tenant here.
_CHANGES: Final = ("add", "add_all", "delete", "delete_all", "merge", "merge_all")
_OPERATIONS: Final = (
    "begin",
    "begin_nested",
    "bulk_insert_mappings",
    "bulk_save_objects",
    "bulk_update_mappings",
    "commit",
    "connection",
    "execute",
    "flush",
    "get",
    "get_one",
    "open_connection",
    "refresh",
    "scalar",
    "scalars",
)
_RELEASES: Final = ("reset", "rollback")
_ENDS: Final = ("close", "invalidate")


class SessionUse(AbstractContextManager[None]):
    """The state of a session: open or closed, and the task whose operation runs in it.

    An open session is idle or in use by one task. `with use:` is an operation: operations of the same task nest, and
    one of another task is refused. Closing is final; an operation that is running completes.
    """

    __slots__ = ("_depth", "_idle", "_task", "is_closed")

    def __init__(self) -> None:
        self.is_closed = False
        self._task: asyncio.Task[Any] | None = None
        self._depth = 0
        self._idle: asyncio.Event | None = None

    def __enter__(self) -> None:
        task = _current_task()
        if self._depth == 0:
            if self.is_closed:
                raise SessionClosed
            self._task = task
        elif self._task is not task:
            raise SessionInUse
        self._depth += 1

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._task = None
            if self._idle is not None:
                self._idle.set()

    def for_release(self) -> AbstractContextManager[None]:
        """Return the guard of an operation that releases resources, which a closed session permits too."""
        return nullcontext() if self.is_closed and self._depth == 0 else self

    def check_idle(self) -> None:
        """Check that no other task uses the session.

        Raises:
            SessionInUse: An operation of another task is running.
        """
        if self._is_used_elsewhere():
            raise SessionInUse

    async def wait_until_idle(self) -> None:
        """Wait until the operation of another task completes; the limits of statements and of the pool limit this."""
        while self._is_used_elsewhere():
            if self._idle is None or self._idle.is_set():
                self._idle = asyncio.Event()
            await self._idle.wait()

    def _is_used_elsewhere(self) -> bool:
        return self._depth > 0 and self._task is not _current_task()


class GuardedAsyncSession(sa_asyncio.AsyncSession):
    """An AsyncSession whose transaction blocks belong to one task too; its `sync_session` has an attribute `use`."""

    def begin(self) -> sa_asyncio.AsyncSessionTransaction:
        """Return a context manager that begins a transaction, and commits or rolls back."""
        return _Transaction(self)

    def begin_nested(self) -> sa_asyncio.AsyncSessionTransaction:
        """Return a context manager that sets a savepoint, and releases it or rolls back to it."""
        return _Transaction(self, nested=True)


class _Transaction(sa_asyncio.AsyncSessionTransaction):
    """A transaction block. If another task uses the session at its end, it waits for that task and rolls back."""

    async def commit(self) -> None:
        """Commit the transaction, or release the savepoint."""
        with self._use:
            await super().commit()

    async def rollback(self) -> None:
        """Roll the transaction back, or to the savepoint."""
        with self._use.for_release():
            await super().rollback()

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: TracebackType | None) -> None:
        misuse = None
        try:
            self._use.check_idle()
        except SessionInUse as in_use:
            await self._use.wait_until_idle()
            if kind is None:
                misuse = in_use
                kind, error, traceback = type(in_use), in_use, in_use.__traceback__
        with self._use.for_release():
            await super().__aexit__(kind, error, traceback)
        if misuse is not None:
            raise misuse

    @property
    def _use(self) -> SessionUse:
        use: SessionUse = self.session.sync_session.use  # type: ignore[attr-defined] # guard_operations requires it
        return use


def guard_operations(session_class: SessionT) -> SessionT:
    """Make each operation of a session class begin with the checks of the session's `use`; a class decorator.

    The class has an attribute `use` and a method `take_tenant`.
    """
    for names, guard in (
        (_CHANGES, partial(_operating, takes_tenant=True)),
        (_OPERATIONS, _operating),
        (_RELEASES, _releasing),
        (_ENDS, _ending),
    ):
        for name in names:
            setattr(session_class, name, guard(getattr(session_class, name)))
    return session_class


def _operating(method: Callable[..., Any], *, takes_tenant: bool = False) -> Callable[..., Any]:
    @wraps(method)
    def operate(session: Any, *arguments: Any, **options: Any) -> Any:
        with session.use:
            if takes_tenant:
                session.take_tenant()
            return method(session, *arguments, **options)

    return operate


def _releasing(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def release(session: Any) -> None:
        with session.use.for_release():
            method(session)

    return release


def _ending(method: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse later operations first, then wait for the operation of another task, which still needs the connection."""

    @wraps(method)
    def end(session: Any) -> None:
        session.use.is_closed = True
        if in_greenlet():
            await_(session.use.wait_until_idle())
        method(session)

    return end


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop runs
        return None
