"""The doctor's checks of the schema: its revision, its drift, and the privileges of the roles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import asyncpg

from src.config import Settings
from src.database.check_result import CheckResult, failed, ok, skipped, warning
from src.database.doctor.connection import reach
from src.database.doctor.server import MISSING_SCHEMA, CheckContext, fault
from src.database.drift import Difference, verify
from src.database.engine import SEES_EVERY_ROW
from src.database.errors import ConfigurationError, DatabaseError, SchemaDriftError
from src.database.health import examine_service_revision, judge_revision, unreadable
from src.database.migrate import (
    ORIGIN,
    OTHER_DATABASE,
    VERSION_TABLE,
    Origin,
    readable_revision,
    revision_of,
    service_history,
    service_revisions,
)
from src.database.models import package_tables

TABLES: Final = sorted(package_tables())
REQUIRED_EXTENSIONS: Final = ("plpgsql",)
"""The extensions that the migrations need: app_set_tenant is written in plpgsql."""
TEXT_SEARCH_CONFIGURATIONS: Final = ("english", "spanish")
"""The text search configurations that the index of the notes uses."""

_ROLE: Final = "SELECT rolsuper, rolbypassrls FROM pg_catalog.pg_roles WHERE rolname = current_user"
_OWNED: Final = """
SELECT name FROM unnest($1::text[]) AS name JOIN pg_catalog.pg_class ON pg_class.oid = to_regclass(name)
 WHERE pg_get_userbyid(relowner) = current_user ORDER BY name
"""
# current_schemas(false): the existing schemas of the search_path, without pg_catalog and pg_temp, which are implicit.
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
_MISSING_EXTENSIONS: Final = """
SELECT name FROM unnest($1::text[]) AS name WHERE name NOT IN (SELECT extname FROM pg_catalog.pg_extension)
"""
_MISSING_CONFIGURATIONS: Final = """
SELECT name FROM unnest($1::text[]) AS name WHERE name NOT IN (SELECT cfgname FROM pg_catalog.pg_ts_config)
"""
MAX_DIFFERENCES: Final = 5
_OWN_CHECKS: Final = ("revision", "collation version")
"""The kinds of differences that the doctor reports by another check."""
_VERIFY: Final = "`thea-db verify` names each difference and the statements that repair it"


async def check_role(context: CheckContext) -> CheckResult:
    """Check that row-level security binds the role, and that the role cannot switch it off."""
    user = context.target.user
    is_superuser, bypasses = await context.connection.fetchrow(_ROLE)
    if is_superuser or bypasses:
        # No remedy by ALTER ROLE: a server whose only superuser loses the attribute cannot get it back.
        return fault(
            context.settings,
            f"{user} {'is a superuser' if is_superuser else 'has BYPASSRLS'}: row-level security does not bind it",
            "name another role in DATABASE_URL: `thea-db bootstrap` creates a role that row-level security binds. Leave"
            f" the attributes of {user} as they are: other programs may need them",
        )
    owned = [row["name"] for row in await context.connection.fetch(_OWNED, _tables(context.settings))]
    if owned:
        return warning(
            f"{user} owns {', '.join(owned)}: it can switch row-level security off",
            "in DATABASE_URL, name a role that owns no table; in DATABASE_MIGRATION_URL, name the owner. `thea-db"
            " bootstrap` creates both roles",
        )
    return ok(f"row-level security binds {user}, which owns none of the tables")


async def check_creation(context: CheckContext) -> CheckResult:
    """Check that the role can create neither temporary tables nor objects in the schemas of the search_path.

    Names are looked up on the search_path: a table that a role creates there can hide a table of the migrations.
    """
    connection, user = context.connection, context.target.user
    if await connection.fetchval(_OWNS_THE_DATABASE):  # also true of a superuser
        return skipped(
            f"{user} has the privileges of the database's owner, which REVOKE does not change: see the check `role`"
        )
    of_service = service_revisions(context.settings)
    revision = await readable_revision(connection, of_service=of_service)  # None: the version table may not be read
    if revision is not None and revision.is_foreign:
        return skipped("the database is not thea-database's: see the check `revision`")
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
            f"{user} has {' and '.join(found)}: a table that it creates can hide a table of the migrations",
            "the remedy also takes the privilege from roles that have it only through PUBLIC, so grant it first to each"
            " role that needs it; then run `thea-db bootstrap`, or, as the owner of the database:"
            f" {' '.join(remedies)}",
        )
    return ok(f"{user} can create neither temporary tables nor objects in the schemas of the search_path")


async def check_rights(context: CheckContext) -> CheckResult:
    """Check that the role has the privileges to read and write each table, and to set the tenant."""
    connection, user, tables = context.connection, context.target.user, _tables(context.settings)
    found = await connection.fetchval("SELECT count(to_regclass(name)) FROM unnest($1::text[]) AS name", TABLES)
    if not found:
        return skipped("the tables do not exist, or the role has no USAGE on their schema: see the check `revision`")
    if not Origin.of(await connection.fetchrow(ORIGIN)).is_ours:
        return skipped("the tables are not this package's: see the check `revision`")
    lacking = await connection.fetch(_LACKING, tables)
    if lacking:
        grants = [f'GRANT {privileges} ON {name} TO "{user}";' for name, privileges in lacking]
        return failed(
            f"{user} lacks privileges on {'; '.join(f'{name} ({privileges})' for name, privileges in lacking)}",
            f"as the owner: {' '.join(grants)}",
        )
    may_execute = "SELECT has_function_privilege(to_regprocedure('app_set_tenant(uuid)'), 'EXECUTE')"
    match await connection.fetchval(may_execute):  # NULL if there is no such function
        case None:
            return failed(
                "app_set_tenant(uuid) is missing",
                "run `thea-db upgrade`; if there is no migration to apply, see the check `schema`",
            )
        case False:
            return failed(
                f"{user} lacks EXECUTE on app_set_tenant(uuid)",
                f'as the owner: GRANT EXECUTE ON FUNCTION app_set_tenant(uuid) TO "{user}";',
            )
    return ok(f"{user} can read and write all {len(tables)} tables, and set the tenant")


def _tables(settings: Settings) -> list[str]:
    """Return the names of the tables of this package and of the service.

    Raises:
        ConfigurationError: The models of the service cannot be imported.
    """
    service = service_history(settings)
    return TABLES if service is None else sorted({*TABLES, *service.tables()})


async def check_revision(context: CheckContext) -> CheckResult:
    """Check that the database is at the newest revision of this installation."""
    if await context.connection.fetchval("SELECT current_schema() IS NULL"):
        return skipped("no schema of the search_path exists: see the check `session defaults`")
    revision = await readable_revision(context.connection, of_service=service_revisions(context.settings))
    return await unreadable(context.connection, VERSION_TABLE) if revision is None else judge_revision(revision)


async def check_service_revision(context: CheckContext) -> CheckResult:
    """Check that the database is at the newest revision of the service's history."""
    if context.settings.DATABASE_SERVICE_MIGRATIONS is None:
        return skipped("DATABASE_SERVICE_MIGRATIONS is not set: the service has no tables of its own")
    return await examine_service_revision(context.connection, context.settings)


async def check_schema(context: CheckContext) -> CheckResult:
    """Compare the schema, row-level security and the role's privileges with what the migrations build."""
    if context.settings.ENVIRONMENT == "production" and await context.connection.fetchval(SEES_EVERY_ROW):
        return skipped("see the check `role`")  # in production no engine connects as such a role
    if await context.connection.fetchval("SELECT current_schema() IS NULL"):
        return skipped("see the check `session defaults`")
    report = await verify(context.settings)
    if report.compared_with == "nothing":
        return skipped("see the check `revision`")
    differences = [difference for difference in report.differences if not _is_reported_elsewhere(difference)]
    if not differences:
        return ok("no difference from what the migrations build")
    shown = [str(difference) for difference in differences[:MAX_DIFFERENCES]]
    more = len(differences) - MAX_DIFFERENCES
    judge = failed if any(difference.severity == "error" for difference in differences) else warning
    return judge("\n".join([*shown, f"and {more} more"] if more > 0 else shown), _VERIFY)


def _is_reported_elsewhere(difference: Difference) -> bool:
    """Return True if another check of the doctor reports the difference; `rights` reports missing privileges."""
    if difference.kind in _OWN_CHECKS:
        return True
    return difference.kind.startswith("rights of ") and bool(set(difference.expected) - set(difference.found))


async def check_extensions(context: CheckContext) -> CheckResult:
    """Check that the extensions and the text search configurations that the migrations need exist."""
    if rows := await context.connection.fetch(_MISSING_EXTENSIONS, REQUIRED_EXTENSIONS):
        missing = [name for (name,) in rows]
        return failed(f"missing: {', '.join(missing)}", "; ".join(f"CREATE EXTENSION {name}" for name in missing))
    if rows := await context.connection.fetch(_MISSING_CONFIGURATIONS, TEXT_SEARCH_CONFIGURATIONS):
        return failed(
            f"the text search configuration {', '.join(name for (name,) in rows)} is missing",
            "use a server with PostgreSQL's standard configurations",
        )
    return ok(f"{', '.join(REQUIRED_EXTENSIONS)}; text search in {', '.join(TEXT_SEARCH_CONFIGURATIONS)}")


async def check_replica(settings: Settings) -> CheckResult:
    """Check that DATABASE_REPLICA_URL leads to a standby."""
    if settings.DATABASE_REPLICA_URL is None:
        return skipped("DATABASE_REPLICA_URL is not set: reads go to the primary")
    async with reach(settings, "reading") as reached:
        if await reached.connection.fetchval("SELECT pg_is_in_recovery()"):
            return ok(f"a standby answers at {reached.target}")
        return warning(f"{reached.target} is not a standby", "name a standby in DATABASE_REPLICA_URL, or unset it")


async def check_migrations(settings: Settings) -> CheckResult:
    """Check that the role that runs the migrations can create tables."""
    if settings.DATABASE_MIGRATION_URL is None:
        return skipped("DATABASE_MIGRATION_URL is not set: the application's role runs the migrations")
    async with reach(settings, "migrations") as reached:
        schema = await reached.connection.fetchval("SELECT quote_ident(current_schema())")
        if schema is None:
            user = reached.target.user
            return failed(
                f"no schema in the search_path of {user} exists: no table can be created",
                "name an existing schema (ALTER ROLE ... SET search_path), or create the schema (CREATE SCHEMA)"
                if settings.DATABASE_SCHEMA is None
                else MISSING_SCHEMA.format(schema=f'"{settings.DATABASE_SCHEMA}"', role=f'"{user}"'),
            )
        if await reached.connection.fetchval("SELECT has_schema_privilege(current_schema(), 'CREATE')"):
            return ok(f"{reached.target.user} can create tables")
        return failed(
            f"{reached.target.user} may not create tables",
            "name the owner of the database in DATABASE_MIGRATION_URL: `thea-db bootstrap` creates that role",
        )


async def explain_drift(error: SchemaDriftError, settings: Callable[[], Settings]) -> DatabaseError:
    """Return a ConfigurationError if a table or a column is missing because other migrations made the database.

    Args:
        error: The error that a command raised; it is returned if the database is this package's.
        settings: Called for the settings.
    """
    try:
        async with reach(settings()) as reached:
            revision = await revision_of(reached.connection, of_service=service_revisions(settings()))
    except (DatabaseError, asyncpg.PostgresError):
        return error
    return ConfigurationError(revision.foreign_origin(), hint=OTHER_DATABASE) if revision.is_foreign else error
