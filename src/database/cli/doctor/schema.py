"""The doctor's checks of the schema: its revision, its drift, and the rights of the roles that use it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import asyncpg

from src.config import Settings
from src.database import models
from src.database.base import Base
from src.database.check_result import CheckResult, failed, ok, skipped, warning
from src.database.cli.connection import reach
from src.database.cli.doctor.server import CheckContext, worse
from src.database.drift import Difference, verify
from src.database.engine import SEES_EVERY_ROW
from src.database.errors import ConfigurationError, DatabaseError, SchemaDriftError
from src.database.migrate import ORIGIN, OTHER_DATABASE, Origin, Revision, revision_of

assert models.User.metadata is Base.metadata  # noqa: S101 - importing the models is what fills the metadata

TABLES: Final = sorted(Base.metadata.tables)
NEEDED_EXTENSIONS: Final = ("plpgsql",)
"""The extensions that the migrations need: app_set_tenant is written in plpgsql."""
NEEDED_DICTIONARIES: Final = ("english", "spanish")
"""The text search configurations that the notes' index uses."""

_ROLE: Final = "SELECT rolsuper, rolbypassrls FROM pg_catalog.pg_roles WHERE rolname = current_user"
_OWNED: Final = """
SELECT name FROM unnest($1::text[]) AS name JOIN pg_catalog.pg_class ON pg_class.oid = to_regclass(name)
 WHERE pg_get_userbyid(relowner) = current_user ORDER BY name
"""
_MAY_CREATE: Final = """
SELECT has_database_privilege(current_database(), 'TEMPORARY'), has_database_privilege(current_database(), 'CREATE'),
       ARRAY(SELECT quote_ident(name) FROM unnest(current_schemas(false)) AS name
              WHERE name !~ '^pg_' AND has_schema_privilege(name, 'CREATE'))
"""
_OWNS_THE_DATABASE: Final = """
SELECT pg_has_role(datdba, 'USAGE') FROM pg_catalog.pg_database WHERE datname = current_database()
"""
_LACKING: Final = """
SELECT name, string_agg(privilege, ', ')
  FROM unnest($1::text[]) AS name, unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) AS privilege
 WHERE NOT has_table_privilege(to_regclass(name), privilege) GROUP BY name ORDER BY name
"""
_EXTENSIONS: Final = """
SELECT needed.name, available.name IS NOT NULL FROM unnest($1::text[]) AS needed (name)
  LEFT JOIN pg_catalog.pg_available_extensions AS available USING (name) WHERE available.installed_version IS NULL
"""
_DICTIONARIES: Final = """
SELECT name FROM unnest($1::text[]) AS name WHERE name NOT IN (SELECT cfgname FROM pg_catalog.pg_ts_config)
"""
SHOWN: Final = 5
_HAVE_LINES: Final = ("revision", "collation version")
_VERIFY: Final = "`thea-db verify` names each difference and the statements that repair it"
_UPGRADE: Final = "thea-db upgrade"


async def check_role(context: CheckContext) -> CheckResult:
    """Check that row-level security binds the role, and that the role cannot switch it off."""
    user = context.target.user
    is_superuser, bypasses = await context.connection.fetchrow(_ROLE)
    if is_superuser or bypasses:
        return worse(
            context.settings,
            f"{user} {'is a superuser' if is_superuser else 'has BYPASSRLS'}: row-level security does not bind it",
            "name another role in DATABASE_URL: `thea-db bootstrap` creates one that row-level security binds. Leave"
            f" the attributes of {user} as they are: others may need them",
        )
    owned = [row["name"] for row in await context.connection.fetch(_OWNED, TABLES)]
    if owned:
        return warning(
            f"{user} owns {', '.join(owned)}: it can switch row-level security off",
            "name a role that owns nothing in DATABASE_URL, and the owner in DATABASE_MIGRATION_URL; `thea-db"
            " bootstrap` creates the former",
        )
    return ok(f"{user} is bound by row-level security, and owns none of the tables")


async def check_creation(context: CheckContext) -> CheckResult:
    """Check that the role can create neither temporary tables nor objects in the schemas of the search path."""
    connection, user = context.connection, context.target.user
    if await connection.fetchval(_OWNS_THE_DATABASE):  # also true of a superuser
        return skipped(f"{user} has the privileges of the database's owner, which no REVOKE takes away: see role")
    if await _is_of_others(connection):
        return skipped("the database is not thea-database's: see revision")
    temporary, schemas, in_schemas = await connection.fetchrow(_MAY_CREATE)
    found, remedies = [], []
    on_database = [name for name, is_granted in (("TEMPORARY", temporary), ("CREATE", schemas)) if is_granted]
    if on_database:
        privileges = ", ".join(on_database)
        found.append(f"{privileges} on the database")
        remedies.append(f'REVOKE {privileges} ON DATABASE "{context.target.database}" FROM PUBLIC, "{user}";')
    if in_schemas:
        names = ", ".join(in_schemas)
        found.append(f"CREATE on the schema {names}")
        remedies.append(f'REVOKE CREATE ON SCHEMA {names} FROM PUBLIC, "{user}";')
    if found:
        return warning(
            f"{user} has {' and '.join(found)}: a table of its SQL can take the place of one of ours",
            "other roles lose what PUBLIC loses, so grant it to those that need it; then `thea-db bootstrap`, or as the"
            f" owner of the database: {' '.join(remedies)}",
        )
    return ok(f"{user} can create no temporary tables, and nothing in the schemas of the search path")


async def _is_of_others(connection: asyncpg.Connection[Any]) -> bool:
    """Return True if other migrations made the database: its privileges are its owner's business."""
    try:
        return (await revision_of(connection)).is_foreign
    except asyncpg.InsufficientPrivilegeError:  # it is thea-database's, and alembic_version may not be read
        return False


async def check_rights(context: CheckContext) -> CheckResult:
    """Check that the role may read and write each table, and set the tenant."""
    connection, user = context.connection, context.target.user
    there = await connection.fetchval("SELECT count(to_regclass(name)) FROM unnest($1::text[]) AS name", TABLES)
    if not there:
        return skipped("the tables are not there, or their schema may not be used: see revision")
    if not Origin.of(await connection.fetchrow(ORIGIN)).is_ours:
        return skipped("the tables are not this package's: see revision")
    lacking = await connection.fetch(_LACKING, TABLES)
    if lacking:
        grants = [f'GRANT {privileges} ON {name} TO "{user}";' for name, privileges in lacking]
        return failed(
            f"{user} lacks rights on {'; '.join(f'{name} ({privileges})' for name, privileges in lacking)}",
            f"as the owner: {' '.join(grants)}",
        )
    may_execute = "SELECT has_function_privilege(to_regprocedure('app_set_tenant(uuid)'), 'EXECUTE')"
    match await connection.fetchval(may_execute):  # NULL if there is no such function
        case None:
            return failed(
                "app_set_tenant(uuid) is missing", "`thea-db upgrade`; if nothing is left to apply: see schema"
            )
        case False:
            return failed(
                f"{user} may not execute app_set_tenant(uuid)",
                f'as the owner: GRANT EXECUTE ON FUNCTION app_set_tenant(uuid) TO "{user}";',
            )
    return ok(f"{user} can read and write all {len(TABLES)} tables, and name the tenant")


async def check_revision(context: CheckContext) -> CheckResult:
    """Compare the schema with the migrations of this installation."""
    if await context.connection.fetchval("SELECT current_schema() IS NULL"):
        return skipped("no schema of the search_path exists: see session defaults")
    try:
        return judge_revision(await revision_of(context.connection))
    except asyncpg.InsufficientPrivilegeError:
        user = context.target.user
        return warning(
            f"{user} may not read alembic_version", f'as the owner: GRANT SELECT ON alembic_version TO "{user}";'
        )


def judge_revision(revision: Revision) -> CheckResult:
    """Return the result for a revision. No remedy deletes migrations or the row in alembic_version."""
    if revision.is_foreign:
        return failed(revision.foreign_origin(), OTHER_DATABASE)
    if revision.is_unstamped:
        return failed("the tables are there, and no revision is recorded", "thea-db verify")
    if revision.database is None:
        return failed("the database has no schema", _UPGRADE)
    if not revision.is_known:
        return failed(
            f"{revision.database} is unknown to this installation, whose newest is {revision.head}: a newer one has"
            " migrated the database",
            "install the version of thea-database, or check out the branch, that has this revision; delete neither"
            " migrations nor rows of alembic_version",
        )
    if revision.database != revision.head:
        return failed(f"{revision.database} is behind {revision.head}", _UPGRADE)
    return ok(revision.database)


async def check_schema(context: CheckContext) -> CheckResult:
    """Compare the schema, row-level security and the role's rights with what the migrations build."""
    if context.settings.ENVIRONMENT == "production" and await context.connection.fetchval(SEES_EVERY_ROW):
        return skipped("see role")  # no engine connects as that role there
    if await context.connection.fetchval("SELECT current_schema() IS NULL"):
        return skipped("see session defaults")
    report = await verify(context.settings)
    if report.compared_with == "nothing":
        return skipped("see revision")
    differences = [difference for difference in report.differences if not _has_a_line(difference)]
    if not differences:
        return ok("no difference from what the migrations build")
    shown = [str(difference) for difference in differences[:SHOWN]]
    more = [f"and {len(differences) - SHOWN} more"] if len(differences) > SHOWN else []
    judge = failed if any(difference.severity == "error" for difference in differences) else warning
    return judge("\n".join([*shown, *more]), _VERIFY)


def _has_a_line(difference: Difference) -> bool:
    """Return True if another check of the doctor reports it: a revision, a collation, a right that is lacking."""
    if difference.kind in _HAVE_LINES:
        return True
    return difference.kind.startswith("rights of ") and bool(set(difference.expected) - set(difference.found))


async def check_extensions(context: CheckContext) -> CheckResult:
    """Check that the extensions and text search configurations exist that the migrations need."""
    rows = await context.connection.fetch(_EXTENSIONS, NEEDED_EXTENSIONS)
    if missing := [name for name, available in rows if not available]:
        return failed(f"the server does not offer {', '.join(missing)}", "install PostgreSQL's contrib package there")
    if absent := [name for name, available in rows if available]:
        return failed(f"not created: {', '.join(absent)}", "; ".join(f"CREATE EXTENSION {name}" for name in absent))
    if without := [row["name"] for row in await context.connection.fetch(_DICTIONARIES, NEEDED_DICTIONARIES)]:
        return failed(
            f"the text search configuration {', '.join(without)} is missing",
            "use a server with PostgreSQL's standard configurations",
        )
    return ok(f"{', '.join(NEEDED_EXTENSIONS)}; text search in {', '.join(NEEDED_DICTIONARIES)}")


async def check_replica(settings: Settings) -> CheckResult:
    """Check that the server for reads is a standby."""
    if settings.DATABASE_REPLICA_URL is None:
        return skipped("DATABASE_REPLICA_URL is not set: reads go to the primary")
    async with reach(settings, "reading") as reached:
        if await reached.connection.fetchval("SELECT pg_is_in_recovery()"):
            return ok(f"a standby answers at {reached.target}")
        return warning(f"{reached.target} is no standby", "name the standby, or unset DATABASE_REPLICA_URL")


async def check_migrations(settings: Settings) -> CheckResult:
    """Check that the role of `thea-db upgrade` can create tables."""
    if settings.DATABASE_MIGRATION_URL is None:
        return skipped("DATABASE_MIGRATION_URL is not set: the application's role migrates, or the embedded server's")
    async with reach(settings, "migrations") as reached:
        schema = await reached.connection.fetchval("SELECT quote_ident(current_schema())")
        if schema is None:
            return failed(
                f"the search_path of {reached.target.user} has no schema that exists: no table can be created",
                "name a schema that exists in its search_path (ALTER ROLE ... SET search_path), or CREATE SCHEMA",
            )
        if await reached.connection.fetchval("SELECT has_schema_privilege(current_schema(), 'CREATE')"):
            return ok(f"{reached.target.user} can create tables")
        return failed(
            f"{reached.target.user} may not create tables",
            "name the owner of the database in DATABASE_MIGRATION_URL: `thea-db bootstrap` creates it",
        )


def explain_drift(error: SchemaDriftError, settings: Callable[[], Settings]) -> DatabaseError:
    """Return the error of a foreign database if that is why a table or a column is missing, else the error itself."""
    try:
        revision = asyncio.run(_read_revision(settings()))
    except (DatabaseError, asyncpg.PostgresError):
        return error
    return ConfigurationError(revision.foreign_origin(), hint=OTHER_DATABASE) if revision.is_foreign else error


async def _read_revision(settings: Settings) -> Revision:
    async with reach(settings) as reached:
        return await revision_of(reached.connection)
