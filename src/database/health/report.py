"""What the checks found, as a type and as JSON: nothing secret is in it, and no host, user or text of the server's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Check", "CheckStatus", "HealthReport", "Status", "degraded", "healthy", "skipped", "unhealthy"]

Status = Literal["healthy", "degraded", "unhealthy"]
CheckStatus = Literal["healthy", "degraded", "unhealthy", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What one check found.

    Args:
        status: ``degraded``: the process serves, and somebody should look. ``unhealthy``: it cannot serve.
        found: What was seen.
        remedy: What to do, where something is to be done.
        duration_ms: How long the check took, in milliseconds.
    """

    status: CheckStatus
    found: str
    remedy: str | None = None
    duration_ms: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        document = {"status": self.status, "duration_ms": self.duration_ms, "found": self.found}
        return document if self.remedy is None else {**document, "remedy": self.remedy}


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """What all checks found.

    Args:
        service: Whose it is: the name that the server knows its connections by.
        checks: By name.
    """

    service: str
    checks: Mapping[str, Check]

    @property
    def status(self) -> Status:
        """The worst of the checks'."""
        found = {check.status for check in self.checks.values()}
        if "unhealthy" in found:
            return "unhealthy"
        return "degraded" if "degraded" in found else "healthy"

    @property
    def can_serve(self) -> bool:
        """Whether requests are to be sent here: also where something is degraded."""
        return self.status != "unhealthy"

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON knows it: status, service, and the checks by name."""
        checks = {name: check.as_json() for name, check in self.checks.items()}
        return {"status": self.status, "service": self.service, "checks": checks}


def healthy(found: str) -> Check:
    """All is as it should be."""
    return Check(status="healthy", found=found)


def degraded(found: str, remedy: str) -> Check:
    """The process serves, and somebody should look."""
    return Check(status="degraded", found=found, remedy=remedy)


def unhealthy(found: str, remedy: str) -> Check:
    """The process cannot serve."""
    return Check(status="unhealthy", found=found, remedy=remedy)


def skipped(why: str) -> Check:
    """It could not be looked at, or does not matter here."""
    return Check(status="skipped", found=why)
