"""The doctor's checks of the network: host names, ports, and the step at which connecting failed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

from src.database.check_result import CheckResult, failed, ok, skipped, warning
from src.database.errors import (
    AuthenticationFailed,
    ConfigurationError,
    DatabaseError,
    DatabaseMissing,
    TlsFailed,
)
from src.database.target import Host, Target

CONNECT_STEPS: Final[tuple[str, ...]] = ("server", "TLS", "password", "database")
"""The steps of connecting, in this order; each is a check of its own in the report."""

PROBE_SECONDS: Final = 5.0
_STEP_OF_ERROR: Final[dict[type, str]] = {
    TlsFailed: "TLS",
    AuthenticationFailed: "password",
    DatabaseMissing: "database",
}
_INVALID_AUTHORIZATION: Final = "28000"
"""The SQLSTATE of a role that does not exist, or that pg_hba.conf does not admit; the password was not checked."""
_BOOTSTRAP: Final = "`thea-db bootstrap` creates the database and its roles"


def hosts_to_reach(target: Target) -> tuple[Host, ...]:
    """Return the hosts to which this machine connects: with an SSH tunnel, the gateway alone.

    The result is empty for the embedded server, and for Cloud SQL, whose connector opens the connection.
    """
    if target.embedded is not None or target.cloud_sql_instance is not None:
        return ()
    return target.hosts if target.ssh is None else (Host(target.ssh.host, target.ssh.port),)


async def check_names(hosts: Sequence[Host]) -> CheckResult:
    """Resolve the host names, all at the same time."""
    named = [host for host in hosts if not (host.is_socket or _is_address(host.name))]
    if not named:
        return skipped(
            "no host name is set: every host is an IP address or a socket, or is not reached from this machine"
        )
    answers = await asyncio.gather(*(_resolve(host.name) for host in named))
    found = "; ".join(
        f"{host.name} is {', '.join(addresses) or 'not known'}" for host, addresses in zip(named, answers, strict=True)
    )
    return _judge(found, list(map(bool, answers)), "check the host in DATABASE_URL, the DNS and the VPN")


async def check_ports(hosts: Sequence[Host]) -> CheckResult:
    """Connect to the port or the Unix socket of each host, and close the connection; nothing is sent."""
    if not hosts:
        return skipped(
            "no port is checked: the target is the embedded server, or an instance that the Cloud SQL connector reaches"
        )
    reasons = await asyncio.gather(*(_try_port(host) for host in hosts))
    found = "; ".join(f"{host} {reason or 'is open'}" for host, reason in zip(hosts, reasons, strict=True))
    remedy = "start the server; check host and port, listen_addresses in postgresql.conf, and the firewall"
    return _judge(found, [reason is None for reason in reasons], remedy)


def results_of_failure(error: DatabaseError, target: Target) -> dict[str, CheckResult]:
    """Return the results of the steps of connecting, up to the step that failed.

    Args:
        error: The error that connecting raised; its class tells the step.
        target: The target.
    """
    failed_step = next((_STEP_OF_ERROR[kind] for kind in type(error).__mro__ if kind in _STEP_OF_ERROR), "server")
    if isinstance(error, ConfigurationError) and "SSL" in str(error.args[0]):
        failed_step = "TLS"  # a certificate file is read while connecting, not with the settings
    passed = {"server": "answers", "TLS": f"the connection satisfies sslmode {target.ssl_mode}", "password": "accepted"}
    checks = {step: ok(passed[step]) for step in CONNECT_STEPS[: CONNECT_STEPS.index(failed_step)]}
    return checks | {failed_step: failed(str(error.args[0]), _remedy(error, target))}


def _remedy(error: DatabaseError, target: Target) -> str | None:
    if isinstance(error, DatabaseMissing):
        return "check the database's name in DATABASE_URL; `thea-db bootstrap` creates a new database and its owner"
    if isinstance(error, AuthenticationFailed) and error.sqlstate == _INVALID_AUTHORIZATION:
        return error.hint
    if isinstance(error, AuthenticationFailed) and not target.password:
        return (
            "no password is set: add the password to DATABASE_URL or the profile; if the server does not have the roles"
            f" yet, {_BOOTSTRAP}"
        )
    if isinstance(error, AuthenticationFailed):
        return (
            "check the user and the password in DATABASE_URL, and percent-encode their special characters; the server"
            " does not report which of the two is wrong. An administrator can set another password with psql:"
            f' \\password "{target.user}"; every service that connects as this role then needs the new one. If the'
            f" server does not have the roles yet, {_BOOTSTRAP}"
        )
    return error.hint


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


async def _resolve(name: str) -> list[str]:
    with suppress(OSError, UnicodeError):
        async with asyncio.timeout(PROBE_SECONDS):
            answers = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(address[0]) for *_, address in answers))
    return []


async def _try_port(host: Host) -> str | None:
    """Return the reason why a connection to the host fails; None if it succeeds."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            if host.is_socket:
                _, writer = await asyncio.open_unix_connection(f"{host.name}/.s.PGSQL.{host.port}")
            else:
                _, writer = await asyncio.open_connection(host.name, host.port)
    except TimeoutError:
        return f"does not answer within {PROBE_SECONDS:g} s"
    except PermissionError:
        return "cannot be opened by this user: permission denied"
    except (OSError, UnicodeError):
        return "refuses connections: no server listens there"
    writer.close()  # PostgreSQL logs an "incomplete startup packet", if it logs connections at all
    return None


def _judge(found: str, successes: Sequence[bool], remedy: str) -> CheckResult:
    """Return a failure if no host succeeds, and a warning if only some do: the driver tries all of them in turn."""
    if all(successes):
        return ok(found)
    return warning(found, remedy) if any(successes) else failed(found, remedy)
