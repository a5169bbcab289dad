"""Which revision the database is at, and which ones this installation knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import asyncpg

from src.database.cli.diagnose.finding import Finding, failed, ok
from src.database.schema import script_directory

__all__ = ["Revision", "revision_finding", "revision_of"]

_UPGRADE = "thea-db upgrade"


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
    scripts = script_directory()
    head = ",".join(scripts.get_heads())
    database = None
    if await connection.fetchval("SELECT to_regclass('alembic_version') IS NOT NULL"):
        rows = await connection.fetch("SELECT version_num FROM alembic_version ORDER BY 1")
        database = ",".join(row["version_num"] for row in rows) or None
    known = {script.revision for script in scripts.walk_revisions()}
    return Revision(database=database, head=head, is_known=set((database or head).split(",")) <= known)


def revision_finding(revision: Revision) -> Finding:
    """Judge it. Migrations and the row in alembic_version are never to be deleted: they are what can be relied on."""
    if revision.database is None:
        return failed("the database has no schema", _UPGRADE)
    if not revision.is_known:
        return failed(
            f"{revision.database} is unknown to this installation, whose newest is {revision.head}: a newer one has"
            " migrated the database",
            "install the version of thea-database, or check out the branch, that has this revision; delete neither"
            " migrations nor rows of alembic_version",
        )
    if revision.database != revision.head:
        return failed(f"{revision.database} is behind {revision.head}", _UPGRADE)
    return ok(f"{revision.database}; `thea-db verify` compares all of the schema with it")
