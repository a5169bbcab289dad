"""A target for PostgreSQL's own programs: libpq's environment variables, through the tunnel if there is one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from src.database.connect.cloudsql import is_mounted
from src.database.connect.setup import LONGEST_NAME_BYTES
from src.database.connect.ssh import SshTunnel
from src.database.errors import ConfigurationError
from src.database.target import Host, Target

_NO_FILE: Final = "/nonexistent"
"""In place of a file that libpq would otherwise look for in the home directory."""


@asynccontextmanager
async def libpq_environment(target: Target) -> AsyncIterator[dict[str, str]]:
    """Yield the variables that lead libpq to a target; a tunnel is open inside the block.

    The password is one of them, so that no list of arguments shows it. Only the settings decide: the caller removes
    all other variables that begin with PG.

    Raises:
        ConfigurationError: The target needs the Cloud SQL connector, which works only inside this process.
        TunnelFailed: The tunnel cannot be opened.
    """
    variables = _variables(target)
    if target.ssh is None:
        if target.cloud_sql_instance is not None and not is_mounted(target.hosts[0]):
            raise ConfigurationError(
                f"{target.host} is not mounted here, and pg_dump cannot use the Cloud SQL connector",
                hint=f"run `cloud-sql-proxy --unix-socket /cloudsql {target.cloud_sql_instance}`, or put the address of"
                " the proxy into the URL",
            )
        yield {**variables, **_hosts(target.hosts)}
        return
    tunnel = SshTunnel(target.ssh, connect_timeout=target.connect_seconds)
    try:
        near = [
            await tunnel.forward(host, as_socket=host.is_socket or target.ssl_mode == "disable")
            for host in target.hosts
        ]
        yield {**variables, **_forwarded(target.hosts, near)}
    finally:
        await tunnel.close()


def _variables(target: Target) -> dict[str, str]:
    mode = target.ssl_mode or "disable"
    variables = {
        "PGUSER": target.user,
        "PGDATABASE": target.database,
        "PGPASSWORD": target.password or "",
        "PGPASSFILE": _NO_FILE,
        "PGSERVICEFILE": _NO_FILE,
        "PGAPPNAME": f"{target.application_name or 'thea-database'}:thea-db"[:LONGEST_NAME_BYTES],
        "PGCONNECT_TIMEOUT": str(max(2, round(target.connect_seconds))),
        "PGSSLMODE": mode,
        "PGGSSENCMODE": "disable",
        "PGCLIENTENCODING": "UTF8",
    }
    if target.target_session_attrs is not None:
        variables["PGTARGETSESSIONATTRS"] = target.target_session_attrs
    # Without a CA, verify-full uses the system's CAs, as in tls.py; libpq names them "system" since version 16.
    ca = target.ssl_ca or ("system" if mode == "verify-full" else _NO_FILE)
    files = {"PGSSLROOTCERT": ca, "PGSSLCERT": target.ssl_cert or _NO_FILE, "PGSSLKEY": target.ssl_key or _NO_FILE}
    return variables | {name: str(path) for name, path in files.items()}


def _hosts(hosts: Sequence[Host]) -> dict[str, str]:
    return {"PGHOST": ",".join(host.name for host in hosts), "PGPORT": ",".join(str(host.port) for host in hosts)}


def _forwarded(hosts: Sequence[Host], near: Sequence[Host]) -> dict[str, str]:
    """Return the servers' names, which certificates are checked against, and the local addresses of the tunnel."""
    if any(address.is_socket for address in near):
        return _hosts(near)
    addresses = {"PGHOSTADDR": ",".join(address.name for address in near)}
    return _hosts([Host(host.name, address.port) for host, address in zip(hosts, near, strict=True)]) | addresses
