"""An SSH gateway in this process, which knows the test's server as db.internal."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import asyncpg
import asyncssh

from src.database.embedded import SUPERUSER
from src.database.target import Host, SshGateway
from tests.conftest import SOCKETS

SERVER = Host("db.internal")
SERVER_SOCKET = f"{SOCKETS}/.s.PGSQL.5432"
SERVER_AS_SOCKET = Host(SOCKETS)


@dataclass
class Gateway:
    """An SSH server, with the users that may log in, the number of logins, and the open connections."""

    folder: Path
    host_key: asyncssh.SSHKey = field(default_factory=lambda: asyncssh.generate_private_key("ssh-ed25519"))
    client_key: asyncssh.SSHKey = field(default_factory=lambda: asyncssh.generate_private_key("ssh-ed25519"))
    port: int = 0
    logins: int = 0
    dials: int = 0
    refusal: asyncssh.ChannelOpenError | None = None
    """The error for connections to db.internal, or None."""
    is_silent_about_targets: bool = False
    connections: list[asyncssh.SSHServerConnection] = field(default_factory=list)
    _acceptor: asyncssh.SSHAcceptor | None = None

    async def start(self) -> None:
        """Listen, on the same port after each stop."""
        self._acceptor = await asyncssh.listen(
            "127.0.0.1",
            self.port,
            server_factory=lambda: _Server(self),
            server_host_keys=[self.host_key],
            authorized_client_keys=asyncssh.import_authorized_keys(self.client_key.export_public_key().decode()),
        )
        self.port = self._acceptor.get_port()

    async def stop(self) -> None:
        """Stop listening, and close all connections."""
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
        await self.drop()

    async def drop(self) -> None:
        """Abort all connections."""
        dropped, self.connections = self.connections, []
        for connection in dropped:
            connection.abort()
        for connection in dropped:
            await connection.wait_closed()

    def settings(self, **others: Any) -> SshGateway:
        """Return the settings of a client, whose files are in the folder."""
        key, known_hosts = self.folder / "key", self.folder / "known_hosts"
        key.write_bytes(self.client_key.export_private_key())
        known_hosts.write_text(self.known_hosts_line(self.host_key))
        made = SshGateway(host="127.0.0.1", port=self.port, user="thea", key=key, known_hosts=known_hosts)
        return replace(made, **others)

    def known_hosts_line(self, key: asyncssh.SSHKey) -> str:
        return f"[127.0.0.1]:{self.port} {key.export_public_key().decode()}"


class _Server(asyncssh.SSHServer):
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._gateway.dials += 1
        self._gateway.connections.append(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection in self._gateway.connections:
            self._gateway.connections.remove(self._connection)

    def auth_completed(self) -> None:
        self._gateway.logins += 1

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:
        if self._gateway.refusal is not None:
            raise self._gateway.refusal
        if self._gateway.is_silent_about_targets:
            return _never()
        return self._connection.forward_unix_connection(SERVER_SOCKET) if dest_host == SERVER.name else True

    def unix_connection_requested(self, dest_path: str) -> bool:
        return True


async def _never() -> asyncssh.SSHTCPSession[bytes]:
    await asyncio.Event().wait()
    raise AssertionError


async def connect(host: Host) -> asyncpg.Connection[Any]:
    """Open a connection of the driver to the local address of a tunnel."""
    return await asyncpg.connect(
        host=host.name, port=host.port, user=SUPERUSER, database=SUPERUSER, ssl=False, timeout=10
    )


async def query(host: Host) -> Any:
    connection = await connect(host)
    try:
        return await connection.fetchval("SELECT 6 * 7")
    finally:
        await connection.close()


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """Serve a loopback port with a function."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
