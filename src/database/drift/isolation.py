"""The isolation layers of a database: its row-level security and policies, and the connected role."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from src.config import Settings
from src.database.base import tenant_tables
from src.database.drift.catalog import POLICY_FACTS, Catalog, compared_facts
from src.database.drift.snapshot import load_service_snapshot, load_snapshot, united
from src.database.migrate import service_history

# to_regclass resolves a name on the search path, as the statements of the application do. pg_has_role is true for
# superusers too.
_TABLES: Final = f"""
SELECT t.name, t.relrowsecurity AS is_on, t.relforcerowsecurity AS is_forced,
       pg_catalog.pg_has_role(t.relowner, 'USAGE') AS is_owned,
       (SELECT pg_catalog.jsonb_object_agg(p.polname, {POLICY_FACTS})::text
          FROM pg_catalog.pg_policy AS p WHERE p.polrelid = t.oid) AS policies
  FROM (SELECT name, pg_class.* FROM unnest($1::text[]) AS name
          JOIN pg_catalog.pg_class ON pg_class.oid = to_regclass(name)) AS t
 ORDER BY t.name
"""  # noqa: S608 - a constant
_REFERRING: Final = """
SELECT DISTINCT c.relname::text AS name
  FROM pg_catalog.pg_constraint AS k
  JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
 WHERE k.contype = 'f' AND k.confrelid IN (SELECT to_regclass(name) FROM unnest($1::text[]) AS name)
"""
"""The tables with `tenant_id` that refer to other ones: those of a service, also if its models are not imported."""
_ROLE: Final = "SELECT rolsuper, rolbypassrls FROM pg_catalog.pg_roles WHERE rolname = current_user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """The isolation that the server enforces for the connected role.

    Args:
        tables: The existing tables on which this release enables row-level security.
        missing: The tables on which this release enables row-level security, and that the database lacks.
        open_tables: A sentence for each fault of row-level security, with the name of the table.
        changed_policies: The tables whose policies are not this release's.
        role: The reason why row-level security does not bind the role, or why the role can switch it off; None if
            there is no reason.
    """

    tables: tuple[str, ...]
    missing: tuple[str, ...] = ()
    open_tables: tuple[str, ...] = ()
    changed_policies: tuple[str, ...] = ()
    role: str | None = None


async def read_isolation(connection: asyncpg.Connection[Any], settings: Settings) -> Isolation:
    """Compare row-level security and its policies with this release's.

    Two queries of the catalog, about 2 ms, and one more for a service.

    Args:
        connection: A connection to the database.
        settings: The settings that name the history of a service, whose tables are compared with its snapshot.

    Raises:
        ConfigurationError: The snapshot of the schema is not in this installation.
    """
    service = service_history(settings)
    of_service = None if service is None else load_service_snapshot(service)
    expected = _expected_policies(united(load_snapshot(), of_service))
    tables = set(expected)
    if service is not None:
        # The snapshot of the service can be missing or old: row-level security is expected on each table of tenants'
        # rows all the same. The policies of such a table cannot be compared.
        tables |= {row["name"] for row in await connection.fetch(_REFERRING, sorted(expected))}
        tables |= {table.name for table in tenant_tables()}
    rows = await connection.fetch(_TABLES, sorted(tables))
    is_superuser, bypasses = await connection.fetchrow(_ROLE)
    policies = {row["name"]: json.loads(row["policies"] or "{}") for row in rows}
    live = {name: {policy: compared_facts(facts) for policy, facts in of.items()} for name, of in policies.items()}
    faults = [f"row-level security is off on {row['name']}" for row in rows if not row["is_on"]]
    faults += [f"row-level security is not forced on {row['name']}" for row in rows if not row["is_forced"]]
    faults += [f"{name} has no policy" for name, of in live.items() if not of]
    owned = [row["name"] for row in rows if row["is_owned"]]
    role = "is a superuser" if is_superuser else "has BYPASSRLS" if bypasses else None
    if role is None and owned:
        role = f"owns {', '.join(owned)}: it can switch row-level security off"
    return Isolation(
        tables=tuple(live),
        missing=tuple(sorted(expected.keys() - live.keys())),
        open_tables=tuple(faults),
        changed_policies=tuple(name for name, of in live.items() if of and of != expected.get(name, of)),
        role=role,
    )


def _expected_policies(snapshot: Catalog) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the policies of each table on which this release enables row-level security, by table and name."""
    protected = (name for name, facts in snapshot.of("table").items() if facts["row-level security"])
    expected: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in protected}
    for facts in snapshot.of("policy").values():
        expected[facts["table"]][facts["_name"]] = compared_facts(facts)
    return expected
