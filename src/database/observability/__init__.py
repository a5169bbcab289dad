"""Metrics, traces and logs of statements: observers of engines and sessions. What is switched off costs nothing."""

from src.database.observability.observers import Call, Observer, PoolState, Source, Unit
from src.database.observability.statement_names import DefaultTenantLog, names_statements
from src.database.observability.switches import (
    count_retry,
    report_replica,
    report_revision,
    source_of,
    use_metrics,
    use_observer,
    use_settings_alone,
    use_tracing,
    watch,
)

__all__ = [
    "Call",
    "DefaultTenantLog",
    "Observer",
    "PoolState",
    "Source",
    "Unit",
    "count_retry",
    "names_statements",
    "report_replica",
    "report_revision",
    "source_of",
    "use_metrics",
    "use_observer",
    "use_settings_alone",
    "use_tracing",
    "watch",
]
