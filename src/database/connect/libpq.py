"""A target for PostgreSQL's own programs: libpq's environment variables, through the tunnel if there is one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from src.database.connect.cloudsql import check_is_mounted
from src.database.connect.setup import LONGEST_NAME_BYTES
from src.database.connect.ssh import SshTunnel
from src.database.target import NO_FILE, Target, host_parameters, libpq_parameters

_VARIABLES: Final = {
    "application_name": "PGAPPNAME",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "dbname": "PGDATABASE",
}
"""The variables that are not named PG and the parameter without underscores."""


@asynccontextmanager
async def libpq_environment(target: Target) -> AsyncIterator[dict[str, str]]:
    """Yield the variables that lead libpq to a target; a tunnel is open inside the block.

    The password is one of them, so that no list of arguments shows it. Only the settings decide: the caller removes
    all other variables that begin with PG.

    Raises:
        ConfigurationError: The target needs the Cloud SQL connector, which works only inside this process.
        TunnelFailed: The tunnel cannot be opened.
    """
    named = f"{target.application_name or 'thea-database'}:thea-db"[:LONGEST_NAME_BYTES]
    parameters = libpq_parameters(replace(target, application_name=named))
    if target.ssh is None:
        check_is_mounted(target, "pg_dump")
        yield _variables(parameters)
        return
    tunnel = SshTunnel(target.ssh, connect_timeout=target.connect_seconds)
    try:
        near = [
            await tunnel.forward(host, as_socket=host.is_socket or target.ssl_mode == "disable")
            for host in target.hosts
        ]
        yield _variables({**parameters, **host_parameters(target.hosts, near)})
    finally:
        await tunnel.close()


def _variables(parameters: Mapping[str, str]) -> dict[str, str]:
    names = {name: _VARIABLES.get(name, f"PG{name.replace('_', '').upper()}") for name in parameters}
    return {names[name]: value for name, value in parameters.items()} | {"PGSERVICEFILE": NO_FILE}
