"""Metrics for Prometheus: pools, statements, errors, transactions. Labels are names from the code, never data."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from src.database import errors
from src.database.observability.observers import Call, Observer, Source, Unit, name_of_error

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_POOL: Final = {
    "size": "Connections that are open, in use or idle.",
    "in_use": "Connections in use.",
    "waiting": "Callers that wait for a connection.",
    "limit": "The most connections that the pool opens.",
}
_SEEN: Final = {
    "replica_up": "Whether the replica answered: 1 or 0.",
    "replica_lag_seconds": "The lag of the replica when it last answered.",
    "revision_behind": "Whether the schema lacks migrations of this release or of the service: 1 or 0.",
}
"""Set by checks, and absent before the first one: an alert on 0 would fire in every service that has no checks."""
_ERRORS: Final = tuple(
    kind.__name__
    for _, kind in sorted(vars(errors).items())
    if isinstance(kind, type) and issubclass(kind, errors.DatabaseError)
)
_REASONS: Final = ("lost", "aged", "cancelled")
_RETRIED: Final = ("ConnectionFailed", "DeadlockError", "SchemaChangedError", "SerializationError")

_of_registry: Final[WeakKeyDictionary[CollectorRegistry, Metrics]] = WeakKeyDictionary()


def metrics_of(registry: CollectorRegistry | None = None) -> Metrics:
    """Return the metrics of a registry, by default prometheus-client's own; create them at the first call."""
    registry = REGISTRY if registry is None else registry
    if registry not in _of_registry:
        _of_registry[registry] = Metrics(registry)
    return _of_registry[registry]


class Metrics(Observer):
    """Counts and times the operations of this process; a scrape sends no query.

    Args:
        registry: The registry of the metrics.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"thea_db_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"thea_db_{name}_seconds", text, labels, registry=registry, buckets=SECONDS)

        self._checkouts = histogram("checkout", "Seconds that a caller waited for a connection.", "pool")
        self._statements = histogram("statement", "Seconds that a statement took.", "pool", "operation")
        self._transactions = histogram("transaction", "Seconds that a unit of work took.", "pool", "outcome")
        self._errors = counter("errors", "Errors by their class.", "pool", "error")
        self._opened = counter("connections_opened", "Connections that were opened.", "pool")
        self._dropped = counter("connections_dropped", "Connections that were dropped.", "pool", "reason")
        self._retries = counter("retries", "Units of work that were run again.", "reason")
        for reason in _RETRIED:
            self._retries.labels(reason)
        self._registry = registry
        self._known: dict[str, Gauge] = {}
        # prometheus-client's `labels` takes a lock and converts the labels to text at each call.
        self._child: Callable[..., Any] = functools.cache(lambda metric, *labels: metric.labels(*labels))
        self._open: WeakSet[Unit] = WeakSet()
        self._sources: WeakSet[Source] = WeakSet()
        registry.register(_Now(self._sources, self._open))

    def joined(self, source: Source) -> None:
        """Create the counters of a pool at 0: `increase()` of PromQL does not see a counter appear at 1."""
        self._sources.add(source)
        self._opened.labels(source.name)
        for error in _ERRORS:
            self._errors.labels(source.name, error)
        for reason in _REASONS:
            self._dropped.labels(source.name, reason)

    def answered(self, call: Call) -> None:
        self._child(self._statements, call.source.name, call.origin.name).observe(call.seconds)
        if call.error is not None:
            self.failed(call.source, call.error)

    def failed(self, source: Source, error: BaseException) -> None:
        self._child(self._errors, source.name, name_of_error(error)).inc()

    def began(self, unit: Unit) -> None:
        self._open.add(unit)

    def ended(self, unit: Unit) -> None:
        self._open.discard(unit)
        assert unit.source is not None  # noqa: S101 - a unit that ends has sent a statement
        outcome = "committed" if unit.is_committed else "rolled back"
        self._child(self._transactions, unit.source.name, outcome).observe(time.perf_counter() - unit.started)

    def took(self, source: Source, seconds: float) -> None:
        self._child(self._checkouts, source.name).observe(seconds)

    def opened(self, source: Source, connection: object) -> None:
        self._child(self._opened, source.name).inc()

    def dropped(self, source: Source, reason: str) -> None:
        self._child(self._dropped, source.name, reason).inc()

    def retried(self, reason: str) -> None:
        self._child(self._retries, reason).inc()

    def replica_seen(self, lag_seconds: float | None) -> None:
        self._show("replica_up", float(lag_seconds is not None))
        self._show("replica_lag_seconds", lag_seconds)

    def revision_seen(self, *, is_behind: bool) -> None:
        self._show("revision_behind", float(is_behind))

    def _show(self, name: str, value: float | None) -> None:
        """Export a value once it is known; remove it while it is None."""
        if value is not None:
            if name not in self._known:
                self._known[name] = Gauge(f"thea_db_{name}", _SEEN[name], registry=self._registry)
            self._known[name].set(value)
        elif name in self._known:
            self._registry.unregister(self._known.pop(name))


class _Now(Collector):
    """Reads the gauges at each scrape: pools, the oldest unit of work, tunnels."""

    def __init__(self, sources: Iterable[Source], units: Iterable[Unit]) -> None:
        self._sources = sources
        self._units = units

    def collect(self) -> Iterator[Metric]:
        sources = [source for source in self._sources if not source.is_over]
        states = [(source.name, source.pool_state()) for source in sources if source.pool_state is not None]
        for field, text in _POOL.items():
            yield _family(f"pool_{field}", text, ((name, getattr(state, field)) for name, state in states))
        now = time.perf_counter()
        oldest: defaultdict[str, float] = defaultdict(float)
        for unit in self._units:
            if unit.source is not None:
                oldest[unit.source.name] = max(oldest[unit.source.name], now - unit.started)
        yield _family("oldest_transaction_seconds", "The age of the oldest open unit of work.", oldest.items())
        tunnels = ((one.name, one.engine.tunnel_is_up) for one in sources)
        text = "Whether the SSH tunnel is up: 1 or 0."
        yield _family("tunnel_up", text, ((name, is_up) for name, is_up in tunnels if is_up is not None))


def _family(name: str, text: str, values: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
    """Return a gauge with the sum of the values of each pool's name: each event loop has pools of its own."""
    sums: defaultdict[str, float] = defaultdict(float)
    for pool, value in values:
        sums[pool] += value
    family = GaugeMetricFamily(f"thea_db_{name}", text, labels=["pool"])
    for pool, value in sums.items():
        family.add_metric([pool], value)
    return family
