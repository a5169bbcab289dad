"""Health reports for probes and operators: liveness and readiness answer within limits, and report each fault."""

from src.database.check_result import CheckResult
from src.database.health.checks import examine_service_revision, judge_revision, unreadable
from src.database.health.readiness import liveness, readiness
from src.database.health.report import HealthReport

__all__ = [
    "CheckResult",
    "HealthReport",
    "examine_service_revision",
    "judge_revision",
    "liveness",
    "readiness",
    "unreadable",
]
