"""A difference between the database and what the code expects, with the statements that repair it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from src.database.drift.catalog import Catalog, Facts

Severity = Literal["error", "warning"]
Statements = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact in which the database is not what the code expects.

    Args:
        kind: column, index, policy, rights, and so on.
        object: The name of the object, with its table's name if it belongs to a table.
        attribute: The fact that differs; ``missing`` or ``extra`` if the whole object does.
        remedy: SQL statements, to be run one by one in the schema as the owner of the tables; a line that begins with
            ``--`` is a remark on the next one; a line that begins with ``thea-db`` is a command.
        expected: The expected value.
        found: The value in the database.
        severity: ``error``: a statement of the code can fail, or an isolation layer is open; ``warning``: neither.
    """

    kind: str
    object: str
    attribute: str
    remedy: Statements
    expected: Any = None
    found: Any = None
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


@dataclass(frozen=True, slots=True)
class Case:
    """An object that one of two catalogs has, or both."""

    kind: str
    object: str
    expected: Catalog
    live: Catalog

    @property
    def wanted(self) -> Facts:
        """The expected facts; empty if the object is extra."""
        return self.expected.of(self.kind).get(self.object, {})

    @property
    def found(self) -> Facts:
        """The facts in the database; empty if the object is missing."""
        return self.live.of(self.kind).get(self.object, {})

    @property
    def table(self) -> str:
        """The table that the object belongs to, quoted if necessary."""
        return str((self.wanted or self.found)["table"])

    @property
    def name(self) -> str:
        """The object's own name, quoted if necessary."""
        return str((self.wanted or self.found).get("_name", self.object))


def _show(value: Any) -> str:
    if isinstance(value, str):
        return value.strip() or "''"
    return "none" if value in (None, [], {}) else json.dumps(value, ensure_ascii=False)
