"""What the doctor says of the revision that the database is at."""

from __future__ import annotations

from typing import Final

from src.database.cli.diagnose.finding import Finding, failed, ok
from src.database.schema import Revision

__all__ = ["revision_finding"]

_UPGRADE: Final = "thea-db upgrade"


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
    return ok(revision.database)
