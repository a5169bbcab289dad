"""Which revision the database is at, and which ones this installation knows."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

import asyncpg

from src.database.schema.scripts import script_directory

__all__ = ["Revision", "compared", "revision_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """The database's revision against those of this installation."""

    database: str | None
    """None: there is no schema yet."""
    head: str
    is_known: bool

    def __str__(self) -> str:
        if self.database is None:
            return f"none; the newest is {self.head}"
        return self.database if self.database == self.head else f"{self.database}; the newest here is {self.head}"


async def revision_of(connection: asyncpg.Connection[Any]) -> Revision:
    """Compare the database with the migrations that are installed.

    Raises:
        ConfigurationError: The migrations are not in this installation.
    """
    applied: list[str] = []
    if await connection.fetchval("SELECT to_regclass('alembic_version') IS NOT NULL"):
        applied = [row["version_num"] for row in await connection.fetch("SELECT version_num FROM alembic_version")]
    return compared(applied)


def compared(applied: Collection[str]) -> Revision:
    """Compare the revisions that a database has with the migrations that are installed.

    Raises:
        ConfigurationError: The migrations are not in this installation.
    """
    head, known = _installed()
    return Revision(database=",".join(sorted(applied)) or None, head=head, is_known=set(applied) <= known)


@cache
def _installed() -> tuple[str, frozenset[str]]:
    """Return the newest revision, and all: they are read from files, and a running process's do not change."""
    scripts = script_directory()
    return ",".join(scripts.get_heads()), frozenset(script.revision for script in scripts.walk_revisions())
