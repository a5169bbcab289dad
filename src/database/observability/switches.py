"""Switches for metrics, traces and logs: the settings, or calls of the service before its first session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from src.database.engine import DatabaseEngine
from src.database.errors import ConfigurationError
from src.database.observability.engine_events import observe_engine
from src.database.observability.observers import Observer, Source
from src.database.observability.query_log import log_observers

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider
    from prometheus_client import CollectorRegistry

    from src.config import Settings

_chosen: Final[dict[str, Observer]] = {}
"""The observers that the service has chosen: they replace those of the settings."""
_listening: Final[WeakSet[Observer]] = WeakSet()
"""All observers: retries, the replica and the revision are reported without an engine."""
_SOURCE: Final = "observability"
"""The key of the source in what is attached to an engine."""


def use_metrics(registry: CollectorRegistry | None = None) -> None:
    """Switch metrics on for every engine that is created afterwards, as `DATABASE_METRICS=true` does.

    Args:
        registry: The registry of the metrics; by default prometheus-client's own.

    Raises:
        ConfigurationError: prometheus-client is not installed.
    """
    _chosen["metrics"] = _metrics(registry)


def use_tracing(provider: TracerProvider | None = None) -> None:
    """Switch traces on for every engine that is created afterwards, as `DATABASE_TRACING=true` does.

    Args:
        provider: The provider of the spans; by default OpenTelemetry's own, as the service has set it up.

    Raises:
        ConfigurationError: opentelemetry-api is not installed.
    """
    _chosen["tracing"] = _tracing(provider)


def use_observer(name: str, observer: Observer) -> None:
    """Use an observer for every engine that is created afterwards.

    Args:
        name: The name of the observer; a later observer of this name replaces it.
        observer: The observer.
    """
    _chosen[name] = observer


def use_settings_alone() -> None:
    """Undo the `use_` functions for engines that are created afterwards: only the settings decide."""
    _chosen.clear()


def watch(engine: DatabaseEngine, settings: Settings, *, name: str) -> DatabaseEngine:
    """Observe an engine with what the settings and the service have switched on; do nothing if all is off.

    The engines of `get_db`, `get_read_db`, `get_engine` and `get_store` are observed already.

    Args:
        engine: An engine of `create_engine` that is not observed yet.
        settings: The switches.
        name: The name of its pool in metrics, traces and logs.

    Returns:
        The engine.

    Raises:
        ConfigurationError: A package that the switches need is not installed.
    """
    chosen = dict(_chosen)
    if settings.DATABASE_METRICS and "metrics" not in chosen:
        chosen["metrics"] = _metrics()
    if settings.DATABASE_TRACING and "tracing" not in chosen:
        chosen["tracing"] = _tracing()
    if observers := [*chosen.values(), *log_observers(settings)]:
        _listening.update(observers)
        source = Source(name, engine, observers)
        engine.attached[_SOURCE] = source
        observe_engine(source)
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
    for observer in list(_listening):
        observer.retried(reason)


def _metrics(registry: CollectorRegistry | None = None) -> Observer:
    try:
        from src.database.observability.metrics import metrics_of  # noqa: PLC0415 - an extra, imported where it is used
    except ImportError as error:
        raise ConfigurationError(
            "DATABASE_METRICS and use_metrics need prometheus-client, which is not installed",
            hint="pip install 'thea-database[metrics]'",
        ) from error
    return metrics_of(registry)


def _tracing(provider: TracerProvider | None = None) -> Observer:
    try:
        from src.database.observability.tracing import Tracing  # noqa: PLC0415 - an extra, imported where it is used
    except ImportError as error:
        raise ConfigurationError(
            "DATABASE_TRACING and use_tracing need opentelemetry-api, which is not installed",
            hint="pip install 'thea-database[tracing]'",
        ) from error
    return Tracing(provider)


def report_replica(lag_seconds: float | None) -> None:
    """Report the lag of the replica in seconds; None if it does not answer."""
    for observer in list(_listening):
        observer.replica_seen(lag_seconds)


def report_revision(*, is_behind: bool) -> None:
    """Report whether the database lacks migrations of this release or of the service."""
    for observer in list(_listening):
        observer.revision_seen(is_behind=is_behind)
