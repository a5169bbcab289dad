"""The one seam: what is told of statements, units of work and connections, and to whom."""

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
        """Where it sends its statements to; None before the first."""
        self.started = time.perf_counter()
        self.is_committed = False
        self.is_over = False
        self.sent: dict[str, int] = {}
        """How often each statement was sent, where somebody counts."""
        self.span: Any = None
        self._session = None if session is None else weakref.ref(session)
        self._tenant = tenant

    @property
    def tenant(self) -> UUID | None:
        """Who acts, or None."""
        session = None if self._session is None else self._session()
        if session is not None:
            self._tenant = session.known_tenant or self._tenant
        return self._tenant

    @cached_property
    def place(self) -> Place:
        """Where it was begun; to be asked for while its first statement is sent."""
        return find_place()


class Call:
    """A statement on its way, and, once it is answered, what came of it."""

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
        """Where it comes from; to be asked for while it is sent or answered, for then its caller waits for it."""
        return find_place()

    @property
    def tenant(self) -> UUID | None:
        """Who acts, or None."""
        return current_tenant() if self.unit is None else self.unit.tenant

    def end(self, *, rows: int | None = None, error: BaseException | None = None) -> None:
        """Tell whoever listens that it was answered, or failed."""
        self.seconds = time.perf_counter() - self.started
        self.rows, self.error = rows, error
        self.source.tell("answered", self)


class PoolState(NamedTuple):
    """A pool as it is now."""

    size: int
    in_use: int
    waiting: int
    limit: int


class Watcher:
    """Hears what it has a method for; what it raises reaches nobody but the log."""

    def joined(self, source: Source) -> None:
        """An engine, or the store, is watched from now on."""

    def sent(self, call: Call) -> None:
        """A statement is about to be sent."""

    def answered(self, call: Call) -> None:
        """It was answered, or failed: then it has an `error`."""

    def failed(self, source: Source, error: BaseException) -> None:
        """Something failed that is no statement: a COMMIT, a connection that could not be had."""

    def began(self, unit: Unit) -> None:
        """A unit of work sends its first statement."""

    def ended(self, unit: Unit) -> None:
        """It is over."""

    def took(self, source: Source, seconds: float) -> None:
        """A connection was had, or not, after so long."""

    def opened(self, source: Source, connection: Any) -> None:
        """A connection of the driver's was opened."""

    def dropped(self, source: Source, reason: str) -> None:
        """One was given up: `lost`, `aged` or `cancelled`."""

    def retried(self, reason: str) -> None:
        """A whole unit of work is done again."""

    def replica_seen(self, lag_seconds: float | None) -> None:
        """Somebody looked at the replica: how far behind it is, or None where it does not answer."""

    def revision_seen(self, *, is_behind: bool) -> None:
        """Somebody looked at the schema's revision."""


_EVENTS: Final = ("joined", "sent", "answered", "failed", "began", "ended", "took", "opened", "dropped")


class Source:
    """What is watched: an engine or the store, by the name of its pool.

    Args:
        name: The pool's.
        engine: Whose connections they are.
        watchers: Who listens.
    """

    def __init__(self, name: str, engine: DatabaseEngine, watchers: Iterable[Watcher]) -> None:
        self.name = name
        self.engine = engine
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self.pool_state: Callable[[], PoolState] | None = None
        """Says how its pool is; None where nothing is pooled."""
        watchers = tuple(watchers)
        self._hear: dict[str, tuple[Callable[..., None], ...]] = {
            event: tuple(getattr(one, event) for one in watchers if _has(one, event)) for event in _EVENTS
        }

    @property
    def is_over(self) -> bool:
        """Whether its event loop is: nobody can use its connections any more."""
        return self._loop is not None and self._loop.is_closed()

    def hears(self, *events: str) -> bool:
        """Say whether anybody listens to one of these."""
        return any(self._hear[event] for event in events)

    def tell(self, event: str, *what: Any) -> None:
        """Tell whoever listens; the one who is watched goes on, whatever comes of it."""
        for hear in self._hear[event]:
            try:
                hear(*what)
            except Exception as error:  # noqa: BLE001 - an exporter's fault must not be the caller's
                get_logger(__name__).warning("watcher_failed", event_name=event, error=type(error).__name__)


def _has(watcher: Watcher, event: str) -> bool:
    return getattr(type(watcher), event) is not getattr(Watcher, event)


def name_of_error(error: BaseException) -> str:
    """Return the name of an error's class, or of the first one above it that is not private."""
    return next(kind.__name__ for kind in type(error).__mro__ if not kind.__name__.startswith("_"))
