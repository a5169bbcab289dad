"""Switches for metrics, traces and logs: by the settings, or by the service before its first session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from src.database.engine import DatabaseEngine
from src.database.errors import ConfigurationError
from src.database.observability.engines import watch_engine
from src.database.observability.query_log import log_watchers
from src.database.observability.watcher import Source, Watcher

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider
    from prometheus_client import CollectorRegistry

    from src.config import Settings

_chosen: Final[dict[str, Watcher]] = {}
"""By the service."""
_listening: Final[WeakSet[Watcher]] = WeakSet()
_SOURCE: Final = "observability"
"""The key of the source in what is attached to an engine."""


def use_metrics(registry: CollectorRegistry | None = None) -> None:
    """Switch metrics on for every engine that is created from now on, as `DATABASE_METRICS=true` does.

    Args:
        registry: The registry of the metrics; by default prometheus-client's own.

    Raises:
        ConfigurationError: prometheus-client is not installed.
    """
    _chosen["metrics"] = _metrics(registry)


def use_tracing(provider: TracerProvider | None = None) -> None:
    """Switch traces on for every engine that is created from now on, as `DATABASE_TRACING=true` does.

    Args:
        provider: The provider of the spans; by default OpenTelemetry's own, as the service has set it up.

    Raises:
        ConfigurationError: opentelemetry-api is not installed.
    """
    _chosen["tracing"] = _tracing(provider)


def use_settings_alone() -> None:
    """Undo `use_metrics` and `use_tracing` for engines that are created from now on: only the settings decide."""
    _chosen.clear()


def watch(engine: DatabaseEngine, settings: Settings, *, name: str) -> DatabaseEngine:
    """Observe an engine by what the settings and the service have switched on; do nothing if all is off.

    The engines of `get_db`, `get_read_db`, `get_engine` and `get_store` are observed already.

    Args:
        engine: An engine of `create_engine` that is not observed yet.
        settings: What is switched on.
        name: The name of its pool in metrics, traces and logs.

    Returns:
        The engine.

    Raises:
        ConfigurationError: What the settings switch on is not installed.
    """
    chosen = dict(_chosen)
    if settings.DATABASE_METRICS and "metrics" not in chosen:
        chosen["metrics"] = _metrics()
    if settings.DATABASE_TRACING and "tracing" not in chosen:
        chosen["tracing"] = _tracing()
    if watchers := [*chosen.values(), *log_watchers(settings)]:
        _listening.update(watchers)
        source = Source(name, engine, watchers)
        engine.attached[_SOURCE] = source
        watch_engine(source)
        source.notify("joined", source)
    return engine


def source_of(engine: DatabaseEngine) -> Source | None:
    """Return the source of an engine that is observed, or None."""
    source: Source | None = engine.attached.get(_SOURCE)
    return source


def count_retry(reason: str) -> None:
    """Count the retry of a unit of work.

    Args:
        reason: The name of the error's class.
    """
    for watcher in list(_listening):
        watcher.retried(reason)


def _metrics(registry: CollectorRegistry | None = None) -> Watcher:
    try:
        from src.database.observability.metrics import metrics_of  # noqa: PLC0415 - an extra, imported where it is used
    except ImportError as error:
        raise ConfigurationError(
            "metrics are asked for and prometheus-client is not installed", hint="pip install 'thea-database[metrics]'"
        ) from error
    return metrics_of(registry)


def _tracing(provider: TracerProvider | None = None) -> Watcher:
    try:
        from src.database.observability.tracing import Tracing  # noqa: PLC0415 - an extra, imported where it is used
    except ImportError as error:
        raise ConfigurationError(
            "tracing is asked for and opentelemetry-api is not installed", hint="pip install 'thea-database[tracing]'"
        ) from error
    return Tracing(provider)


def report_replica(lag_seconds: float | None) -> None:
    """Record how far the replica is behind, in seconds; None if it does not answer."""
    for watcher in list(_listening):
        watcher.replica_seen(lag_seconds)


def report_revision(*, is_behind: bool) -> None:
    """Record whether the database lacks migrations of this release."""
    for watcher in list(_listening):
        watcher.revision_seen(is_behind=is_behind)
