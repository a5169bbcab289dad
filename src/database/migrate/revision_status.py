"""The revision status of a database: its revision, the installed revisions, and whose migrations made it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

import asyncpg
from sqlalchemy import Connection, text

from src.database.errors import ConfigurationError
from src.database.migrate.histories import History, package_history
from src.database.migrate.version_table import DEFAULT_VERSION_TABLE, IS_OURS, VERSION_TABLE, move_statement
from src.database.models import package_tables

RevisionState = Literal["foreign", "unstamped", "empty", "newer", "behind", "newest"]

ORIGIN: Final = f"""
SELECT {IS_OURS} AS is_ours,
       ARRAY(SELECT name FROM unnest(ARRAY['{"', '".join(sorted(package_tables()))}']) AS name
              WHERE to_regclass(name) IS NOT NULL) AS namesakes,
       CASE WHEN to_regclass('{VERSION_TABLE}') IS NOT NULL THEN '{VERSION_TABLE}'
            WHEN to_regclass('{DEFAULT_VERSION_TABLE}') IS NOT NULL THEN '{DEFAULT_VERSION_TABLE}'
       END AS version_table
"""  # noqa: S608 - our own names
"""The query for an `Origin`. It reads the catalog and needs no privilege."""
_HELD: Final = """
SELECT to_regclass($1) IS NOT NULL AS exists, has_table_privilege(to_regclass($1), 'SELECT') AS may_read
"""
OTHER_DATABASE: Final = (
    "leave this database unchanged, and name another database for thea-database in DATABASE_URL; `thea-db info` shows"
    " which source sets it. If the migrations are those of your service, name their folder in"
    " DATABASE_SERVICE_MIGRATIONS (docs/services.md)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The facts that show whose migrations made a database.

    Args:
        is_ours: The database has what the first migration of this package creates.
        namesakes: The tables of the database that have the names of this package's tables.
        version_table: The table that records the revisions, `thea_alembic_version` if it exists; None if there is none.
    """

    is_ours: bool
    namesakes: tuple[str, ...]
    version_table: str | None

    @classmethod
    def of(cls, row: Iterable[Any]) -> Origin:
        """Create an origin from the row that the query ORIGIN returns."""
        is_ours, namesakes, version_table = row
        return cls(is_ours=is_ours, namesakes=tuple(namesakes), version_table=version_table)

    @property
    def recorded(self) -> str | None:
        """The query for the recorded revisions; None if the database has no version table."""
        # The name is one of two constants.
        return self.version_table and f"SELECT version_num FROM {self.version_table}"  # noqa: S608


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
        version_table: The table that records the revision.
    """

    database: str | None
    head: str
    is_known: bool
    is_foreign: bool = False
    is_unstamped: bool = False
    namesakes: tuple[str, ...] = ()
    version_table: str = VERSION_TABLE

    @property
    def state(self) -> RevisionState:
        """The relation of the database to this installation; each state has another remedy."""
        if self.is_foreign:
            return "foreign"
        if self.is_unstamped:
            return "unstamped"
        if self.database is None and self.head:  # a history of a service can be without a revision
            return "empty"
        if not self.is_known:
            return "newer"
        return "newest" if (self.database or "") == self.head else "behind"

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


async def revision_of(connection: asyncpg.Connection[Any], *, of_service: Collection[str] = ()) -> Revision:
    """Read the revision of a database and compare it with the installed migrations.

    Args:
        connection: A connection to the database.
        of_service: The revisions of the service's own history.

    Raises:
        asyncpg.InsufficientPrivilegeError: The database is this package's, and the role may not read its version table.
        ConfigurationError: The migrations are not in this installation.
    """
    origin = Origin.of(await connection.fetchrow(ORIGIN))
    recorded: list[str] | None = []
    if origin.recorded is not None:
        try:
            recorded = [row["version_num"] for row in await connection.fetch(origin.recorded)]
        except asyncpg.InsufficientPrivilegeError:
            if origin.is_ours:
                raise
            recorded = None
    return compare_revisions(recorded, origin, of_service=of_service)


async def readable_revision(
    connection: asyncpg.Connection[Any], *, of_service: Collection[str] = ()
) -> Revision | None:
    """Return `revision_of`; None if the database is this package's and its version table is not readable.

    Raises:
        ConfigurationError: The migrations are not in this installation.
    """
    try:
        return await revision_of(connection, of_service=of_service)
    except asyncpg.InsufficientPrivilegeError:
        return None


async def service_revision_of(connection: asyncpg.Connection[Any], service: History) -> Revision | None:
    """Return the revision of a database in a service's history; None if the role may not read it."""
    held = await connection.fetchrow(_HELD, service.version_table)
    if held["exists"] and not held["may_read"]:
        return None
    query = f"SELECT version_num FROM {service.version_table}"  # noqa: S608 - the settings allow only an identifier
    recorded = {row["version_num"] for row in await connection.fetch(query)} if held["exists"] else set()
    return compare_service_revisions(recorded, service)


def read_service_revisions(connection: Connection, service: History) -> tuple[str, ...] | None:
    """Read the recorded revisions of a service's history, in the open transaction; None if the role may not read them.

    The result is empty if the table still has the revisions of this package.
    """
    exists, may_read = connection.exec_driver_sql(_HELD, (service.version_table,)).one()
    if exists and not may_read:
        return None
    query = f"SELECT version_num FROM {service.version_table}"  # noqa: S608 - the settings allow only an identifier
    recorded = set(connection.exec_driver_sql(query).scalars()) if exists else set()
    revision = compare_service_revisions(recorded, service)
    return tuple(revision.database.split(",")) if revision.database else ()


def compare_service_revisions(recorded: Collection[str], service: History) -> Revision:
    """Compare the recorded revisions of a service's history with the revisions in its folder.

    Args:
        recorded: The content of the version table.
        service: The history of the service.
    """
    head, known = service.installed()
    applied = set(recorded)
    # Before its move, alembic_version has this package's revisions.
    if not applied <= known and applied <= package_history().installed()[1]:
        applied = set()
    return Revision(
        database=",".join(sorted(applied)) or None,
        head=head,
        is_known=applied <= known,
        version_table=service.version_table,
    )


def read_revisions(connection: Connection) -> tuple[Origin, tuple[str, ...] | None]:
    """Read the origin of a database, and the content of its version table, in the open transaction.

    Returns:
        The origin, and the recorded revisions; None in place of these if the role may not read them.
    """
    origin = Origin.of(connection.exec_driver_sql(ORIGIN).one())
    if origin.recorded is None:
        return origin, ()
    # An error would end the transaction of the caller.
    may_read = text("SELECT has_table_privilege(to_regclass(:name), 'SELECT')")
    if not connection.scalar(may_read, {"name": origin.version_table}):
        return origin, None
    return origin, tuple(sorted(connection.exec_driver_sql(origin.recorded).scalars()))


def check_origin(connection: Connection, *, of_service: Collection[str] = ()) -> Revision:
    """Return the revision of a database; check that no other migrations made the database.

    Args:
        connection: A connection to the database; a transaction is open afterwards only if it was open before.
        of_service: The revisions of the service's own history.

    Raises:
        ConfigurationError: Other migrations made the database.
    """
    was_open = connection.in_transaction()
    origin, recorded = read_revisions(connection)
    if not was_open:
        connection.rollback()  # ends the transaction that SQLAlchemy began for the query
    revision = compare_revisions(recorded, origin, of_service=of_service)
    if revision.is_foreign:
        raise ConfigurationError(f"{revision.foreign_origin()}; nothing was changed", hint=OTHER_DATABASE)
    return revision


def move_version_table(connection: Connection) -> None:
    """Rename `alembic_version` to `thea_alembic_version` if it records this package's revisions and no others.

    The transaction is committed unless the caller has begun it. The lock of migrations must be held.
    """
    was_open = connection.in_transaction()
    connection.exec_driver_sql(move_statement(package_history().installed()[1]))
    if not was_open:
        connection.commit()


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


def compare_revisions(
    recorded: Collection[str] | None, origin: Origin, *, of_service: Collection[str] = ()
) -> Revision:
    """Compare the recorded revisions of a database with the installed migrations.

    Args:
        recorded: The content of the version table of `origin`; None if the role may not read it.
        origin: The facts that show whose migrations made the database.
        of_service: The revisions of the service's own history. A database that has these, and no table of a name of
            this package's tables, is not foreign: the tables can be created beside the service's.

    Raises:
        ConfigurationError: The migrations are not in this installation.
    """
    head, known = package_history().installed()
    is_foreign, applied = False, set(recorded or ())
    is_default = origin.version_table == DEFAULT_VERSION_TABLE
    if not origin.is_ours:
        is_of_others = is_default and (recorded is None or bool(applied))
        # A revision that is known here proves nothing: many projects call their first revision 0001.
        is_foreign = bool(origin.namesakes) or (is_of_others and not (applied and applied <= set(of_service)))
    is_unmoved = is_default and origin.is_ours and applied <= known
    if is_default and not is_unmoved and not is_foreign:
        applied = set()  # the table records the service's history
    return Revision(
        database=",".join(sorted(applied)) or None,
        head=head,
        is_known=applied <= known,
        is_foreign=is_foreign,
        is_unstamped=origin.is_ours and not applied,
        namesakes=origin.namesakes if is_foreign else (),
        version_table=DEFAULT_VERSION_TABLE if is_unmoved and applied else VERSION_TABLE,
    )
