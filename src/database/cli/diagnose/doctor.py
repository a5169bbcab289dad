"""thea-db doctor: one check a line, with its remedy; what depends on a failed one is skipped."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Final

from src.config import Settings
from src.config.files import environment_files, faults_of_process
from src.config.sources import set_values
from src.database.cli.diagnose import network, schema, server
from src.database.cli.diagnose.drift import check_schema
from src.database.cli.diagnose.finding import Finding, failed, ok, skipped, warning
from src.database.cli.diagnose.installation import check_localhost, check_namespace
from src.database.cli.diagnose.output import print_findings, print_json
from src.database.cli.diagnose.reach import reach
from src.database.cli.diagnose.server import Patient
from src.database.cli.diagnose.session_defaults import check_session_defaults
from src.database.cli.diagnose.zones import check_zones
from src.database.connect import DRIVER_ERRORS
from src.database.errors import ConfigurationError, DatabaseError
from src.database.resolve import resolve_target
from src.database.target import Target, hosts_of, parse_url
from src.database.translation import translate_connect

__all__ = ["examine", "run_doctor"]

EXIT_WELL: Final = 0
EXIT_ILL: Final = 1
EXIT_NO_SETTINGS: Final = 2

_Check = Callable[[Patient], Awaitable[Finding]]

AT_ENTRY: Final[Mapping[str, _Check]] = {"TLS": server.check_tls, "password": server.check_password}
INSIDE: Final[Mapping[str, _Check]] = {
    "server version": server.check_version,
    "writable": server.check_writable,
    "pooler": server.check_pooler,
    "session defaults": check_session_defaults,
    "clock": server.check_clock,
    "time zones": check_zones,
    "connections": server.check_connections,
    "encoding": server.check_encoding,
    "collation": server.check_collation,
    "extensions": schema.check_extensions,
    "revision": schema.check_revision,
    "role": schema.check_role,
    "creation": schema.check_creation,
    "rights": schema.check_rights,
    "schema": check_schema,
}
BESIDE: Final = {"replica": schema.check_replica, "migrations": schema.check_migrations}
_AFTER_SETTINGS: Final = ("name resolution", "port", *network.ATTEMPT, *INSIDE, *BESIDE)


def run_doctor(settings: Settings | ConfigurationError, *, processes: int, as_json: bool) -> int:
    """Examine, print, and return the exit code: 0 well or with warnings, 1 a check failed, 2 no settings to go by.

    Args:
        settings: What is in force, or why nothing is.
        processes: How many processes use the database at once.
        as_json: Print one JSON document.
    """
    findings = asyncio.run(examine(settings, processes=processes))
    if as_json:
        print_json({"checks": [{"name": name, **asdict(finding)} for name, finding in findings.items()]})
    else:
        print_findings(findings)
    if findings["settings"].status == "failed":
        return EXIT_NO_SETTINGS
    return EXIT_ILL if any(finding.status == "failed" for finding in findings.values()) else EXIT_WELL


async def examine(settings: Settings | ConfigurationError, *, processes: int = 1) -> dict[str, Finding]:
    """Do all checks, in the order in which one depends on another."""
    findings: dict[str, Finding] = {}
    target: Target | None = None
    try:
        if isinstance(settings, ConfigurationError):
            raise settings
        target = resolve_target(settings)
        findings["settings"] = _settings_finding(settings)
    except ConfigurationError as error:
        findings["settings"] = failed(str(error.args[0]), error.hint)
    findings["src/__init__.py"] = check_namespace(sys.path)
    findings["localhost"] = check_localhost([host.name for host in target.hosts] if target else _named_hosts())
    if target is None or isinstance(settings, ConfigurationError):
        return findings | _skip(_AFTER_SETTINGS, "settings")
    way = await _approach(target)
    if _failed(way) is None:
        way |= await _enter(settings, target, processes)
    findings |= way | _skip([name for name in (*network.ATTEMPT, *INSIDE) if name not in way], _failed(way))
    for name, check in BESIDE.items():
        findings[name] = await _guarded(check(settings))
    return findings


async def _approach(target: Target) -> dict[str, Finding]:
    hosts = network.hosts_to_reach(target)
    names = await _guarded(network.check_names(hosts))
    if names.status == "failed":
        return {"name resolution": names, "port": skipped("see name resolution")}
    return {"name resolution": names, "port": await _guarded(network.check_ports(hosts))}


async def _enter(settings: Settings, target: Target, processes: int) -> dict[str, Finding]:
    """Connect and look around, or say what the attempt stumbled over."""
    try:
        async with reach(settings) as reached:
            patient = Patient(settings=settings, target=target, connection=reached.connection, processes=processes)
            findings = {"server": ok(f"{target.route}: {target}")}
            findings |= {name: await _guarded(check(patient)) for name, check in AT_ENTRY.items()}
            findings["database"] = ok(f"{target.database} exists")
            return findings | {name: await _guarded(check(patient)) for name, check in INSIDE.items()}
    except DatabaseError as error:
        return network.findings_of_failure(error, target)


async def _guarded(check: Awaitable[Finding]) -> Finding:
    """Have a check that fails itself cost its own line only, and nobody a traceback."""
    try:
        return await check
    except DatabaseError as error:
        return failed(str(error.args[0]), error.hint)
    except DRIVER_ERRORS as error:
        return failed(str(translate_connect(error, where="the server").args[0]), None)
    except Exception as error:  # noqa: BLE001 - the doctor has to finish; the server's text could quote data
        return failed(f"the check itself failed: {type(error).__name__}", "report it: it is a fault of thea-db")


def _settings_finding(settings: Settings) -> Finding:
    """Return what is in force, and a warning for each variable that looks like a misspelled setting."""
    misspelled = faults_of_process(os.environ, Settings.model_fields)
    if not misspelled:
        return ok(_in_force(settings))
    return warning(
        "\n".join([_in_force(settings), *misspelled]),
        "correct the name, or unset the variable; .env.example lists the settings",
    )


def _in_force(settings: Settings) -> str:
    files = ", ".join(map(str, environment_files(os.environ)))
    return f"ENVIRONMENT={settings.ENVIRONMENT}, {f'read from {files} and' if files else 'from'} the environment"


def _named_hosts() -> list[str]:
    """Return the hosts that settings name which as a whole cannot be read."""
    values: dict[str, str] = {}
    with suppress(ConfigurationError, OSError, UnicodeError):
        values = {name: value for name, (value, _) in set_values().items()}
    hosts = [value for name, value in values.items() if name.endswith("_HOST")]
    with suppress(ValueError):
        hosts += [host.name for host in hosts_of(parse_url(values.get("DATABASE_URL", "")))]
    return hosts


def _failed(findings: Mapping[str, Finding]) -> str | None:
    return next((name for name, finding in findings.items() if finding.status == "failed"), None)


def _skip(names: Iterable[str], cause: str | None) -> dict[str, Finding]:
    return {name: skipped(f"see {cause}") for name in names}
