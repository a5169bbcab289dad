"""Metrics, traces and logs of statements: subscribers of engines and sessions. What is off costs nothing."""

from src.database.observability.callers import DefaultTenantLog, names_statements
from src.database.observability.switches import (
    count_retry,
    report_replica,
    report_revision,
    source_of,
    use_metrics,
    use_settings_alone,
    use_tracing,
    watch,
)
from src.database.observability.watcher import Call, PoolState, Source, Unit, Watcher

__all__ = [
    "Call",
    "DefaultTenantLog",
    "PoolState",
    "Source",
    "Unit",
    "Watcher",
    "count_retry",
    "names_statements",
    "report_replica",
    "report_revision",
    "source_of",
    "use_metrics",
    "use_settings_alone",
    "use_tracing",
    "watch",
]
