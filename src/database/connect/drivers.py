"""A target for drivers of other libraries: keyword arguments, and local addresses that lead through the tunnel."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

from src.config import get_logger
from src.database.connect.ssh import SshTunnel, parent_folder
from src.database.connect.tls import create_ssl_context
from src.database.errors import ConfigurationError, DatabaseError
from src.database.target import Host, Target, host_parameters, libpq_parameters

Driver = Literal["asyncpg", "psycopg"]

_CHUNK_BYTES: Final = 65_536


def psycopg_arguments(target: Target, near: Sequence[Host]) -> dict[str, Any]:
    """Return the keyword arguments of `psycopg.connect`.

    Args:
        target: The database.
        near: The addresses at which this machine reaches the hosts of the target.
    """
    addresses = {} if tuple(near) == target.hosts else host_parameters(target.hosts, near)
    return {**libpq_parameters(target), **addresses}


def asyncpg_arguments(target: Target, near: Sequence[Host]) -> dict[str, Any]:
    """Return the keyword arguments of `asyncpg.connect`.

    Args:
        target: The database.
        near: The addresses at which this machine reaches the hosts of the target.

    Raises:
        ConfigurationError: A file of TLS cannot be read, or asyncpg cannot check the names of several hosts behind one
            tunnel.
    """
    return {
        "host": [address.name for address in near],
        "port": [address.port for address in near],
        "user": target.user,
        # Never None: the driver would read PGPASSWORD and ~/.pgpass, and only the settings decide.
        "password": target.password or "",
        "database": target.database,
        "timeout": target.connect_seconds,
        "target_session_attrs": target.target_session_attrs or "any",
        "ssl": _ssl(target, near),
        "direct_tls": False,
    }


def _ssl(target: Target, near: Sequence[Host]) -> Any:
    """Return asyncpg's `ssl`; never None, which means `prefer`."""
    mode = target.ssl_mode or "disable"
    if mode == "disable" or all(address.is_socket for address in near):
        return False
    if mode in {"allow", "prefer"} and target.ssl_cert is None:  # with a context, asyncpg would require TLS
        return mode
    is_tunneled = tuple(near) != target.hosts
    if is_tunneled and mode == "verify-full" and len({host.name for host in target.hosts}) > 1:
        raise ConfigurationError(
            "asyncpg checks one name for all hosts behind an SSH tunnel, and the target has several hosts",
            hint="use psycopg, one host, or sslmode=verify-ca",
        )
    server_name = target.host if is_tunneled else None
    return create_ssl_context(mode, ca=target.ssl_ca, cert=target.ssl_cert, key=target.ssl_key, server_name=server_name)


class Forwarder:
    """A local address that leads through a tunnel to one host, until `close`.

    The listener of an SSH connection ends with that connection, and the next one has another port. Another library
    keeps its arguments, so that this address stays the same, and each connection to it uses the tunnel of the moment.

    Args:
        tunnel: The tunnel, which the caller closes.
        host: The server, as the gateway sees it.
        as_socket: Listen on a Unix socket in a private folder, and not on a loopback port. Ignored on Windows.
    """

    def __init__(self, tunnel: SshTunnel, host: Host, *, as_socket: bool) -> None:
        self._tunnel = tunnel
        self._host = host
        self._as_socket = as_socket and sys.platform != "win32"
        self._folder: Path | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self) -> Host:
        """Listen, and return the address."""
        if not self._as_socket:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            return Host("127.0.0.1", self._server.sockets[0].getsockname()[1])
        self._folder = Path(tempfile.mkdtemp(prefix="thea-", dir=parent_folder()))
        near = Host(str(self._folder), self._host.port)
        self._server = await asyncio.start_unix_server(self._accept, near.socket_path)
        return near

    async def close(self) -> None:
        """Stop listening, and end the connections."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._relay(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection until either side ends it."""
        try:
            far_reader, far_writer = await self._connect()
        except (DatabaseError, OSError) as error:  # the other library reports a lost connection, and not the reason
            get_logger(__name__).warning("tunnel_not_open", host=str(self._host), reason=str(error))
            writer.close()
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, far_writer))
                group.create_task(_copy(far_reader, writer))
        finally:
            writer.close()
            far_writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        near = await self._tunnel.forward(self._host, as_socket=True)
        if near.is_socket:
            return await asyncio.open_unix_connection(near.socket_path)
        return await asyncio.open_connection(near.name, near.port)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()
