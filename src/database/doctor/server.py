"""The doctor's checks of the server: encryption, authentication and configuration."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, Final

import asyncpg

from src.config import Settings
from src.database.check_result import CheckResult, failed, ok, skipped, warning
from src.database.doctor.connection import Encryption, encryption_of
from src.database.doctor.releases import judge_version
from src.database.target import Target

CLOCK_TOLERANCE_SECONDS: Final = 2.0
_SYSTEM_USER_SINCE: Final = 16
"""The first major version with SYSTEM_USER, which reports how a session was authenticated."""
_SCRAM: Final = (
    "set a password for each role that connects, and add the password to the URL of the role; then require"
    " scram-sha-256 in pg_hba.conf"
)
_VERIFY_FULL: Final = (
    "when the server has a certificate for this host name, set DATABASE_SSL_MODE=verify-full, and DATABASE_SSL_CA if no"
    " public CA issued the certificate; `thea-db info` tries the new values"
)
_IS_BACKUP_ROLE: Final = "SELECT rolbypassrls AND NOT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"
# Since PostgreSQL 15, the oldest supported version.
_COLLATION: Final = """
SELECT datcollversion, pg_database_collation_actual_version(oid) FROM pg_catalog.pg_database
 WHERE datname = current_database()
"""
_DEFAULTS: Final = """
SELECT name, setting, source, format('%I', current_user) AS role, format('%I', current_database()) AS database
  FROM pg_catalog.pg_settings WHERE name = ANY($1)
"""
_IN_THE_CLIENT: Final = "remove {name} from DATABASE_URL (`options`, or `schema`)"
_FOR_THIS_ROLE: Final = "ALTER ROLE {role} IN DATABASE {database} SET {name} = '{value}';"
"""Takes precedence over the defaults of the role, the database and the server, and affects no other role."""
MISSING_SCHEMA: Final = (
    "run `thea-db upgrade`, which creates the schema of DATABASE_SCHEMA; if the schema exists, as its owner:"
    " GRANT USAGE ON SCHEMA {schema} TO {role};"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckContext:
    """The arguments of the checks of the server.

    Args:
        settings: The settings.
        target: The target that the settings name.
        connection: An open connection to the target; the checks run one after the other.
        processes: The number of processes that use the database at the same time.
    """

    settings: Settings
    target: Target
    connection: asyncpg.Connection[Any]
    processes: int


def fault(settings: Settings, found: str, remedy: str) -> CheckResult:
    """Return a warning in development and test, and a failure in staging and production."""
    return warning(found, remedy) if settings.is_local else failed(found, remedy)


async def check_tls(context: CheckContext) -> CheckResult:
    """Check that the connection is encrypted, and the server verified, where the network could be read."""
    return judge_tls(encryption_of(context.connection, context.target), context.target, context.settings)


def judge_tls(encryption: Encryption, target: Target, settings: Settings) -> CheckResult:
    """Return the result for an encryption: the remaining risk depends on the route and the environment."""
    if encryption.kind == "Unix socket":
        return ok(str(encryption))
    if target.route != "direct":
        return ok(f"{encryption}, over {target.route}")
    if encryption.kind == "plaintext" and not all(_is_loopback(host.name) for host in target.hosts):
        return warning(
            f"{encryption} to {target.host}: others on the network can read everything that is sent", _VERIFY_FULL
        )
    if encryption.kind == "TLS" and target.ssl_mode != "verify-full" and not settings.is_local:
        unverified = "the host name in the server's certificate" if encryption.peer else "the server's certificate"
        return warning(
            f"{encryption}: {unverified} is not verified, so that another server could answer instead",
            _VERIFY_FULL,
        )
    return ok(str(encryption))


async def check_password(context: CheckContext) -> CheckResult:
    """Check how the server authenticated the connection. No wrong password is tried, as that can lock the account."""
    target, connection = context.target, context.connection
    if target.embedded is not None:
        return ok("not needed: only this user can connect to the embedded server")
    if await _is_pooled(connection):
        return skipped(
            "a pooler accepted the connection; how the server authenticates the pooler is not visible from here"
        )
    # Before 16 the method is not known: with a password or a client certificate, one of these is assumed.
    method = None if target.password is None and target.ssl_cert is None else "password"
    if connection.get_server_version().major >= _SYSTEM_USER_SINCE:
        method = str(await connection.fetchval("SELECT system_user") or "").partition(":")[0] or None
    if method is None and not target.is_socket:
        return fault(context.settings, "the server accepts any password, or none (trust in pg_hba.conf)", _SCRAM)
    if await connection.fetchval("SHOW password_encryption") != "scram-sha-256":
        return warning(
            "the server stores new passwords as MD5 hashes, which are insecure",
            "set password_encryption = 'scram-sha-256' in postgresql.conf, then set the password again",
        )
    return ok(f"accepted ({method or 'trust, on a Unix socket'})")


async def check_version(context: CheckContext) -> CheckResult:
    """Check that the server's release is supported, and has no known vulnerability."""
    version = await context.connection.fetchval("SELECT current_setting('server_version_num')::int")
    return judge_version(version, today=datetime.now(UTC).date())


async def check_writable(context: CheckContext) -> CheckResult:
    """Check that the server accepts writes."""
    standby, read_only = await context.connection.fetchrow(
        "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::bool"
    )
    if standby:
        return failed(
            "the server is a standby, and accepts no writes",
            "name all hosts in DATABASE_URL, with target_session_attrs=read-write",
        )
    if read_only:
        return failed("default_transaction_read_only is on", await _remedy_of_read_only(context))
    return ok("a primary")


async def _remedy_of_read_only(context: CheckContext) -> str:
    if await context.connection.fetchval(_IS_BACKUP_ROLE):
        return "name the application's role in DATABASE_URL: this role is for backups, with BYPASSRLS and read-only"
    row = await context.connection.fetchrow(_DEFAULTS, ["default_transaction_read_only"])
    if row["source"] == "client":
        return _remedy(row, "off")
    return (
        "find out why writes are off: a failover or maintenance can switch them off. Then, as an administrator:"
        f" {_remedy(row, 'off')}"
    )


async def check_clock(context: CheckContext) -> CheckResult:
    """Compare the server's clock with the clock of this machine."""
    before = time.time()
    server = await context.connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    after = time.time()
    return judge_clock(server - (before + after) / 2, round_trip=after - before)


def judge_clock(ahead: float, *, round_trip: float) -> CheckResult:
    """Return the result for a difference between the clocks.

    Args:
        ahead: How far the server's clock is ahead, in seconds, measured at the middle of the round trip.
        round_trip: The duration of the measurement in seconds; half of it is the uncertainty of `ahead`.
    """
    found = f"the server's clock is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    if abs(ahead) - round_trip / 2 <= CLOCK_TOLERANCE_SECONDS:
        return ok(found)
    return warning(found, "synchronize both clocks by NTP: reminders and the order of ids depend on them")


async def check_pooler(context: CheckContext) -> CheckResult:
    """Check that DATABASE_PGBOUNCER is true if, and only if, a pooler is between this process and the server."""
    is_pooled = await _is_pooled(context.connection)
    if is_pooled and not context.settings.DATABASE_PGBOUNCER:
        return warning(
            "a pooler is between this process and the server: settings of the session and prepared statements can be"
            " lost between two transactions",
            "name the server itself in DATABASE_MIGRATION_URL, then set DATABASE_PGBOUNCER=true",
        )
    if context.settings.DATABASE_PGBOUNCER and not is_pooled:
        return warning(
            "DATABASE_PGBOUNCER=true, but the connection is to the server itself: each transaction does needless work",
            "set DATABASE_PGBOUNCER=false if no pooler is between this process and the server",
        )
    return ok("a pooler, and DATABASE_PGBOUNCER=true" if is_pooled else "none")


async def check_encoding(context: CheckContext) -> CheckResult:
    """Check that the database can store every character."""
    encoding = await context.connection.fetchval("SHOW server_encoding")
    if encoding == "UTF8":
        return ok(encoding)
    return failed(
        f"the database has the encoding {encoding}, and rejects characters that {encoding} does not have",
        f"create a database with UTF8 and move the data there:"
        f" CREATE DATABASE \"{context.target.database}_utf8\" ENCODING 'UTF8' TEMPLATE template0;",
    )


async def check_collation(context: CheckContext) -> CheckResult:
    """Check that the indexes were built with the collation version that the operating system has now."""
    built, actual = await context.connection.fetchrow(_COLLATION)
    if built == actual:
        return ok(f"version {actual}" if actual else "the collation provider reports no version")
    database = context.target.database
    return warning(
        f"indexes on text were built with collation version {built}, and the system now has {actual}: a query can miss"
        " rows",
        f'as the owner: REINDEX DATABASE CONCURRENTLY "{database}"; and after that has ended without an error:'
        f' ALTER DATABASE "{database}" REFRESH COLLATION VERSION;',
    )


async def check_session_defaults(context: CheckContext) -> CheckResult:
    """Check that row_security is on, transactions are READ COMMITTED by default, and search_path has a schema.

    A default can come from the URL, the role, the database or the server: the remedy depends on the source.
    """
    names = ["row_security", "default_transaction_isolation", "search_path"]
    rows = {row["name"]: row for row in await context.connection.fetch(_DEFAULTS, names)}
    security, isolation = rows["row_security"], rows["default_transaction_isolation"]
    found, remedies = [], []
    if security["setting"] == "off":
        found.append("row_security is off: every statement on a table with row-level security fails")
        remedies.append(_remedy(security, "on"))
    if isolation["setting"] != "read committed":
        found.append(
            f"default_transaction_isolation is {isolation['setting']}: get-or-create, append and claims need read"
            " committed, and otherwise fail with SerializationError when two callers run them at the same time"
        )
        remedies.append(_remedy(isolation, "read committed"))
    path = rows["search_path"]
    has_schema = await context.connection.fetchval("SELECT current_schema() IS NOT NULL")
    if not has_schema:
        found.append(
            f"search_path is {path['setting']}: none of these schemas exists, or the role has no USAGE on them; no"
            " table is found, and none can be created"
        )
        # Where the setting names the schema, the path is neither in the URL nor a default of the role.
        schema, role = context.settings.DATABASE_SCHEMA, path["role"]
        other = f"create the schema (CREATE SCHEMA), grant USAGE on it, or: {_remedy(path, 'public')}"
        remedies.append(other if schema is None else MISSING_SCHEMA.format(schema=f'"{schema}"', role=role))
    if not found:
        return ok("row_security is on; transactions are read committed; search_path has a schema that exists")
    judge = failed if security["setting"] == "off" or not has_schema else warning
    return judge("\n".join(found), "\n".join(remedies))


def _remedy(row: asyncpg.Record, value: str) -> str:
    remedy = _IN_THE_CLIENT if row["source"] == "client" else _FOR_THIS_ROLE
    return remedy.format(**dict(row), value=value)


async def _is_pooled(connection: asyncpg.Connection[Any]) -> bool:
    """Return True if a pooler is between this process and the server.

    PgBouncer sends a process id of its own at connect, as it can use another server process for each transaction.
    """
    return bool(await connection.fetchval("SELECT pg_backend_pid()") != connection.get_server_pid())


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.startswith("/"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
