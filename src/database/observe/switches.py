"""What is switched on: by the settings, or by the service itself before its first session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary, WeakSet, ref

from src.database.engine import DatabaseEngine
from src.database.errors import ConfigurationError
from src.database.observe.engines import watch_engine
from src.database.observe.query_log import log_watchers
from src.database.observe.watcher import Source, Watcher

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider
    from prometheus_client import CollectorRegistry

    from src.config import Settings

__all__ = [
    "count_retry",
    "report_replica",
    "report_revision",
    "source_of",
    "use_metrics",
    "use_settings_alone",
    "use_tracing",
    "watch",
]

_chosen: Final[dict[str, Watcher]] = {}
"""By the service."""
_listening: Final[WeakSet[Watcher]] = WeakSet()
_sources: Final[WeakKeyDictionary[DatabaseEngine, ref[Source]]] = WeakKeyDictionary()


def use_metrics(registry: CollectorRegistry | None = None) -> None:
    """Have every engine that is made from now on be measured, as `DATABASE_METRICS=true` does.

    Args:
        registry: Where the metrics are found; by default prometheus-client's own.

    Raises:
        ConfigurationError: prometheus-client is not installed.
    """
    _chosen["metrics"] = _metrics(registry)


def use_tracing(provider: TracerProvider | None = None) -> None:
    """Have every engine that is made from now on be traced, as `DATABASE_TRACING=true` does.

    Args:
        provider: Where the spans go; by default OpenTelemetry's own, as the service has set it up.

    Raises:
        ConfigurationError: opentelemetry-api is not installed.
    """
    _chosen["tracing"] = _tracing(provider)


def use_settings_alone() -> None:
    """Have engines that are made from now on be watched as the settings say, whatever was asked for before."""
    _chosen.clear()


def watch(engine: DatabaseEngine, settings: Settings, *, name: str) -> DatabaseEngine:
    """Have an engine be watched as the settings and the service ask for; where nobody asks, this does nothing.

    `get_db`, `get_read_db`, `get_engine` and `get_store` have it done; an engine of `create_engine` is the service's.

    Args:
        engine: One that nobody watches yet.
        settings: What is switched on.
        name: What metrics, traces and logs call its pool.

    Returns:
        The engine.

    Raises:
        ConfigurationError: What the settings ask for is not installed.
    """
    chosen = dict(_chosen)
    if settings.DATABASE_METRICS and "metrics" not in chosen:
        chosen["metrics"] = _metrics()
    if settings.DATABASE_TRACING and "tracing" not in chosen:
        chosen["tracing"] = _tracing()
    if watchers := [*chosen.values(), *log_watchers(settings)]:
        _listening.update(watchers)
        source = Source(name, engine, watchers)
        _sources[engine] = ref(source)  # weakly, since it holds the engine; the engine's listeners hold it
        watch_engine(source)
        source.tell("joined", source)
    return engine


def source_of(engine: DatabaseEngine) -> Source | None:
    """Return how an engine is watched, or None where nobody does."""
    known = _sources.get(engine)
    return None if known is None else known()


def count_retry(reason: str) -> None:
    """Count that a unit of work is done again.

    Args:
        reason: The name of the error's class.
    """
    for watcher in list(_listening):
        watcher.retried(reason)


def _metrics(registry: CollectorRegistry | None = None) -> Watcher:
    try:
        from src.database.observe.metrics import metrics_of  # noqa: PLC0415 - an extra, imported where it is used
    except ImportError as error:
        raise ConfigurationError(
            "metrics are asked for and prometheus-client is not installed", hint="pip install 'thea-database[metrics]'"
        ) from error
    return metrics_of(registry)


def _tracing(provider: TracerProvider | None = None) -> Watcher:
    try:
        from src.database.observe.tracing import Tracing  # noqa: PLC0415 - an extra, imported where it is used
    except ImportError as error:
        raise ConfigurationError(
            "tracing is asked for and opentelemetry-api is not installed", hint="pip install 'thea-database[tracing]'"
        ) from error
    return Tracing(provider)


def report_replica(lag_seconds: float | None) -> None:
    """Say how far behind the replica is, in seconds; None: it does not answer."""
    for watcher in list(_listening):
        watcher.replica_seen(lag_seconds)


def report_revision(*, is_behind: bool) -> None:
    """Say whether the database lacks migrations of this release."""
    for watcher in list(_listening):
        watcher.revision_seen(is_behind=is_behind)
