"""Is this process alive, and can it serve? Answers within limits, for probes and people; they never raise."""

from src.database.health.readiness import liveness, readiness
from src.database.health.report import Check, HealthReport

__all__ = ["Check", "HealthReport", "liveness", "readiness"]
