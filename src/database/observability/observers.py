"""Observers of statements, units of work and connections; the source that notifies them, and what they receive."""

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
from src.database.observability.statement_names import Origin, find_origin
from src.database.tenant_scope import current_tenant


@runtime_checkable
class TenantsSession(Protocol):
    """A session of this package, as far as an observer needs it.

    Attributes:
        has_only_read: True if the session has only read and its block ended without an error.
    """

    has_only_read: bool

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
        """How often each SQL text was sent, if an observer counts."""
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
    def origin(self) -> Origin:
        """The origin of its first statement. Read it while that statement is sent: it is found on the stack."""
        return find_origin()


class Call:
    """A statement that is sent; after its answer, also the duration, and the number of rows or the error.

    Args:
        source: The engine or the store that sends it.
        sql: The text.
        parameters: The values of its parameters.
        unit: The unit of work that it is part of, or None.
    """

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
    def origin(self) -> Origin:
        """The origin of the statement. Read it before the caller goes on: it is found on the stack."""
        return find_origin()

    @property
    def tenant(self) -> UUID | None:
        """The tenant, or None."""
        return current_tenant() if self.unit is None else self.unit.tenant

    def end(self, *, rows: int | None = None, error: BaseException | None = None) -> None:
        """Record the result, and notify the observers."""
        self.seconds = time.perf_counter() - self.started
        self.rows, self.error = rows, error
        self.source.notify("answered", self)


class PoolState(NamedTuple):
    """The state of a pool.

    Attributes:
        size: Connections that are open, in use or idle.
        in_use: Connections in use.
        waiting: Callers that wait for a connection.
        limit: The most connections that the pool opens.
    """

    size: int
    in_use: int
    waiting: int
    limit: int


class Observer:
    """The base class of observers: a method for each event. An error that a method raises is logged, not raised."""

    def joined(self, source: Source) -> None:
        """Prepare for an engine or the store, which is observed from now on."""

    def sent(self, call: Call) -> None:
        """Handle a statement that is about to be sent."""

    def answered(self, call: Call) -> None:
        """Handle a statement that was answered or failed; a failed call has an `error`."""

    def failed(self, source: Source, error: BaseException) -> None:
        """Handle the failure of an operation other than a statement: a COMMIT, a checkout, opening a connection."""

    def began(self, unit: Unit) -> None:
        """Handle a unit of work that is about to send its first statement."""

    def ended(self, unit: Unit) -> None:
        """Handle the end of a unit of work."""

    def took(self, source: Source, seconds: float) -> None:
        """Handle a checkout: a caller has waited this long for a connection, with or without success."""

    def opened(self, source: Source, connection: Any) -> None:
        """Handle the opening of a driver connection."""

    def dropped(self, source: Source, reason: str) -> None:
        """Handle a dropped connection: `lost`, `aged` or `cancelled`."""

    def retried(self, reason: str) -> None:
        """Handle the repetition of a unit of work."""

    def replica_seen(self, lag_seconds: float | None) -> None:
        """Handle a check of the replica: its lag in seconds, or None if it does not answer."""

    def revision_seen(self, *, is_behind: bool) -> None:
        """Handle a check of the schema's revision."""


_EVENTS: Final = ("joined", "sent", "answered", "failed", "began", "ended", "took", "opened", "dropped")


class Source:
    """An engine or the store that is observed, under the name of its pool.

    Args:
        name: The name of the pool.
        engine: The engine of the connections.
        observers: The observers.
    """

    def __init__(self, name: str, engine: DatabaseEngine, observers: Iterable[Observer]) -> None:
        self.name = name
        self.engine = engine
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self.pool_state: Callable[[], PoolState] | None = None
        """Returns the state of the pool; None if nothing is pooled."""
        observers = tuple(observers)
        self._listeners: dict[str, tuple[Callable[..., None], ...]] = {
            event: tuple(getattr(observer, event) for observer in observers if _implements(observer, event))
            for event in _EVENTS
        }

    @property
    def is_over(self) -> bool:
        """True if its event loop is closed: its connections cannot be used any more."""
        return self._loop is not None and self._loop.is_closed()

    def has_listener(self, *events: str) -> bool:
        """Return True if an observer listens to one of these events."""
        return any(self._listeners[event] for event in events)

    def notify(self, event: str, *arguments: Any) -> None:
        """Call the observers of an event; log an error that one of them raises."""
        for listener in self._listeners[event]:
            try:
                listener(*arguments)
            except Exception as error:  # noqa: BLE001 - an exporter's error must not fail the statement
                get_logger(__name__).warning("watcher_failed", event_name=event, error=type(error).__name__)


def _implements(observer: Observer, event: str) -> bool:
    return getattr(type(observer), event) is not getattr(Observer, event)


def name_of_error(error: BaseException) -> str:
    """Return the name of an error's class, or of its nearest base class that is not private."""
    return next(kind.__name__ for kind in type(error).__mro__ if not kind.__name__.startswith("_"))
