"""What the doctor says of the revision that the database is at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import asyncpg

from src.config import Settings
from src.database.cli.diagnose.finding import Finding, failed, ok
from src.database.cli.diagnose.reach import reach
from src.database.errors import ConfigurationError, DatabaseError, SchemaDriftError
from src.database.migrate import OTHER_DATABASE, Revision, revision_of

__all__ = ["explain_drift", "revision_finding"]

_UPGRADE: Final = "thea-db upgrade"


def revision_finding(revision: Revision) -> Finding:
    """Judge it. Migrations and the row in alembic_version are never to be deleted: they are what can be relied on."""
    if revision.is_foreign:
        return failed(revision.foreign_origin(), OTHER_DATABASE)
    if revision.is_unstamped:
        return failed("the tables are there, and no revision is recorded", "thea-db verify")
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
    return ok(revision.database)


def explain_drift(error: DatabaseError, settings: Callable[[], Settings]) -> DatabaseError:
    """Return the error that other migrations made the database, where that is why a table or a column is missing."""
    if not isinstance(error, SchemaDriftError):
        return error
    try:
        revision = asyncio.run(_read_revision(settings()))
    except (DatabaseError, asyncpg.PostgresError):
        return error
    return ConfigurationError(revision.foreign_origin(), hint=OTHER_DATABASE) if revision.is_foreign else error


async def _read_revision(settings: Settings) -> Revision:
    async with reach(settings) as reached:
        return await revision_of(reached.connection)
