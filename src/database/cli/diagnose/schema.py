"""The doctor's checks of what the application finds in the database: the schema, and what its role may do with it."""

from __future__ import annotations

from typing import Any, Final

import asyncpg

from src.config import Settings
from src.database import models
from src.database.base import Base
from src.database.cli.diagnose.finding import Finding, failed, ok, skipped, warning
from src.database.cli.diagnose.reach import reach
from src.database.cli.diagnose.revision import revision_finding
from src.database.cli.diagnose.server import Patient, worse
from src.database.migrate import revision_of
from src.database.migrate.revision_status import ORIGIN, Origin

__all__ = [
    "check_creation",
    "check_extensions",
    "check_migrations",
    "check_replica",
    "check_revision",
    "check_rights",
    "check_role",
]

assert models.User.metadata is Base.metadata  # noqa: S101 - importing the models is what fills the metadata

TABLES: Final = sorted(Base.metadata.tables)
NEEDED_EXTENSIONS: Final = ("plpgsql",)
"""What the migrations build upon: app_set_tenant is written in it."""
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


async def check_role(patient: Patient) -> Finding:
    """Look whether row-level security binds the role, and whether the role could take it away."""
    user = patient.target.user
    is_superuser, bypasses = await patient.connection.fetchrow(_ROLE)
    if is_superuser or bypasses:
        return worse(
            patient.settings,
            f"{user} {'is a superuser' if is_superuser else 'has BYPASSRLS'}: row-level security does not bind it",
            "name another role in DATABASE_URL: `thea-db bootstrap` creates one that row-level security binds. Leave"
            f" the attributes of {user} as they are: others may need them",
        )
    owned = [row["name"] for row in await patient.connection.fetch(_OWNED, TABLES)]
    if owned:
        return warning(
            f"{user} owns {', '.join(owned)}: it can switch row-level security off",
            "name a role that owns nothing in DATABASE_URL, and the owner in DATABASE_MIGRATION_URL; `thea-db"
            " bootstrap` creates the former",
        )
    return ok(f"{user} is bound by row-level security, and owns none of the tables")


async def check_creation(patient: Patient) -> Finding:
    """Check that the role can create neither temporary tables nor objects in the schemas that are searched for ours."""
    connection, user = patient.connection, patient.target.user
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
        remedies.append(f'REVOKE {privileges} ON DATABASE "{patient.target.database}" FROM PUBLIC, "{user}";')
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


async def check_rights(patient: Patient) -> Finding:
    """Look whether the role may read and write each table, and name the tenant."""
    connection, user = patient.connection, patient.target.user
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
    if not await connection.fetchval(
        "SELECT has_function_privilege(to_regprocedure('app_set_tenant(uuid)'), 'EXECUTE')"
    ):
        return failed(
            f"app_set_tenant(uuid) is missing, or {user} may not execute it",
            f'`thea-db upgrade`; as the owner: GRANT EXECUTE ON FUNCTION app_set_tenant(uuid) TO "{user}";',
        )
    return ok(f"{user} can read and write all {len(TABLES)} tables, and name the tenant")


async def check_revision(patient: Patient) -> Finding:
    """Compare the schema with the migrations of this installation."""
    if await patient.connection.fetchval("SELECT current_schema() IS NULL"):
        return skipped("no schema of the search_path exists: see session defaults")
    try:
        return revision_finding(await revision_of(patient.connection))
    except asyncpg.InsufficientPrivilegeError:
        user = patient.target.user
        return warning(
            f"{user} may not read alembic_version", f'as the owner: GRANT SELECT ON alembic_version TO "{user}";'
        )


async def check_extensions(patient: Patient) -> Finding:
    """Look for what the migrations build upon."""
    rows = await patient.connection.fetch(_EXTENSIONS, NEEDED_EXTENSIONS)
    if missing := [name for name, available in rows if not available]:
        return failed(f"the server does not offer {', '.join(missing)}", "install PostgreSQL's contrib package there")
    if absent := [name for name, available in rows if available]:
        return failed(f"not created: {', '.join(absent)}", "; ".join(f"CREATE EXTENSION {name}" for name in absent))
    if without := [row["name"] for row in await patient.connection.fetch(_DICTIONARIES, NEEDED_DICTIONARIES)]:
        return failed(
            f"the text search configuration {', '.join(without)} is missing",
            "use a server with PostgreSQL's standard configurations",
        )
    return ok(f"{', '.join(NEEDED_EXTENSIONS)}; text search in {', '.join(NEEDED_DICTIONARIES)}")


async def check_replica(settings: Settings) -> Finding:
    """Look at the server that reads go to."""
    if settings.DATABASE_REPLICA_URL is None:
        return skipped("DATABASE_REPLICA_URL is not set: reads go to the primary")
    async with reach(settings, "reading") as reached:
        if await reached.connection.fetchval("SELECT pg_is_in_recovery()"):
            return ok(f"a standby answers at {reached.target}")
        return warning(f"{reached.target} is no standby", "name the standby, or unset DATABASE_REPLICA_URL")


async def check_migrations(settings: Settings) -> Finding:
    """Look at the role that `thea-db upgrade` works as."""
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
