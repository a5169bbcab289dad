"""The result of a check, in `thea-db doctor`, `thea-db check` and the health reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

CheckStatus = Literal["ok", "warning", "failed", "skipped", "healthy", "degraded", "unhealthy"]
"""A check returns ok, warning, failed or skipped.

A health report has healthy in place of ok, degraded in place of warning, and unhealthy in place of failed.
"""
FAILURES: Final = frozenset({"failed", "unhealthy"})


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check, without secrets.

    Args:
        status: ``warning`` and ``degraded``: the checked thing works, and should be repaired. ``failed`` and
            ``unhealthy``: it does not work, or must not be used. ``skipped``: it was not checked.
        found: The finding, in words.
        remedy: How to repair the fault.
        duration_ms: The duration of the check in milliseconds; only health reports measure it.
    """

    status: CheckStatus
    found: str
    remedy: str | None = None
    duration_ms: float = 0.0


def ok(found: str) -> CheckResult:
    """Return the result of a check without a fault."""
    return CheckResult("ok", found)


def warning(found: str, remedy: str) -> CheckResult:
    """Return the result of a check with a fault that does not prevent use."""
    return CheckResult("warning", found, remedy)


def failed(found: str, remedy: str | None = None) -> CheckResult:
    """Return the result of a check with a fault that prevents use, or must prevent it."""
    return CheckResult("failed", found, remedy)


def skipped(reason: str) -> CheckResult:
    """Return the result of a check that was not possible, or not necessary."""
    return CheckResult("skipped", reason)
