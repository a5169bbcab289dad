"""The doctor's checks of a server that answers: how it lets us in, and what it is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, Final

import asyncpg

from src.config import Settings
from src.database.cli.diagnose.demand import Demand, demand_of
from src.database.cli.diagnose.encryption import Encryption, encryption_of
from src.database.cli.diagnose.finding import Finding, failed, ok, skipped, warning
from src.database.cli.diagnose.releases import version_finding
from src.database.engine.capacity import Capacity, capacity_of
from src.database.target import Target

__all__ = [
    "Patient",
    "check_clock",
    "check_collation",
    "check_connections",
    "check_encoding",
    "check_password",
    "check_pooler",
    "check_tls",
    "check_version",
    "check_writable",
    "clock_finding",
    "connections_finding",
    "tls_finding",
    "worse",
]

CLOCK_TOLERANCE_SECONDS: Final = 2.0
_KNOWS_HOW_WE_CAME: Final = 16
"""The first major that tells a session how it was authenticated."""
_SCRAM: Final = (
    "give each role that connects a password, put it into its URL, then have pg_hba.conf require scram-sha-256"
)
_VERIFY_FULL: Final = (
    "once the server has a certificate for this host's name: DATABASE_SSL_MODE=verify-full, and DATABASE_SSL_CA where"
    " no public CA issued it; try it first by `thea-db info`"
)
_READ_ONLY: Final = """
SELECT source, (SELECT rolbypassrls AND NOT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user),
       quote_ident(current_user)
  FROM pg_catalog.pg_settings WHERE name = 'default_transaction_read_only'
"""
_COLLATION: Final = """
SELECT datcollversion, pg_database_collation_actual_version(oid) FROM pg_catalog.pg_database
 WHERE datname = current_database()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """What is examined: a connection, and what asked for it."""

    settings: Settings
    target: Target
    connection: asyncpg.Connection[Any]
    processes: int


def worse(settings: Settings, found: str, remedy: str) -> Finding:
    """Judge what a developer may live with, and nobody else."""
    return warning(found, remedy) if settings.is_local else failed(found, remedy)


async def check_tls(patient: Patient) -> Finding:
    """Look at the encryption in force."""
    return tls_finding(encryption_of(patient.connection, patient.target), patient.target, patient.settings)


def tls_finding(encryption: Encryption, target: Target, settings: Settings) -> Finding:
    """Judge it by the way that it protects."""
    if encryption.kind == "Unix socket":
        return ok(str(encryption))
    if target.route != "direct":
        return ok(f"{encryption}, over {target.route}")
    if encryption.kind == "plaintext" and not all(_is_loopback(host.name) for host in target.hosts):
        return warning(f"{encryption} to {target.host}: others on the network can read all of it", _VERIFY_FULL)
    if encryption.kind == "TLS" and target.ssl_mode != "verify-full" and not settings.is_local:
        unverified = "the host name in the server's certificate" if encryption.peer else "the server's certificate"
        return warning(
            f"{encryption}: {unverified} is not verified, so that another server could answer in its place",
            _VERIFY_FULL,
        )
    return ok(str(encryption))


async def check_password(patient: Patient) -> Finding:
    """Check how the server authenticated the connection. No wrong password is tried: that can lock the account."""
    target, connection = patient.target, patient.connection
    if target.embedded is not None:
        return ok("not needed: only this user can reach the embedded server")
    if await _is_pooled(connection):
        return skipped("a pooler accepted the connection; how the server authenticates the pooler is not visible")
    came_by = None if target.password is None and target.ssl_cert is None else "password"
    if connection.get_server_version().major >= _KNOWS_HOW_WE_CAME:
        came_by = str(await connection.fetchval("SELECT system_user") or "").partition(":")[0] or None
    if came_by is None and not target.is_socket:
        return worse(patient.settings, "the server takes any password, or none (trust)", _SCRAM)
    if await connection.fetchval("SHOW password_encryption") != "scram-sha-256":
        return warning(
            "the server stores new passwords as MD5 hashes, which are insecure",
            "password_encryption = 'scram-sha-256' in postgresql.conf, then set the password again",
        )
    return ok(f"accepted ({came_by or 'trust, on a Unix socket'})")


async def check_version(patient: Patient) -> Finding:
    """Look the server's release up."""
    version = await patient.connection.fetchval("SELECT current_setting('server_version_num')::int")
    return version_finding(version, today=datetime.now(UTC).date())


async def check_writable(patient: Patient) -> Finding:
    """Look whether the server takes writes."""
    standby, read_only = await patient.connection.fetchrow(
        "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::bool"
    )
    if standby:
        return failed(
            "the server is a standby and takes no writes",
            "name all hosts in DATABASE_URL, with target_session_attrs=read-write",
        )
    if read_only:
        return failed(
            "default_transaction_read_only is on",
            await _remedy_of_read_only(patient),
        )
    return ok("a primary")


async def _remedy_of_read_only(patient: Patient) -> str:
    source, bypasses, role = await patient.connection.fetchrow(_READ_ONLY)
    if bypasses:
        return (
            "name the application's role in DATABASE_URL: this one, as the role for backups, is meant to be read-only"
        )
    if source == "client":
        return "remove default_transaction_read_only from `options` in DATABASE_URL, or from PGOPTIONS"
    return (
        "find out who made it read-only, and why: a failover or a maintenance does so. Then, as an administrator:"
        f" ALTER ROLE {role} IN DATABASE {await patient.connection.fetchval('SELECT quote_ident(current_database())')}"
        " SET default_transaction_read_only = off;"
    )


async def check_clock(patient: Patient) -> Finding:
    """Compare the two clocks."""
    before = time.time()
    server = await patient.connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    after = time.time()
    return clock_finding(server - (before + after) / 2, round_trip=after - before)


def clock_finding(ahead: float, *, round_trip: float) -> Finding:
    """Judge how far the server's clock is ahead of ours, in seconds; the round trip's half may be either's."""
    told = f"the server's clock is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} ours"
    if abs(ahead) - round_trip / 2 <= CLOCK_TOLERANCE_SECONDS:
        return ok(told)
    return warning(told, "synchronize both clocks by NTP: reminders and the order of ids depend on them")


async def check_connections(patient: Patient) -> Finding:
    """Compare what the pools can open with what the server has."""
    demand = demand_of(patient.settings, processes=patient.processes)
    return connections_finding(demand, await capacity_of(patient.connection), patient.settings)


def connections_finding(demand: Demand, capacity: Capacity, settings: Settings) -> Finding:
    """Judge it as `thea-db pool` does."""
    has = f"the server has {capacity.available} of max_connections {capacity.maximum} for us"
    if settings.DATABASE_PGBOUNCER:
        return skipped(f"PgBouncer bounds what the server sees: {has}")
    if not demand.is_pooled:
        return ok(f"{has}; without a pool each use opens one")
    if demand.most > capacity.available:
        return failed(f"the pools can open {demand}, and {has}", "`thea-db pool` suggests a size")
    return ok(f"the pools can open {demand}; {has}")


async def check_pooler(patient: Patient) -> Finding:
    """Compare what is set with what stands between."""
    is_pooled = await _is_pooled(patient.connection)
    if is_pooled and not patient.settings.DATABASE_PGBOUNCER:
        return warning(
            "a pooler is between this program and the server: a session's settings and prepared statements can be lost"
            " between two transactions",
            "name the server itself in DATABASE_MIGRATION_URL, then DATABASE_PGBOUNCER=true",
        )
    if patient.settings.DATABASE_PGBOUNCER and not is_pooled:
        return warning(
            "DATABASE_PGBOUNCER=true, but the connection goes to the server itself: each query does unneeded work",
            "DATABASE_PGBOUNCER=false, if no pooler is between this program and the server",
        )
    return ok("a pooler, and DATABASE_PGBOUNCER=true" if is_pooled else "none")


async def check_encoding(patient: Patient) -> Finding:
    """Look whether the database can hold every character."""
    encoding = await patient.connection.fetchval("SHOW server_encoding")
    if encoding == "UTF8":
        return ok(encoding)
    return failed(
        f"the database has the encoding {encoding}, and rejects text with characters that {encoding} does not have",
        f"create a database with UTF8, and move the data there:"
        f" CREATE DATABASE \"{patient.target.database}_utf8\" ENCODING 'UTF8' TEMPLATE template0;",
    )


async def check_collation(patient: Patient) -> Finding:
    """Look whether the order of text is still the one that the indexes were built in."""
    built, actual = await patient.connection.fetchrow(_COLLATION)
    if built == actual:
        return ok(f"version {actual}" if actual else "its provider has no versions: nothing to compare")
    database = patient.target.database
    return warning(
        f"indexes on text were built with collation version {built}, and the system now has {actual}: an index can miss"
        " rows",
        f'as its owner: REINDEX DATABASE CONCURRENTLY "{database}"; and only when that has ended without an error:'
        f' ALTER DATABASE "{database}" REFRESH COLLATION VERSION;',
    )


async def _is_pooled(connection: asyncpg.Connection[Any]) -> bool:
    """Ask the server for its process: a pooler has told us of one of its own making, since the real one changes."""
    return bool(await connection.fetchval("SELECT pg_backend_pid()") != connection.get_server_pid())


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.startswith("/"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
