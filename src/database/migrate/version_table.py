"""The table that records the package's revisions, and its move from Alembic's default name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

VERSION_TABLE: Final = "thea_alembic_version"
"""The table that records the revisions of this package."""
DEFAULT_VERSION_TABLE: Final = "alembic_version"
"""Alembic's default name: the table of a service's history. Before `thea_alembic_version`, it was this package's."""
VERSION_TABLES: Final = (VERSION_TABLE, DEFAULT_VERSION_TABLE)

IS_OURS: Final = """(to_regprocedure('app_set_tenant(uuid)') IS NOT NULL
       OR EXISTS (SELECT FROM pg_catalog.pg_constraint
                   WHERE conrelid = to_regclass('tenants') AND conname = 'ck_tenants_slug'))"""
"""The condition that the database has what the first migration of this package creates.

Other systems have tables of the same names, so the names alone prove nothing."""

# The default privileges that `bootstrap` sets give the application's role INSERT, UPDATE and DELETE on every table that
# the owner creates, and Alembic creates its table as the owner. The name is resolved on the search path, as Alembic
# does.
_REVOKE: Final = """
DO $$
DECLARE
    revoke text;
BEGIN
    FOR revoke IN
        SELECT format('REVOKE %s ON %s FROM %s', string_agg(DISTINCT privilege_type, ', '), oid::regclass,
                      CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END)
          FROM pg_catalog.pg_class CROSS JOIN LATERAL aclexplode(relacl)
         WHERE oid IN ({tables}) AND grantee <> relowner AND privilege_type <> 'SELECT'
         GROUP BY oid, grantee
    LOOP
        EXECUTE revoke;
    END LOOP;
END
$$
"""

# The names of the two tables are constants, and those of revisions are quoted. regclass is the qualified name, and the
# new one after the RENAME. Grants and the owner stay with a renamed table.
_MOVE: Final = """
DO $$
DECLARE
    held regclass := to_regclass('alembic_version');
    recorded text[];
BEGIN
    IF held IS NULL OR to_regclass('thea_alembic_version') IS NOT NULL OR NOT {is_ours} THEN
        RETURN;
    END IF;
    EXECUTE format('SELECT array_agg(version_num::text) FROM %s', held) INTO recorded;
    IF recorded <@ ARRAY[{revisions}]::text[] THEN
        EXECUTE format('ALTER TABLE %s RENAME TO thea_alembic_version', held);
        IF EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE conrelid = held AND conname = 'alembic_version_pkc') THEN
            EXECUTE format('ALTER TABLE %s RENAME CONSTRAINT alembic_version_pkc TO thea_alembic_version_pkc', held);
        END IF;
    END IF;
END
$$
"""


def revoke_writes(*tables: str) -> str:
    """Return the statement that revokes every privilege except SELECT from every role except the tables' owner.

    Args:
        tables: The names of version tables, identifiers that need no quotes. A missing table is no error.
    """
    return _REVOKE.replace("{tables}", ", ".join(f"to_regclass('{table}')" for table in tables))


REVOKE_WRITES: Final = revoke_writes(*VERSION_TABLES)
"""Revoke every privilege except SELECT on the version tables from every role except their owner."""


def move_statement(revisions: Iterable[str]) -> str:
    """Return the statement that renames `alembic_version` if it records this package's revisions and no others.

    It does nothing if the table has been renamed before, or if `alembic_version` is that of another history.

    Args:
        revisions: The revisions of this installation.
    """
    quoted = ", ".join("'{}'".format(revision.replace("'", "''")) for revision in sorted(revisions))
    return _MOVE.replace("{is_ours}", IS_OURS).replace("{revisions}", quoted)
