"""Looks whether rows keep to a foreign key, where the server's own look would be blind."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, Row, TextClause, text

from src.database.errors import ForeignKeyError
from src.database.migrate.tenants import bind, tenants

__all__ = ["check_foreign_key"]

_KEY: Final = text("""
SELECT conrelid::regclass::text AS child, confrelid::regclass::text AS parent,
       string_agg(format('parent.%I = child.%I', far.attname, near.attname), ' AND ' ORDER BY place) AS refers,
       string_agg(format('child.%I IS NOT NULL', near.attname), ' AND ' ORDER BY place) AS is_given
  FROM pg_catalog.pg_constraint, unnest(conkey, confkey) WITH ORDINALITY AS pair (near_number, far_number, place)
  JOIN pg_catalog.pg_attribute AS near ON near.attnum = near_number
  JOIN pg_catalog.pg_attribute AS far ON far.attnum = far_number
 WHERE conname = :name AND conrelid = to_regclass(quote_ident(:table)) AND contype = 'f'
   AND near.attrelid = conrelid AND far.attrelid = confrelid
   AND (row_security_active(conrelid) OR row_security_active(confrelid))
 GROUP BY conrelid, confrelid
""")


def check_foreign_key(connection: Connection, table: str, name: str) -> None:
    """Look tenant by tenant for rows that refer to nothing, where row-level security binds who migrates.

    VALIDATE CONSTRAINT asks for them with a query of the owner's, whom forced row-level security shows no row without a
    tenant: it would find every key right. New rows are bound by the key already, so what is right stays right.

    Raises:
        ForeignKeyError: A row refers to one that is not there.
    """
    key = connection.execute(_KEY, {"name": name, "table": table}).first()
    if key is None:  # no foreign key, or the server sees all rows
        return
    lost = _lost(key)
    for tenant_id in tenants(connection):
        bind(connection, tenant_id)
        if connection.execute(lost).first() is not None:
            raise ForeignKeyError(
                f"rows of {key.child} refer to rows of {key.parent} that are not there (tenant {tenant_id}, {name})",
                constraint=name,
                hint="mend or remove them first, with `backfill` in a revision before this one",
            )
    bind(connection, None)


def _lost(key: Row[tuple[str, ...]]) -> TextClause:
    return text(  # of names that the server has quoted
        f"SELECT 1 FROM ONLY {key.child} AS child WHERE {key.is_given}"  # noqa: S608 - the same
        f" AND NOT EXISTS (SELECT FROM {key.parent} AS parent WHERE {key.refers}) LIMIT 1"
    )
