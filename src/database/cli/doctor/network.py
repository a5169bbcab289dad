"""The doctor's checks of the network: names, ports, and the step at which an attempt to connect failed."""

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

ATTEMPT: Final[tuple[str, ...]] = ("server", "TLS", "password", "database")
"""The steps of an attempt to connect, in this order."""

PROBE_SECONDS: Final = 5.0
_STEP_OF_ERROR: Final[dict[type, str]] = {
    TlsFailed: "TLS",
    AuthenticationFailed: "password",
    DatabaseMissing: "database",
}
_NOT_ALLOWED_IN: Final = "28000"
_BOOTSTRAP: Final = "`thea-db bootstrap` creates the database and its roles"


def hosts_to_reach(target: Target) -> tuple[Host, ...]:
    """Return the hosts to which this machine connects; none for the embedded server, or if a connector does it."""
    if target.embedded is not None or target.cloud_sql_instance is not None:
        return ()
    return target.hosts if target.ssh is None else (Host(target.ssh.host, target.ssh.port),)


async def check_names(hosts: Sequence[Host]) -> CheckResult:
    """Resolve the names of all hosts."""
    named = [host for host in hosts if not (host.is_socket or _is_address(host.name))]
    if not named:
        return skipped(
            "no host name is set: every host is an IP address or a socket, or is not reached from this machine"
        )
    answers = await asyncio.gather(*(_resolve(host.name) for host in named))
    found = "; ".join(
        f"{host.name} is {', '.join(addresses) or 'not known'}" for host, addresses in zip(named, answers, strict=True)
    )
    return _judge(found, list(map(bool, answers)), "check the host in DATABASE_URL, the DNS, and the VPN")


async def check_ports(hosts: Sequence[Host]) -> CheckResult:
    """Open a connection to the port or the socket of each host, and close it."""
    if not hosts:
        return skipped("this machine opens no port: the embedded server, or the Cloud SQL connector, is used")
    reasons = await asyncio.gather(*(_try_port(host) for host in hosts))
    found = "; ".join(f"{host} {reason or 'is open'}" for host, reason in zip(hosts, reasons, strict=True))
    remedy = "start the server; check host and port, listen_addresses in postgresql.conf, and the firewall"
    return _judge(found, [reason is None for reason in reasons], remedy)


def results_of_failure(error: DatabaseError, target: Target) -> dict[str, CheckResult]:
    """Return the result of each step of a failed attempt, up to the step that failed."""
    failed_step = next((_STEP_OF_ERROR[kind] for kind in type(error).__mro__ if kind in _STEP_OF_ERROR), ATTEMPT[0])
    if isinstance(error, ConfigurationError) and "SSL" in str(error.args[0]):  # a certificate's file, read this late
        failed_step = "TLS"
    passed = {"server": "answers", "TLS": f"sslmode {target.ssl_mode} holds", "password": "accepted"}
    checks = {step: ok(passed[step]) for step in ATTEMPT[: ATTEMPT.index(failed_step)]}
    return checks | {failed_step: failed(str(error.args[0]), _remedy(error, target))}


def _remedy(error: DatabaseError, target: Target) -> str | None:
    if isinstance(error, DatabaseMissing):
        return "check the database's name in DATABASE_URL; `thea-db bootstrap` creates a new one, with its owner"
    if isinstance(error, AuthenticationFailed) and error.sqlstate == _NOT_ALLOWED_IN:
        return error.hint
    if isinstance(error, AuthenticationFailed) and not target.password:
        return (
            "no password is set: put one into DATABASE_URL, or where the target is set; on a server without these"
            f" roles, {_BOOTSTRAP}"
        )
    if isinstance(error, AuthenticationFailed):
        return (
            "check the user and the password in DATABASE_URL, percent-encoded: the server does not report which of the"
            f' two is wrong. An administrator sets another password with: \\password "{target.user}", which every'
            f" service that connects as this role then needs; on a server without these roles, {_BOOTSTRAP}"
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
    """Return why the host cannot be connected to, or None."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            if host.is_socket:
                _, writer = await asyncio.open_unix_connection(f"{host.name}/.s.PGSQL.{host.port}")
            else:
                _, writer = await asyncio.open_connection(host.name, host.port)
    except TimeoutError:
        return f"does not answer within {PROBE_SECONDS:g} s"
    except PermissionError:
        return "may not be opened by this user"
    except (OSError, UnicodeError):
        return "has nobody listening"
    writer.close()
    return None


def _judge(found: str, successes: Sequence[bool], remedy: str) -> CheckResult:
    """Return a warning if only some of the hosts work, and a failure if none does."""
    if all(successes):
        return ok(found)
    return warning(found, remedy) if any(successes) else failed(found, remedy)
