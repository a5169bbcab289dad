"""thea-db info: the target, its server, TLS, pool and revision, and the source of each setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from src.config import Settings
from src.config.profiles import Purpose
from src.config.settings import ShownSetting, show_settings
from src.database.cli.output import EXIT_ERROR, print_error, print_json, print_lines
from src.database.cli.running import run_coroutine
from src.database.doctor.connection import Encryption, encryption_of, reach
from src.database.engine import SizedPool
from src.database.errors import DatabaseError
from src.database.migrate import Revision, readable_revision, service_history, service_revision_of
from src.database.session import create_engine, pool_limits, resolve_target
from src.database.target import Target

_SERVER: Final = """
SELECT current_setting('server_version') AS version, current_user::text AS "user", current_database()::text AS database,
       CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE 'primary' END AS role
"""


@dataclass(slots=True)
class ServerInfo:
    """The target of a server, and what the server reports. An attribute that could not be read is None.

    Args:
        target: The hosts, route, gateway, database, user and sslmode.
        pool: The class and the limits of the pool that sessions use.
        server: The version, and the role as primary or standby.
        encryption: The encryption of the connection.
        revision: The revision of the schema.
        service_revision: The revision of the service's history.
        error: Why the server could not be reached.
    """

    target: dict[str, Any] | None = None
    pool: dict[str, Any] | None = None
    server: dict[str, Any] | None = None
    encryption: Encryption | None = None
    revision: Revision | None = None
    service_revision: Revision | None = None
    error: str | None = None


def run_info(settings: Settings, *, as_json: bool) -> int:
    """Print the targets and the settings.

    Returns:
        The exit code: 0 if every server was reached, 2 if one was not.
    """
    servers = run_coroutine(_read_servers(settings))
    shown = show_settings(settings)
    if as_json:
        described = {"database": None, "replica": None} | {name: asdict(info) for name, info in servers.items()}
        print_json(
            {"environment": settings.ENVIRONMENT, **described, "settings": [asdict(setting) for setting in shown]}
        )
    else:
        for name, info in servers.items():
            _print_server(name, info)
        _print_settings(shown)
    return EXIT_ERROR if any(info.error for info in servers.values()) else 0


async def _read_servers(settings: Settings) -> dict[str, ServerInfo]:
    servers = {"database": await _read_server(settings, "application")}
    if settings.DATABASE_REPLICA_URL is not None:
        servers["replica"] = await _read_server(settings, "reading")
    return servers


async def _read_server(settings: Settings, purpose: Purpose) -> ServerInfo:
    """Return the information of one server. If the server cannot be reached, that is its target and the error."""
    info = ServerInfo()
    try:
        target = resolve_target(settings, purpose=purpose)
        info.target = _describe(target)
        # The pool that sessions of this purpose use. Creating an engine opens no connection.
        pool = create_engine(settings, purpose=purpose).pool
        kind = SizedPool if isinstance(pool, SizedPool) else type(pool)  # not the name of the fast path's subclass
        info.pool = {"class": kind.__name__, **asdict(pool_limits(target, settings))}
        async with reach(settings, purpose) as reached:
            info.server = dict(await reached.connection.fetchrow(_SERVER))
            info.encryption = encryption_of(reached.connection, reached.target)
            service = service_history(settings)
            of_service = service.installed()[1] if service else ()
            info.revision = await readable_revision(reached.connection, of_service=of_service)
            if service is not None:
                info.service_revision = await service_revision_of(reached.connection, service)
    except DatabaseError as error:
        info.error = str(error)
    return info


def _describe(target: Target) -> dict[str, Any]:
    return {
        "hosts": [str(host) for host in target.hosts],
        "route": target.route,
        "gateway": target.ssh and str(target.ssh),
        "database": target.database,
        "user": target.user,
        "sslmode": target.ssl_mode,
    }


def _print_server(name: str, info: ServerInfo) -> None:
    target, server, pool = info.target or {}, info.server or {}, info.pool or {}
    gateway = f" through {target['gateway']}" if target.get("gateway") else ""
    lines = [
        ("host", target and f"{', '.join(target['hosts'])} ({target['route']}{gateway})"),
        ("database", server.get("database", target.get("database"))),
        ("user", server.get("user", target.get("user"))),
        ("server", server and f"PostgreSQL {server['version']}, {server['role']}"),
        ("TLS", info.encryption),
        ("revision", info.revision),
        ("service revision", info.service_revision),
        ("pool", pool and _describe_pool(pool)),
    ]
    print_lines(name, [(label, value) for label, value in lines if value])
    if info.error is not None:
        print_error(info.error)


def _describe_pool(pool: dict[str, Any]) -> str:
    if pool["class"] == "NullPool":
        return "none: each session opens a connection (NullPool)"
    idle = f", idle {pool['idle']:g} s" if pool["idle"] else ""
    return (
        f"{pool['class']}, size {pool['size']}, overflow {pool['overflow']}, minimum {pool['minimum']};"
        f" timeout {pool['timeout']:g} s, lifetime {pool['lifetime']:g} s{idle}"
    )


def _print_settings(shown: Sequence[ShownSetting]) -> None:
    width = max(len(setting.source) for setting in shown)
    lines = [
        (setting.name, f"{setting.source:<{width}}  {'' if setting.value is None else setting.value}".rstrip())
        for setting in shown
    ]
    print_lines("settings", lines)
