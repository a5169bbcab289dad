"""The doctor's check of the whole schema: what `thea-db verify` compares, but for what has a line of its own."""

from __future__ import annotations

from typing import Final

from src.database.cli.diagnose.finding import Finding, failed, ok, skipped, warning
from src.database.cli.diagnose.server import Patient
from src.database.drift import Difference
from src.database.drift.verify import verify
from src.database.engine import SEES_EVERY_ROW

__all__ = ["check_schema"]

SHOWN: Final = 5
_HAVE_LINES: Final = ("revision", "collation version")
_REMEDY: Final = "`thea-db verify` names each difference and the statements that repair it"


async def check_schema(patient: Patient) -> Finding:
    """Compare the schema, row-level security and the role's rights with what the migrations build."""
    if patient.settings.ENVIRONMENT == "production" and await patient.connection.fetchval(SEES_EVERY_ROW):
        return skipped("see role")  # no engine connects as that role there
    if await patient.connection.fetchval("SELECT current_schema() IS NULL"):
        return skipped("see session defaults")
    report = await verify(patient.settings)
    if report.compared_with == "nothing":
        return skipped("see revision")
    differences = [difference for difference in report.differences if not _has_a_line(difference)]
    if not differences:
        return ok("no difference from what the migrations build")
    shown = [str(difference) for difference in differences[:SHOWN]]
    more = [f"and {len(differences) - SHOWN} more"] if len(differences) > SHOWN else []
    judge = failed if any(difference.severity == "error" for difference in differences) else warning
    return judge("\n".join([*shown, *more]), _REMEDY)


def _has_a_line(difference: Difference) -> bool:
    """Return True if another check of the doctor reports it: a revision, a collation, a right that is lacking."""
    if difference.kind in _HAVE_LINES:
        return True
    return difference.kind.startswith("rights of ") and bool(set(difference.expected) - set(difference.found))
