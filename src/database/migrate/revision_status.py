"""The revision of the database, those that this installation knows, and whose migrations made the database."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import asyncpg
from sqlalchemy import Connection

from src.database import models
from src.database.base import Base
from src.database.errors import ConfigurationError
from src.database.migrate.scripts import script_directory

assert models.User.metadata is Base.metadata  # noqa: S101 - importing the models is what fills the metadata

ORIGIN: Final = f"""
SELECT to_regprocedure('app_set_tenant(uuid)') IS NOT NULL
       OR EXISTS (SELECT FROM pg_catalog.pg_constraint
                   WHERE conrelid = to_regclass('tenants') AND conname = 'ck_tenants_slug') AS is_ours,
       ARRAY(SELECT name FROM unnest(ARRAY['{"', '".join(sorted(Base.metadata.tables))}']) AS name
              WHERE to_regclass(name) IS NOT NULL) AS namesakes,
       EXISTS (SELECT FROM pg_catalog.pg_class held
                 JOIN pg_catalog.pg_class other ON other.relnamespace = held.relnamespace AND other.oid <> held.oid
                WHERE held.oid = to_regclass('alembic_version') AND other.relkind IN ('r', 'p')) AS has_tables
"""  # noqa: S608 - our own names
"""The query that `Origin` is read with. Other migrations make tables of the same names, so that names alone prove
nothing; the function and the check are the first migration's. It reads the catalog and needs no privilege."""
OTHER_DATABASE: Final = (
    "leave this database as it is, and name another one for thea-database in DATABASE_URL; `thea-db info` shows where"
    " the value comes from"
)

# Default privileges grant the application's role the same rights on each table that the owner creates, and Alembic
# creates this one. The name is looked up on the search path, as in Alembic.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The facts that show whose migrations made a database.

    Args:
        is_ours: It has what this package's first migration creates.
        namesakes: Its tables that have the names of this package's.
        has_tables: There are tables beside alembic_version.
    """

    is_ours: bool
    namesakes: tuple[str, ...]
    has_tables: bool

    @classmethod
    def of(cls, row: Iterable[Any]) -> Origin:
        """Return the origin that a row of ORIGIN shows."""
        is_ours, namesakes, has_tables = row
        return cls(is_ours=is_ours, namesakes=tuple(namesakes), has_tables=has_tables)

    def is_of_others(self, applied: Collection[str] | None, known: Collection[str]) -> bool:
        """Return True if other migrations made the database; a known revision proves nothing, as 0001 is anyone's.

        Args:
            applied: The content of alembic_version; None: the role may not read it.
            known: The revisions of this installation.
        """
        if self.is_ours:
            return False
        if applied is None:
            return True
        if not applied:
            return bool(self.namesakes)
        return self.has_tables or not set(applied) <= set(known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """The database's revision against those of this installation."""

    database: str | None
    """None: there is no schema yet."""
    head: str
    is_known: bool
    is_foreign: bool = False
    """Other migrations made the database: nothing of it is this package's to change."""
    is_unstamped: bool = False
    """The tables are this package's, and no revision is recorded."""
    namesakes: tuple[str, ...] = ()
    """The foreign tables that have the names of this package's."""

    def __str__(self) -> str:
        if self.is_foreign:
            return f"{self.database or 'none'}; {self.foreign_origin()}"
        if self.database is None:
            return f"none; the newest is {self.head}"
        return self.database if self.database == self.head else f"{self.database}; the newest here is {self.head}"

    def foreign_origin(self) -> str:
        """Return the sentence that reports that other migrations made the database."""
        at = f"revision {self.database}" if self.database else "no readable revision"
        tables = f"other tables that are named {', '.join(self.namesakes)}" if self.namesakes else "none of its tables"
        return f"other migrations than thea-database's made this database: it has {at}, and {tables}"


async def revision_of(connection: asyncpg.Connection[Any]) -> Revision:
    """Compare the database with the migrations that are installed.

    Raises:
        asyncpg.InsufficientPrivilegeError: It is this package's, and the role may not read alembic_version.
        ConfigurationError: The migrations are not in this installation.
    """
    origin = Origin.of(await connection.fetchrow(ORIGIN))
    applied: list[str] | None = []
    if await connection.fetchval("SELECT to_regclass('alembic_version') IS NOT NULL"):
        try:
            applied = [row["version_num"] for row in await connection.fetch("SELECT version_num FROM alembic_version")]
        except asyncpg.InsufficientPrivilegeError:
            if origin.is_ours:
                raise
            applied = None
    return compare_revisions(applied, origin)


def check_origin(connection: Connection, applied: Collection[str]) -> None:
    """Check that no other migrations made the database; leave no transaction open that was not.

    Args:
        connection: To the database.
        applied: The revisions that it is at.

    Raises:
        ConfigurationError: Other migrations made it.
    """
    was_open = connection.in_transaction()
    origin = Origin.of(connection.exec_driver_sql(ORIGIN).one())
    if not was_open:
        connection.rollback()  # of a read
    revision = compare_revisions(applied, origin)
    if revision.is_foreign:
        raise ConfigurationError(f"{revision.foreign_origin()}; nothing was changed", hint=OTHER_DATABASE)


def check_search_path(connection: Connection) -> None:
    """Check that the search_path has a schema in which tables can be created.

    Connections search pg_temp last (`TEMPORARY_LAST`). If no other schema of the search_path exists, pg_temp is the
    first one: the migrations would create temporary tables, and the database would be empty afterwards.

    Raises:
        ConfigurationError: No schema of the search_path exists.
    """
    schema = connection.exec_driver_sql("SELECT current_schema()").scalar()
    if schema is None or str(schema).startswith("pg_temp"):
        raise ConfigurationError(
            "no schema of the search_path exists, or the role has no USAGE on it: there is no place for the tables",
            hint="`thea-db doctor` shows what sets the search_path: name a schema that exists there, or create it with"
            " CREATE SCHEMA",
        )


def compare_revisions(applied: Collection[str] | None, origin: Origin) -> Revision:
    """Compare the revisions that a database has with the migrations that are installed.

    Args:
        applied: The content of alembic_version; None: the role may not read it, and the database is not this package's.
        origin: What shows whose migrations made it.

    Raises:
        ConfigurationError: The migrations are not in this installation.
    """
    head, known = _installed()
    is_foreign = origin.is_of_others(applied, known)
    return Revision(
        database=",".join(sorted(applied or ())) or None,
        head=head,
        is_known=set(applied or ()) <= known,
        is_foreign=is_foreign,
        is_unstamped=origin.is_ours and not applied,
        namesakes=origin.namesakes if is_foreign else (),
    )


@cache
def _installed() -> tuple[str, frozenset[str]]:
    """Return the newest revision, and all: they are read from files, and a running process's do not change."""
    scripts = script_directory()
    return ",".join(sorted(scripts.get_heads())), frozenset(script.revision for script in scripts.walk_revisions())
