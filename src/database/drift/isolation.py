"""The isolation layers of the database: row-level security as the server has it, and the connected role."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from src.database.drift.catalog import POLICY_FACTS, compared_facts
from src.database.drift.snapshot import load_snapshot

# A name is looked up on the search path, as in a statement of the application. pg_has_role is true for superusers too.
_TABLES: Final = f"""
SELECT t.name, t.relrowsecurity AS is_on, t.relforcerowsecurity AS is_forced,
       pg_catalog.pg_has_role(t.relowner, 'USAGE') AS is_owned,
       (SELECT pg_catalog.jsonb_object_agg(p.polname, {POLICY_FACTS})::text
          FROM pg_catalog.pg_policy AS p WHERE p.polrelid = t.oid) AS policies
  FROM (SELECT name, pg_class.* FROM unnest($1::text[]) AS name
          JOIN pg_catalog.pg_class ON pg_class.oid = to_regclass(name)) AS t
 ORDER BY t.name
"""  # noqa: S608 - a constant
_ROLE: Final = "SELECT rolsuper, rolbypassrls FROM pg_catalog.pg_roles WHERE rolname = current_user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """The isolation that the server enforces for the connected role.

    Args:
        tables: The tables of this release that row-level security guards, and that the database has.
        missing: Those that it lacks.
        open_tables: What is off on which table, in words.
        changed_policies: The tables whose policies are not this release's.
        role: Why row-level security does not bind the role, or why the role can switch it off; None: it binds.
    """

    tables: tuple[str, ...]
    missing: tuple[str, ...] = ()
    open_tables: tuple[str, ...] = ()
    changed_policies: tuple[str, ...] = ()
    role: str | None = None


async def read_isolation(connection: asyncpg.Connection[Any]) -> Isolation:
    """Compare row-level security and its policies with this release's; two queries of the catalog, some 2 ms.

    Raises:
        ConfigurationError: The snapshot of the schema is not in this installation.
    """
    expected = _expected_policies()
    rows = await connection.fetch(_TABLES, sorted(expected))
    is_superuser, bypasses = await connection.fetchrow(_ROLE)
    policies = {row["name"]: json.loads(row["policies"] or "{}") for row in rows}
    found = {name: {policy: compared_facts(facts) for policy, facts in of.items()} for name, of in policies.items()}
    off = [f"row-level security is off on {row['name']}" for row in rows if not row["is_on"]]
    off += [f"row-level security is not forced on {row['name']}" for row in rows if not row["is_forced"]]
    off += [f"{name} has no policy" for name, of in found.items() if not of]
    owned = [row["name"] for row in rows if row["is_owned"]]
    role = "is a superuser" if is_superuser else "has BYPASSRLS" if bypasses else None
    if role is None and owned:
        role = f"owns {', '.join(owned)}: it can switch row-level security off"
    return Isolation(
        tables=tuple(found),
        missing=tuple(sorted(expected.keys() - found.keys())),
        open_tables=tuple(off),
        changed_policies=tuple(name for name, of in found.items() if of and of != expected[name]),
        role=role,
    )


def _expected_policies() -> dict[str, dict[str, dict[str, Any]]]:
    """Return the policies of each table that row-level security guards, by name."""
    snapshot = load_snapshot()
    guarded = (name for name, facts in snapshot.of("table").items() if facts["row-level security"])
    expected: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in guarded}
    for facts in snapshot.of("policy").values():
        expected[facts["table"]][facts["_name"]] = compared_facts(facts)
    return expected
