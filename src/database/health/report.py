"""The report of all health checks, and its JSON: it contains no secret, no host, no user and no text of the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from src.database.check_result import CheckResult

__all__ = ["HealthReport", "Status"]

Status = Literal["healthy", "degraded", "unhealthy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """The results of all health checks.

    Args:
        service: The application name under which the server knows the connections of this process.
        checks: The results by name.
    """

    service: str
    checks: Mapping[str, CheckResult]

    @property
    def status(self) -> Status:
        """The worst status of the checks."""
        found = {check.status for check in self.checks.values()}
        if "unhealthy" in found:
            return "unhealthy"
        return "degraded" if "degraded" in found else "healthy"

    @property
    def can_serve(self) -> bool:
        """Whether this process can answer requests; true for a degraded process."""
        return self.status != "unhealthy"

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON types: status, service, and the checks by name."""
        checks = {name: _as_json(check) for name, check in self.checks.items()}
        return {"status": self.status, "service": self.service, "checks": checks}


def _as_json(check: CheckResult) -> dict[str, Any]:
    document = {"status": check.status, "duration_ms": check.duration_ms, "found": check.found}
    return document if check.remedy is None else {**document, "remedy": check.remedy}
