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
    """A fact in which the database differs from what the code expects.

    Args:
        kind: column, index, policy, rights, and so on.
        object: The name of the object; the name of its table comes first if the object belongs to a table.
        attribute: The fact that differs; ``missing`` or ``extra`` if the whole object does.
        remedy: SQL statements, to be run one by one in the schema of the tables, as the owner of the tables. A line
            that begins with ``--`` is a remark on the next statement; a line that begins with ``thea-db`` is a command.
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
                return f"the database must be at revision {_render(self.expected)}, and is at {_render(self.found)}"
            case _:
                return f"{name}: {self.attribute} must be {_render(self.expected)}, is {_render(self.found)}"


@dataclass(frozen=True, slots=True)
class ComparedObject:
    """An object that exists in the expected catalog, in the live catalog, or in both.

    Args:
        kind: The kind of the object, as in `BUILT_KINDS`.
        object: The name of the object; the name of its table comes first if the object belongs to a table.
        expected_catalog: What the migrations build.
        live_catalog: What the database has.
    """

    kind: str
    object: str
    expected_catalog: Catalog
    live_catalog: Catalog

    @property
    def expected(self) -> Facts:
        """The expected facts; empty if the object is extra."""
        return self.expected_catalog.of(self.kind).get(self.object, {})

    @property
    def live(self) -> Facts:
        """The facts in the database; empty if the object is missing."""
        return self.live_catalog.of(self.kind).get(self.object, {})

    @property
    def table(self) -> str:
        """The table that the object belongs to, quoted if necessary."""
        return str((self.expected or self.live)["table"])

    @property
    def name(self) -> str:
        """The name of the object without the name of its table, quoted if necessary."""
        return str((self.expected or self.live).get("_name", self.object))


def _render(value: Any) -> str:
    if isinstance(value, str):
        return value.strip() or "''"
    return "none" if value in (None, [], {}) else json.dumps(value, ensure_ascii=False)
