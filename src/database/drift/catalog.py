"""Read the catalog of the schema that has the package's tables: one transaction, one snapshot; nothing is written."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from src.database.migrate import VERSION_TABLES, History, Origin, read_revisions, read_service_revisions

Facts = Mapping[str, Any]

BUILT_KINDS: Final = (
    *("extension", "enum", "domain", "function", "sequence", "table", "column", "sequence owner", "constraint"),
    *("index", "view", "trigger", "rule", "policy", "rights of PUBLIC"),
)
"""The kinds of objects that migrations build, each after the kinds that it depends on."""

POLICY_FACTS: Final = """jsonb_build_object(
       'table', t.name, '_name', quote_ident(p.polname),
       'command', CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                                WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
       'kind', CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
       'roles', (SELECT string_agg(name, ', ' ORDER BY name) FROM unnest(p.polroles) AS role CROSS JOIN LATERAL (
                 SELECT CASE role WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(role)) END) AS named (name)),
       'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid))"""
"""The facts of policy `p` of table `t`."""

_NO_ORIGIN: Final = Origin(is_ours=False, namesakes=(), version_table=None)

# pg_get_expr, pg_get_constraintdef and the like depend on these settings: a role or a database can set them, and equal
# objects would be deparsed to different texts. `true`: for the open transaction only.
_SETTINGS: Final = """
SELECT set_config('search_path', quote_ident(:schema), true), set_config('quote_all_identifiers', 'off', true),
       set_config('DateStyle', 'ISO, YMD', true), set_config('IntervalStyle', 'postgres', true),
       set_config('TimeZone', 'UTC', true), set_config('bytea_output', 'hex', true),
       set_config('extra_float_digits', '1', true), set_config('jit', 'off', true)
"""
_SCHEMA: Final = """
SELECT name, quote_ident(name), current_setting('server_version_num')::int / 10000
  FROM unnest(current_schemas(false)) WITH ORDINALITY AS path (name, place)
  JOIN pg_catalog.pg_namespace n ON n.nspname = path.name
 WHERE n.oid <> pg_my_temp_schema()
 ORDER BY EXISTS (SELECT FROM pg_catalog.pg_class c
                   WHERE c.relnamespace = n.oid AND quote_ident(c.relname) = ANY (CAST(:known AS text[]))) DESC, place
 LIMIT 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """The objects of a schema, as the server deparses them.

    Args:
        objects: The facts of each object, by kind and name.
        server_major: The major version of the server; 0 if there is no schema.
        schema: The schema that was read, quoted if necessary; empty if the role may use none.
        revisions: The content of the version table of `origin`; None if the role may not read it.
        origin: The facts that show whose migrations made the schema, if the catalog was read from a database.
        service_revisions: The recorded revisions of the service's history; None if the role may not read them.
    """

    objects: Mapping[str, Mapping[str, Facts]]
    server_major: int
    schema: str = "public"
    revisions: tuple[str, ...] | None = ()
    origin: Origin = _NO_ORIGIN
    service_revisions: tuple[str, ...] | None = ()

    def of(self, kind: str) -> Mapping[str, Facts]:
        """Return the objects of a kind, by name."""
        return self.objects.get(kind, {})

    def in_schema(self, schema: str) -> Catalog:
        """Return the catalog as if the migrations had built it in another schema: functions name it in their bodies."""
        if schema in {"", self.schema}:
            return self
        qualifier = re.compile(rf"(?<![\w\".]){re.escape(self.schema)}(?=\.)")
        functions = {
            name: {
                fact: qualifier.sub(lambda _: schema, value) if isinstance(value, str) else value
                for fact, value in facts.items()
            }
            for name, facts in self.of("function").items()
        }
        return replace(self, objects={**self.objects, "function": functions})

    def built(self) -> dict[str, dict[str, Facts]]:
        """Return what migrations build, without the privileges of the role and the versions of collations."""
        return {kind: dict(sorted(self.of(kind).items())) for kind in BUILT_KINDS if self.of(kind)}


def compared_facts(facts: Facts) -> dict[str, Any]:
    """Return the facts that are compared. The others, which begin with an underscore, serve the remedies."""
    return {name: value for name, value in facts.items() if not name.startswith("_")}


async def read_catalog(
    connection: AsyncConnection, *, tables: Collection[str] = (), service: History | None = None
) -> Catalog:
    """Read a schema of the search path in the open transaction.

    Args:
        connection: A connection; its transaction keeps the settings that deparsing needs until it ends.
        service: The history of a service, whose revisions are read too.
        tables: The names that distinguish the schema: the first one of the search path that has a version table or
            a table of these names is read, else the first one.

    Raises:
        DatabaseError: The server refused the query, or the query took too long.
    """
    known = sorted({*tables, *VERSION_TABLES})
    row = (await connection.execute(text(_SCHEMA), {"known": known})).one_or_none()
    if row is None:  # the role may use no schema
        return Catalog(objects={}, server_major=0, schema="")
    name, schema, major = row
    await connection.execute(text(_SETTINGS), {"schema": name})
    origin, revisions = await connection.run_sync(read_revisions)
    of_service = await connection.run_sync(read_service_revisions, service) if service else ()
    objects: dict[str, dict[str, Facts]] = {}
    rows: Iterable[Any] = await connection.exec_driver_sql(_catalog_query())
    for kind, name, facts in rows:
        objects.setdefault(kind, {})[name] = json.loads(facts)
    return Catalog(
        objects=objects,
        server_major=major,
        schema=schema,
        revisions=revisions,
        origin=origin,
        service_revisions=of_service,
    )


@cache
def _catalog_query() -> str:
    return Path(__file__).with_name("catalog.sql").read_text(encoding="utf-8").replace("{policy_facts}", POLICY_FACTS)
