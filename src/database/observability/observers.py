"""Observers of statements, units of work and connections: the events, and the source that notifies the observers."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable
from uuid import UUID

from src.config import get_logger
from src.database.engine import DatabaseEngine
from src.database.observability.callers import Place, find_place
from src.database.tenant_scope import current_tenant


@runtime_checkable
class TenantsSession(Protocol):
    """A session of this package, as far as an observer needs it.

    Attributes:
        is_read_to_its_end: True if the session has only read and its block ended without an error.
    """

    is_read_to_its_end: bool

    @property
    def known_tenant(self) -> UUID | None:
        """The tenant that the session has taken; None before its first use."""


class Unit:
    """A unit of work: a session's transaction from its first statement to its end, or a call of the store.

    Args:
        session: The session of the transaction; None for a call of the store.
        tenant: The tenant of a call of the store.
    """

    def __init__(self, session: TenantsSession | None = None, tenant: UUID | None = None) -> None:
        self.source: Source | None = None
        """The source of its statements; None before the first one."""
        self.started = time.perf_counter()
        self.is_committed = False
        self.is_over = False
        self.sent: dict[str, int] = {}
        """How often each statement was sent, if an observer counts."""
        self.span: Any = None
        self._session = None if session is None else weakref.ref(session)
        self._tenant = tenant

    @property
    def tenant(self) -> UUID | None:
        """The tenant, or None."""
        session = None if self._session is None else self._session()
        if session is not None:
            self._tenant = session.known_tenant or self._tenant
        return self._tenant

    @cached_property
    def place(self) -> Place:
        """Where it was begun; to be read while its first statement is sent."""
        return find_place()


class Call:
    """A statement that is sent, and once it is answered, its result."""

    def __init__(self, source: Source, sql: str, parameters: Any = None, unit: Unit | None = None) -> None:
        self.source = source
        self.sql = sql
        self.parameters = parameters
        self.unit = unit
        self.started = time.perf_counter()
        self.seconds = 0.0
        self.rows: int | None = None
        self.error: BaseException | None = None
        self.span: Any = None

    @cached_property
    def place(self) -> Place:
        """Where it comes from; to be read while it is sent or answered, when its caller waits for it."""
        return find_place()

    @property
    def tenant(self) -> UUID | None:
        """The tenant, or None."""
        return current_tenant() if self.unit is None else self.unit.tenant

    def end(self, *, rows: int | None = None, error: BaseException | None = None) -> None:
        """Notify the observers that the statement was answered, or failed."""
        self.seconds = time.perf_counter() - self.started
        self.rows, self.error = rows, error
        self.source.notify("answered", self)


class PoolState(NamedTuple):
    """The state of a pool."""

    size: int
    in_use: int
    waiting: int
    limit: int


class Watcher:
    """The base of observers: a method for each event. What a method raises is logged, and the caller goes on."""

    def joined(self, source: Source) -> None:
        """An engine or the store is observed from now on."""

    def sent(self, call: Call) -> None:
        """A statement is about to be sent."""

    def answered(self, call: Call) -> None:
        """A statement was answered, or failed: then the call has an `error`."""

    def failed(self, source: Source, error: BaseException) -> None:
        """Something other than a statement failed: a COMMIT, opening a connection."""

    def began(self, unit: Unit) -> None:
        """A unit of work sends its first statement."""

    def ended(self, unit: Unit) -> None:
        """A unit of work has ended."""

    def took(self, source: Source, seconds: float) -> None:
        """A caller waited this long for a connection, and got one or not."""

    def opened(self, source: Source, connection: Any) -> None:
        """A connection of the driver was opened."""

    def dropped(self, source: Source, reason: str) -> None:
        """A connection was dropped: `lost`, `aged` or `cancelled`."""

    def retried(self, reason: str) -> None:
        """A unit of work is run again."""

    def replica_seen(self, lag_seconds: float | None) -> None:
        """The replica was checked: how far it is behind, or None if it does not answer."""

    def revision_seen(self, *, is_behind: bool) -> None:
        """The schema's revision was checked."""


_EVENTS: Final = ("joined", "sent", "answered", "failed", "began", "ended", "took", "opened", "dropped")


class Source:
    """An engine or the store that is observed, by the name of its pool.

    Args:
        name: The name of the pool.
        engine: The engine of the connections.
        watchers: The observers.
    """

    def __init__(self, name: str, engine: DatabaseEngine, watchers: Iterable[Watcher]) -> None:
        self.name = name
        self.engine = engine
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self.pool_state: Callable[[], PoolState] | None = None
        """Returns the state of the pool; None if nothing is pooled."""
        watchers = tuple(watchers)
        self._listeners: dict[str, tuple[Callable[..., None], ...]] = {
            event: tuple(getattr(one, event) for one in watchers if _has(one, event)) for event in _EVENTS
        }

    @property
    def is_over(self) -> bool:
        """Whether its event loop is closed: its connections cannot be used any more."""
        return self._loop is not None and self._loop.is_closed()

    def has_listener(self, *events: str) -> bool:
        """Return True if an observer listens to one of these events."""
        return any(self._listeners[event] for event in events)

    def notify(self, event: str, *what: Any) -> None:
        """Call the observers that listen to an event; log what they raise."""
        for listener in self._listeners[event]:
            try:
                listener(*what)
            except Exception as error:  # noqa: BLE001 - an exporter's fault must not be the caller's
                get_logger(__name__).warning("watcher_failed", event_name=event, error=type(error).__name__)


def _has(watcher: Watcher, event: str) -> bool:
    return getattr(type(watcher), event) is not getattr(Watcher, event)


def name_of_error(error: BaseException) -> str:
    """Return the name of an error's class, or of the first one above it that is not private."""
    return next(kind.__name__ for kind in type(error).__mro__ if not kind.__name__.startswith("_"))
