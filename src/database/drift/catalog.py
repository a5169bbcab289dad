"""Reads the catalogue of the schema that holds our tables: one statement, one state, nothing written."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from src.database.drift.behaviour_sql import BEHAVIOUR, CIRCUMSTANCES
from src.database.drift.relations_sql import RELATIONS, WITH
from src.database.migrate.revision_status import ORIGIN, Origin

__all__ = ["BUILT", "Catalogue", "Facts", "read_catalogue"]

Facts = Mapping[str, Any]

BUILT: Final = (
    *("extension", "enum", "domain", "function", "sequence", "table", "column", "sequence owner", "constraint"),
    *("index", "view", "trigger", "rule", "policy", "rights of PUBLIC"),
)
"""The kinds of what migrations build, each after what it is made of."""

# The deparsed text follows these.
_SETTINGS: Final = """
SELECT set_config('search_path', quote_ident(:schema), true), set_config('quote_all_identifiers', 'off', true),
       set_config('DateStyle', 'ISO, YMD', true), set_config('IntervalStyle', 'postgres', true),
       set_config('TimeZone', 'UTC', true), set_config('bytea_output', 'hex', true),
       set_config('extra_float_digits', '1', true), set_config('jit', 'off', true)
"""
_WHERE: Final = """
SELECT name, current_setting('server_version_num')::int / 10000, held.oid IS NOT NULL,
       coalesce(has_table_privilege(held.oid, 'SELECT'), false)
  FROM unnest(current_schemas(false)) WITH ORDINALITY AS path (name, place)
  JOIN pg_catalog.pg_namespace n ON n.nspname = path.name
  LEFT JOIN pg_catalog.pg_class held ON held.relnamespace = n.oid AND held.relname = 'alembic_version'
 WHERE n.oid <> pg_my_temp_schema()
 ORDER BY EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid
                     AND quote_ident(c.relname) = ANY (CAST(:known AS text[]))) OR held.oid IS NOT NULL DESC, place
 LIMIT 1
"""
_ALL: Final = WITH + "\nUNION ALL\n".join(
    f"SELECT kind, object, facts::text FROM ({query}) AS q (kind, object, facts)"  # noqa: S608 - our own constants
    for query in (*RELATIONS, *BEHAVIOUR, *CIRCUMSTANCES)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """What a schema is made of: facts by kind and object, in the server's own words."""

    objects: Mapping[str, Mapping[str, Facts]]
    server_major: int
    schema: str = "public"
    revisions: tuple[str, ...] | None = ()
    """What alembic_version holds; None: it may not be read."""
    origin: Origin | None = None
    """What shows whose migrations made it; None: it was not read from a database."""

    def of(self, kind: str) -> Mapping[str, Facts]:
        """Return all of one kind."""
        return self.objects.get(kind, {})

    def built(self) -> dict[str, dict[str, Facts]]:
        """Return what migrations build, and none of the circumstances that it lives in."""
        return {kind: dict(sorted(self.of(kind).items())) for kind in BUILT if self.of(kind)}


async def read_catalogue(connection: AsyncConnection, *, tables: Collection[str] = ()) -> Catalogue:
    """Read the first schema of the search path that has Alembic's table or one of these, in the open transaction.

    Raises:
        DatabaseError: The server refused, or took too long.
    """
    found = (await connection.execute(text(_WHERE), {"known": sorted(tables)})).one_or_none()
    if found is None:  # no schema that the role may use
        return Catalogue(objects={}, server_major=0, schema="")
    schema, major, is_migrated, may_read = found
    await connection.execute(text(_SETTINGS), {"schema": schema})
    revisions: tuple[str, ...] | None = ()
    if is_migrated:
        query = text("SELECT version_num FROM alembic_version ORDER BY 1")
        revisions = tuple(await connection.scalars(query)) if may_read else None
    origin = Origin.of((await connection.exec_driver_sql(ORIGIN)).one())
    objects: dict[str, dict[str, Facts]] = {}
    for kind, name, facts in await connection.execute(text(_ALL.replace(":", "\\:"))):
        objects.setdefault(kind, {})[name] = json.loads(facts)
    return Catalogue(objects=objects, server_major=major, schema=schema, revisions=revisions, origin=origin)
