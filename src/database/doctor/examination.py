"""Run the doctor's checks in the order of their dependencies; a check that depends on a failed one is skipped."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from src.config import Settings
from src.database.check_result import CheckResult, failed, ok, skipped
from src.database.connect import DRIVER_ERRORS
from src.database.doctor import network, schema, server
from src.database.doctor.connection import reach
from src.database.doctor.demand import check_connections
from src.database.doctor.installation import check_localhost, check_namespace, check_settings
from src.database.doctor.server import CheckContext
from src.database.doctor.zones import check_zones
from src.database.errors import ConfigurationError, DatabaseError
from src.database.session import resolve_target
from src.database.target import Target
from src.database.translation import translate_connect

_Check = Callable[[CheckContext], Awaitable[CheckResult]]

ON_CONNECT: Final[Mapping[str, _Check]] = {"TLS": server.check_tls, "password": server.check_password}
ON_SERVER: Final[Mapping[str, _Check]] = {
    "server version": server.check_version,
    "writable": server.check_writable,
    "pooler": server.check_pooler,
    "session defaults": server.check_session_defaults,
    "clock": server.check_clock,
    "time zones": check_zones,
    "connections": check_connections,
    "encoding": server.check_encoding,
    "collation": server.check_collation,
    "extensions": schema.check_extensions,
    "revision": schema.check_revision,
    "service revision": schema.check_service_revision,
    "role": schema.check_role,
    "creation": schema.check_creation,
    "rights": schema.check_rights,
    "schema": schema.check_schema,
}
ON_OTHER_TARGETS: Final = {"replica": schema.check_replica, "migrations": schema.check_migrations}
_AFTER_SETTINGS: Final = ("localhost", "name resolution", "port", *network.CONNECT_STEPS, *ON_SERVER, *ON_OTHER_TARGETS)


async def examine(settings: Settings | ConfigurationError, *, processes: int = 1) -> dict[str, CheckResult]:
    """Run all checks. A check that raises is reported as failed: this function does not raise.

    Args:
        settings: The settings, or the error that reading them raised: the checks of this machine run without them.
        processes: The number of processes that use the database at the same time, on all machines.

    Returns:
        The results by the name of the check, in the order in which they are reported.
    """
    namespace = check_namespace(sys.path)
    try:
        if isinstance(settings, ConfigurationError):
            raise settings
        target = resolve_target(settings)
        checks = {"settings": check_settings(settings), "src/__init__.py": namespace}
    except ConfigurationError as error:
        checks = {"settings": failed(str(error.args[0]), error.hint), "src/__init__.py": namespace}
        return checks | _skip(_AFTER_SETTINGS, "settings")
    checks["localhost"] = check_localhost([host.name for host in target.hosts])
    reached = await _check_network(target)
    if _first_failed(reached) is None:
        reached |= await _check_server(settings, target, processes)
    missing = [name for name in (*network.CONNECT_STEPS, *ON_SERVER) if name not in reached]
    checks |= reached | _skip(missing, _first_failed(reached))
    for name, check in ON_OTHER_TARGETS.items():
        checks[name] = await guarded(check(settings))
    return checks


async def guarded(check: Awaitable[CheckResult]) -> CheckResult:
    """Await a check; return its error as a failed result, so that the other checks still run."""
    try:
        return await check
    except DatabaseError as error:
        return failed(str(error.args[0]), error.hint)
    except DRIVER_ERRORS as error:
        return failed(str(translate_connect(error, where="the server").args[0]))
    except Exception as error:  # noqa: BLE001 - all checks must be reported; the error's text could quote data
        return failed(f"the check itself failed: {type(error).__name__}", "report it: this is a bug in thea-db")


async def _check_network(target: Target) -> dict[str, CheckResult]:
    hosts = network.hosts_to_reach(target)
    names = await guarded(network.check_names(hosts))
    if names.status == "failed":
        return {"name resolution": names, "port": skipped("see the check `name resolution`")}
    return {"name resolution": names, "port": await guarded(network.check_ports(hosts))}


async def _check_server(settings: Settings, target: Target, processes: int) -> dict[str, CheckResult]:
    """Connect and run the checks of the server; if there is no connection, return the results of the attempt."""
    try:
        async with reach(settings) as reached:
            context = CheckContext(settings=settings, target=target, connection=reached.connection, processes=processes)
            checks = {"server": ok(f"{target.route}: {target}")}
            checks |= {name: await guarded(check(context)) for name, check in ON_CONNECT.items()}
            checks["database"] = ok(f"{target.database} exists")
            return checks | {name: await guarded(check(context)) for name, check in ON_SERVER.items()}
    except DatabaseError as error:
        return network.results_of_failure(error, target)


def _first_failed(checks: Mapping[str, CheckResult]) -> str | None:
    return next((name for name, check in checks.items() if check.status == "failed"), None)


def _skip(names: Iterable[str], cause: str | None) -> dict[str, CheckResult]:
    return {name: skipped(f"see the check `{cause}`") for name in names}
