"""The revision status of a database: its revision, the installed revisions, and whose migrations made it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

import asyncpg
from sqlalchemy import Connection

from src.database import models
from src.database.base import Base
from src.database.errors import ConfigurationError
from src.database.migrate.scripts import script_directory

assert models.User.metadata is Base.metadata  # noqa: S101 - importing the models is what fills the metadata

RevisionState = Literal["foreign", "unstamped", "empty", "newer", "behind", "newest"]

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
"""The query for an `Origin`. It reads the catalog and needs no privilege.

Other systems have tables of the same names, so the names alone prove nothing: the function and the CHECK are created by
the first migration of this package."""
OTHER_DATABASE: Final = (
    "leave this database unchanged, and name another database for thea-database in DATABASE_URL; `thea-db info` shows"
    " which source sets it"
)

# The default privileges that `bootstrap` sets give the application's role INSERT, UPDATE and DELETE on every table that
# the owner creates, and Alembic creates alembic_version as the owner. The name is resolved on the search path, as
# Alembic does.
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
"""Revoke every privilege except SELECT on `alembic_version` from every role except its owner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The facts that show whose migrations made a database.

    Args:
        is_ours: The database has what the first migration of this package creates.
        namesakes: The tables of the database that have the names of this package's tables.
        has_tables: The schema of alembic_version has other tables too.
    """

    is_ours: bool
    namesakes: tuple[str, ...]
    has_tables: bool

    @classmethod
    def of(cls, row: Iterable[Any]) -> Origin:
        """Create an origin from the row that the query ORIGIN returns."""
        is_ours, namesakes, has_tables = row
        return cls(is_ours=is_ours, namesakes=tuple(namesakes), has_tables=has_tables)

    def is_of_others(self, applied: Collection[str] | None, known: Collection[str]) -> bool:
        """Return True if other migrations than this package's made the database.

        Args:
            applied: The content of alembic_version; None if the role may not read it.
            known: The revisions of this installation.
        """
        # A known revision alone proves nothing: many projects call their first revision 0001.
        if self.is_ours:
            return False
        if applied is None:
            return True
        if not applied:
            return bool(self.namesakes)
        return self.has_tables or not set(applied) <= set(known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """The revision of a database, compared with the revisions of this installation.

    Args:
        database: The recorded revision, several joined by commas; None if none is recorded or readable.
        head: The newest revision of this installation.
        is_known: The installation has each recorded revision.
        is_foreign: Other migrations made the database: this package must change nothing in it.
        is_unstamped: The tables are this package's, and no revision is recorded.
        namesakes: The tables of a foreign database that have the names of this package's tables.
    """

    database: str | None
    head: str
    is_known: bool
    is_foreign: bool = False
    is_unstamped: bool = False
    namesakes: tuple[str, ...] = ()

    @property
    def state(self) -> RevisionState:
        """The relation of the database to this installation; each state has another remedy."""
        if self.is_foreign:
            return "foreign"
        if self.is_unstamped:
            return "unstamped"
        if self.database is None:
            return "empty"
        if not self.is_known:
            return "newer"
        return "newest" if self.database == self.head else "behind"

    def __str__(self) -> str:
        if self.is_foreign:
            return f"{self.database or 'none'}; {self.foreign_origin()}"
        if self.database is None:
            return f"none; the newest is {self.head}"
        return self.database if self.database == self.head else f"{self.database}; the newest here is {self.head}"

    def foreign_origin(self) -> str:
        """Return the sentence that reports a foreign database."""
        at = f"revision {self.database}" if self.database else "no readable revision"
        tables = (
            f"other tables that are named {', '.join(self.namesakes)}"
            if self.namesakes
            else "none of thea-database's tables"
        )
        return f"other migrations than thea-database's made this database: it has {at}, and {tables}"


async def revision_of(connection: asyncpg.Connection[Any]) -> Revision:
    """Read the revision of a database and compare it with the installed migrations.

    Raises:
        asyncpg.InsufficientPrivilegeError: The database is this package's, and the role may not read alembic_version.
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


async def readable_revision(connection: asyncpg.Connection[Any]) -> Revision | None:
    """Return the revision of a database; None if the database is this package's and alembic_version is not readable.

    Raises:
        ConfigurationError: The migrations are not in this installation.
    """
    try:
        return await revision_of(connection)
    except asyncpg.InsufficientPrivilegeError:
        return None


def check_origin(connection: Connection, applied: Collection[str]) -> None:
    """Check that no other migrations made the database.

    Args:
        connection: A connection to the database; a transaction is open afterwards only if it was open before.
        applied: The content of alembic_version.

    Raises:
        ConfigurationError: Other migrations made the database.
    """
    was_open = connection.in_transaction()
    origin = Origin.of(connection.exec_driver_sql(ORIGIN).one())
    if not was_open:
        connection.rollback()  # ends the transaction that SQLAlchemy began for the query
    revision = compare_revisions(applied, origin)
    if revision.is_foreign:
        raise ConfigurationError(f"{revision.foreign_origin()}; nothing was changed", hint=OTHER_DATABASE)


def check_search_path(connection: Connection) -> None:
    """Check that the search_path has a schema in which tables can be created.

    Every connection has pg_temp at the end of its search_path (`TEMPORARY_LAST`). If no other schema of the search_path
    exists, pg_temp is the first existing one: the migrations would succeed with temporary tables, and the database
    would be empty afterwards.

    Raises:
        ConfigurationError: No schema of the search_path exists.
    """
    schema = connection.exec_driver_sql("SELECT current_schema()").scalar()
    if schema is None or str(schema).startswith("pg_temp"):
        raise ConfigurationError(
            "no schema of the search_path exists, or the role lacks USAGE on it: the tables cannot be created",
            hint="`thea-db doctor` shows what sets the search_path: name a schema there that exists, or create the"
            " schema by CREATE SCHEMA",
        )


def compare_revisions(applied: Collection[str] | None, origin: Origin) -> Revision:
    """Compare the recorded revisions of a database with the installed migrations.

    Args:
        applied: The content of alembic_version; None if the role may not read it.
        origin: The facts that show whose migrations made the database.

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
    """Return the newest revision and all revisions. Cached: Alembic executes each migration file to read them."""
    scripts = script_directory()
    return ",".join(sorted(scripts.get_heads())), frozenset(script.revision for script in scripts.walk_revisions())
