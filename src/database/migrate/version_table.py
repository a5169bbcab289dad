"""The rights on Alembic's table: the owner of the tables writes the revision, everyone else reads it."""

from __future__ import annotations

from typing import Final

__all__ = ["REVOKE_WRITES"]

# Default privileges grant the application's role the same rights on each table that the owner creates, and Alembic
# creates this one. The name is looked up on the search path, as Alembic does.
REVOKE_WRITES: Final = """
DO $$
DECLARE
    revoke text;
BEGIN
    FOR revoke IN
        SELECT format('REVOKE %s ON alembic_version FROM %s', string_agg(DISTINCT privilege_type, ', '),
                      CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END)
          FROM pg_catalog.pg_class CROSS JOIN LATERAL aclexplode(relacl)
         WHERE pg_class.oid = to_regclass('alembic_version') AND grantee <> relowner AND privilege_type <> 'SELECT'
         GROUP BY grantee
    LOOP
        EXECUTE revoke;
    END LOOP;
END
$$
"""
"""Revoke every right but SELECT on `alembic_version` from every role but its owner."""
