"""Is this process alive, and can it serve? Answers within limits, for probes and people; they never raise."""

from src.database.check_result import CheckResult
from src.database.health.readiness import liveness, readiness
from src.database.health.report import HealthReport

__all__ = ["CheckResult", "HealthReport", "liveness", "readiness"]
