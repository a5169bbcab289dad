"""The result of one check, as `doctor`, `check`, `check --service` and the health reports return it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

CheckStatus = Literal["ok", "warning", "failed", "skipped", "healthy", "degraded", "unhealthy"]
"""The commands report ok, warning and failed; health reports use the words that probes know for the same three."""
FAILURES: Final = frozenset({"failed", "unhealthy"})


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check; it contains nothing secret.

    Args:
        status: ``warning`` and ``degraded``: it works, and should be repaired. ``failed`` and ``unhealthy``: it does
            not work, or must not be used. ``skipped``: it was not checked, or does not matter here.
        found: What the check found.
        remedy: How to repair it.
        duration_ms: How long the check took, in milliseconds; only health reports measure it.
    """

    status: CheckStatus
    found: str
    remedy: str | None = None
    duration_ms: float = 0.0


def ok(found: str) -> CheckResult:
    """Return the result of a check that found no fault."""
    return CheckResult("ok", found)


def warning(found: str, remedy: str) -> CheckResult:
    """Return the result of a check of something that works and should be repaired."""
    return CheckResult("warning", found, remedy)


def failed(found: str, remedy: str | None = None) -> CheckResult:
    """Return the result of a check of something that does not work, or must not be used."""
    return CheckResult("failed", found, remedy)


def skipped(reason: str) -> CheckResult:
    """Return the result of a check that was not possible, or does not matter here."""
    return CheckResult("skipped", reason)


def healthy(found: str) -> CheckResult:
    """Return the result of a health check that found no fault."""
    return CheckResult("healthy", found)


def degraded(found: str, remedy: str) -> CheckResult:
    """Return the result of a health check that found a fault with which the process can serve."""
    return CheckResult("degraded", found, remedy)


def unhealthy(found: str, remedy: str) -> CheckResult:
    """Return the result of a health check that found a fault with which the process cannot serve."""
    return CheckResult("unhealthy", found, remedy)
