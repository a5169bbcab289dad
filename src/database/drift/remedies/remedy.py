"""What a kind of object needs to be mended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from src.database.drift.difference import Case, Statements

__all__ = ["REWRITES", "Remedy", "at_once", "never"]

REWRITES: Final = "-- rewrites the table, and nobody reads or writes it meanwhile: at a quiet hour"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """How to make what is missing, drop what is extra, and change one attribute to what is expected."""

    make: Callable[[Case], Statements]
    change: Callable[[Case, str], Statements]
    drop: Callable[[Case], Statements]


def at_once(*statements: str) -> Statements:
    """Have several statements seen by the others as one."""
    return ("BEGIN", *statements, "COMMIT")


def never(case: Case) -> Statements:
    """Drop nothing of a kind whose extras are not ours to judge."""
    return (f"-- {case.kind} {case.object} is not ours",)
