"""The doctor's check of parameters that a role, the database or the server sets for every session."""

from __future__ import annotations

from typing import Final

import asyncpg

from src.database.cli.diagnose.finding import Finding, failed, ok, warning
from src.database.cli.diagnose.server import Patient

__all__ = ["check_session_defaults"]

_DEFAULTS: Final = """
SELECT name, setting, source, format('%I', current_user) AS role, format('%I', current_database()) AS database
  FROM pg_catalog.pg_settings WHERE name IN ('row_security', 'default_transaction_isolation', 'search_path')
"""
_IN_THE_CLIENT: Final = "remove {name} from `options` in DATABASE_URL, or from PGOPTIONS"
_FOR_THIS_ROLE: Final = "ALTER ROLE {role} IN DATABASE {database} SET {name} = '{value}';"
"""It goes before what the role, the database and the server have, and changes nothing for anybody else."""


async def check_session_defaults(patient: Patient) -> Finding:
    """Check that row_security is on, transactions are READ COMMITTED by default, and search_path has a schema."""
    rows = {row["name"]: row for row in await patient.connection.fetch(_DEFAULTS)}
    security, isolation = rows["row_security"], rows["default_transaction_isolation"]
    found, remedies = [], []
    if security["setting"] == "off":
        found.append("row_security is off: every statement on a table with row-level security fails")
        remedies.append(_remedy(security, "on"))
    if isolation["setting"] != "read committed":
        found.append(
            f"default_transaction_isolation is {isolation['setting']}: get-or-create, append and claims are written for"
            " read committed, and fail with SerializationError when two callers meet"
        )
        remedies.append(_remedy(isolation, "read committed"))
    path = rows["search_path"]
    has_schema = await patient.connection.fetchval("SELECT current_schema() IS NOT NULL")
    if not has_schema:
        found.append(
            f"search_path is {path['setting']}, and none of these schemas exists, or the role has no USAGE on them: no"
            " table is found, and none can be created"
        )
        remedies.append(f"create the schema (CREATE SCHEMA), grant USAGE on it, or: {_remedy(path, 'public')}")
    if not found:
        return ok("row_security is on; transactions are read committed; the search_path has a schema that exists")
    judge = failed if security["setting"] == "off" or not has_schema else warning
    return judge("\n".join(found), "\n".join(remedies))


def _remedy(row: asyncpg.Record, value: str) -> str:
    remedy = _IN_THE_CLIENT if row["source"] == "client" else _FOR_THIS_ROLE
    return remedy.format(**dict(row), value=value)
