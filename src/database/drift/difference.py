"""One difference between the database and what the code expects of it, with the statements that mend it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from src.database.drift.catalog import Catalogue, Facts

__all__ = ["Case", "Difference", "Severity", "Statements"]

Severity = Literal["error", "warning"]
Statements = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What differs.

    Args:
        kind: column, index, policy, rights, and so on.
        object: Its name, with its table's where it belongs to one.
        attribute: Which of its facts differs; ``missing`` or ``extra`` where the whole does.
        expected: What it should be.
        found: What it is.
        remedy: SQL statements, to be run one by one in the schema as the owner of the tables; a line that begins with
            ``--`` is what to know or to do before the next one; one that begins with ``thea-db`` is a command.
        severity: ``error``: a statement of the code's can fail, or a wall stands open; ``warning``: none can.
    """

    kind: str
    object: str
    attribute: str
    expected: Any = None
    found: Any = None
    remedy: Statements
    severity: Severity = "error"

    def __str__(self) -> str:
        name = f"{self.kind} {self.object}"
        match self.attribute:
            case "missing":
                return f"{name} is missing"
            case "extra":
                return f"{name} is not part of this release's schema"
            case "revision":
                return f"the database must be at revision {_show(self.expected)}, and is at {_show(self.found)}"
            case _:
                return f"{name}: {self.attribute} must be {_show(self.expected)}, is {_show(self.found)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One object in which the two catalogues differ, and all that stands around it."""

    kind: str
    object: str
    wanted: Facts
    """What is expected of it; empty where it is extra."""
    found: Facts
    """What there is; empty where it is missing."""
    expected: Catalogue
    live: Catalogue

    @property
    def table(self) -> str:
        """The table that it belongs to, quoted where it needs it."""
        return str((self.wanted or self.found)["table"])

    @property
    def name(self) -> str:
        """Its own name, quoted where it needs it."""
        return str((self.wanted or self.found).get("_name", self.object))


def _show(value: Any) -> str:
    if isinstance(value, str):
        return value.strip() or "''"
    return "none" if value in (None, [], {}) else json.dumps(value, ensure_ascii=False)
