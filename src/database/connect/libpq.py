"""A target for PostgreSQL's own programs: libpq's environment, through the tunnel if there is one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from src.database.connect.cloudsql import is_mounted
from src.database.connect.password import DEFAULT_TIMEOUT_SECONDS
from src.database.connect.ssh import SshTunnel
from src.database.errors import ConfigurationError
from src.database.target import Host, Target

_NOWHERE: Final = "/nonexistent"


@asynccontextmanager
async def libpq_environment(target: Target) -> AsyncIterator[dict[str, str]]:
    """Yield the variables that lead libpq to a target; the tunnel behind them is open inside the block.

    The password is one of them, so that no list of arguments shows it. Only the settings decide: the caller removes
    all other variables that begin with PG.

    Raises:
        ConfigurationError: The route is the Cloud SQL connector, which serves this process alone.
        TunnelFailed: The tunnel cannot be opened.
    """
    shared = _shared(target)
    if target.ssh is None:
        _refuse_the_connector(target)
        yield {**shared, **_hosts(target.hosts)}
        return
    tunnel = SshTunnel(target.ssh, connect_timeout=target.connect_timeout or DEFAULT_TIMEOUT_SECONDS)
    try:
        near = [
            await tunnel.forward(host, as_socket=host.is_socket or target.ssl_mode == "disable")
            for host in target.hosts
        ]
        yield {**shared, **_forwarded(target.hosts, near)}
    finally:
        await tunnel.close()


def _refuse_the_connector(target: Target) -> None:
    if target.cloud_sql_instance is not None and not is_mounted(target.hosts[0]):
        raise ConfigurationError(
            f"{target.host} is not mounted here, and pg_dump cannot go through the Cloud SQL connector",
            hint=f"run `cloud-sql-proxy --unix-socket /cloudsql {target.cloud_sql_instance}`, or name the address where"
            " it listens in place of the folder",
        )


def _shared(target: Target) -> dict[str, str]:
    mode = target.ssl_mode or "disable"
    variables = {
        "PGUSER": target.user,
        "PGDATABASE": target.database,
        "PGPASSWORD": target.password or "",
        "PGPASSFILE": _NOWHERE,
        "PGSERVICEFILE": _NOWHERE,
        "PGAPPNAME": f"{target.application_name or 'thea-database'}:thea-db"[:63],
        "PGCONNECT_TIMEOUT": str(max(2, round(target.connect_timeout or DEFAULT_TIMEOUT_SECONDS))),
        "PGSSLMODE": mode,
        "PGGSSENCMODE": "disable",
        "PGCLIENTENCODING": "UTF8",
    }
    if target.target_session_attrs is not None:
        variables["PGTARGETSESSIONATTRS"] = target.target_session_attrs
    # Without a CA verify-full uses the system's, as in tls.py; libpq names them "system" from 16 on.
    ca = target.ssl_ca or ("system" if mode == "verify-full" else _NOWHERE)
    files = {"PGSSLROOTCERT": ca, "PGSSLCERT": target.ssl_cert or _NOWHERE, "PGSSLKEY": target.ssl_key or _NOWHERE}
    return variables | {name: str(path) for name, path in files.items()}


def _hosts(hosts: Sequence[Host]) -> dict[str, str]:
    return {"PGHOST": ",".join(host.name for host in hosts), "PGPORT": ",".join(str(host.port) for host in hosts)}


def _forwarded(hosts: Sequence[Host], near: Sequence[Host]) -> dict[str, str]:
    """Return the servers' names, by which certificates are checked, and the local addresses that lead to them."""
    if any(address.is_socket for address in near):
        return _hosts(near)
    addresses = {"PGHOSTADDR": ",".join(address.name for address in near)}
    return _hosts([Host(host.name, address.port) for host, address in zip(hosts, near, strict=True)]) | addresses
