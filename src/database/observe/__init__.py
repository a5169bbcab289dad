"""What the operator sees: metrics, traces, and logs of statements. What is not switched on costs nothing."""

from src.database.observe.default_tenant import DefaultTenantLog
from src.database.observe.switches import (
    count_retry,
    report_replica,
    report_revision,
    source_of,
    use_metrics,
    use_settings_alone,
    use_tracing,
    watch,
)
from src.database.observe.watcher import Call, PoolState, Source, Unit, Watcher

__all__ = [
    "Call",
    "DefaultTenantLog",
    "PoolState",
    "Source",
    "Unit",
    "Watcher",
    "count_retry",
    "report_replica",
    "report_revision",
    "source_of",
    "use_metrics",
    "use_settings_alone",
    "use_tracing",
    "watch",
]
