"""What a check of the doctor finds, and with which remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Status", "failed", "ok", "skipped", "warning"]

Status = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; nothing secret is in it."""

    status: Status
    found: str
    remedy: str | None = None


def ok(found: str) -> Finding:
    """All is as it should be."""
    return Finding("ok", found)


def warning(found: str, remedy: str) -> Finding:
    """It works, and should not stay so."""
    return Finding("warning", found, remedy)


def failed(found: str, remedy: str | None) -> Finding:
    """It does not work, or must not be used."""
    return Finding("failed", found, remedy)


def skipped(why: str) -> Finding:
    """It could not be looked at, or does not matter here."""
    return Finding("skipped", why)
