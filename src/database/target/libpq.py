"""A target as connection parameters of libpq: for psycopg, and for PostgreSQL's own programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from src.database.target.target import Target
from src.database.target.url import Host

NO_FILE: Final = "/nonexistent"
"""In place of a file that libpq would otherwise look for in the home directory."""


def libpq_parameters(target: Target) -> dict[str, str]:
    """Return the parameters by libpq's names, with the password; an SSH gateway is not among them."""
    mode = target.ssl_mode or "disable"
    # Without a CA, verify-full uses the system's CAs, as the driver of the engine does; libpq names them "system" since
    # version 16.
    ca = target.ssl_ca or ("system" if mode == "verify-full" else NO_FILE)
    parameters = {
        **host_parameters(target.hosts),
        "dbname": target.database,
        "user": target.user,
        "password": target.password or "",
        "passfile": NO_FILE,
        "application_name": target.application_name,
        "connect_timeout": str(max(2, round(target.connect_seconds))),
        "target_session_attrs": target.target_session_attrs,
        "sslmode": mode,
        "sslrootcert": str(ca),
        "sslcert": str(target.ssl_cert or NO_FILE),
        "sslkey": str(target.ssl_key or NO_FILE),
        "gssencmode": "disable",
        "client_encoding": "UTF8",
        "options": options_of({"search_path": target.search_path} if target.search_path else {}),
    }
    return {name: value for name, value in parameters.items() if value is not None}


def host_parameters(hosts: Sequence[Host], near: Sequence[Host] | None = None) -> dict[str, str]:
    """Return the parameters of the addresses.

    Args:
        hosts: The servers, whose names certificates are checked against.
        near: The local addresses that lead to the servers through a tunnel.
    """
    if near is None or any(address.is_socket for address in near):
        hosts, near = near or hosts, None
    names = {
        "host": ",".join(host.name for host in hosts),
        "port": ",".join(str(host.port) for host in near or hosts),
    }
    return names if near is None else {**names, "hostaddr": ",".join(address.name for address in near)}


def options_of(server_settings: Mapping[str, str]) -> str:
    """Return the parameter `options` that sets server parameters at the login."""
    escaped = {name: value.replace("\\", "\\\\").replace(" ", "\\ ") for name, value in server_settings.items()}
    return " ".join(f"-c {name}={value}" for name, value in escaped.items())
