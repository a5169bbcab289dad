"""The SSH tunnel of an engine: one login at the gateway, and a local address for each server behind it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from src.database.connect.shielded import run_shielded
from src.database.errors import ConfigurationError, DatabaseError, TunnelFailed
from src.database.target import Host, SshGateway

if TYPE_CHECKING:
    from asyncssh import SSHClientConnection, SSHListener

CLOSE_TIMEOUT_SECONDS: Final = 5
PROBE_TIMEOUT_SECONDS: Final = 5
_SOCKET_PATH_BYTES: Final = 103  # the size of sockaddr_un.sun_path on macOS; Linux has four more


@dataclass(frozen=True, slots=True)
class _Forward:
    """A local listener that leads to one server."""

    host: Host
    listener: SSHListener
    folder: Path | None

    def close(self) -> None:
        self.listener.close()
        self.remove_folder()

    def remove_folder(self) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


class SshTunnel:
    """The tunnel of one engine: opened for the first connection, shared by all of them, reopened after it dropped.

    Nothing is opened before `forward`. After `close` the tunnel can be opened again, as an engine can.

    Args:
        gateway: The machine that the tunnel goes through.
        connect_timeout: Seconds for one login.
    """

    def __init__(self, gateway: SshGateway, *, connect_timeout: float) -> None:
        self._gateway = gateway
        self._connect_timeout = connect_timeout
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: SSHClientConnection | None = None
        self._forwards: dict[tuple[Host, bool], _Forward] = {}
        self._is_closing = False
        self._failure: DatabaseError | None = None
        """The error of the last login, until a login succeeds."""

    @property
    def is_up(self) -> bool:
        """True if the SSH connection is open, as far as this side knows."""
        return self._connection is not None and not self._connection.is_closed()

    async def forward(self, host: Host, *, as_socket: bool) -> Host:
        """Return the local address that leads to a server; log in if the tunnel is not up.

        Args:
            host: The server, as the gateway sees it.
            as_socket: Listen on a Unix socket in a private folder, and not on a loopback port, which every user of
                this machine can open. Ignored on Windows. asyncpg uses no TLS over a Unix socket.

        Raises:
            ConfigurationError: The settings of the gateway cannot work, or asyncssh is not installed.
            TunnelFailed: The tunnel cannot be opened.
        """
        self._enter_loop()
        self._is_closing = False
        place = (host, as_socket and sys.platform != "win32")
        earlier = self._failure
        async with self._lock:
            if self._failure is not None and self._failure is not earlier:
                # The login failed while this caller waited for the lock. Another login would take as long again, and
                # the callers behind this one would add up their time limits.
                raise copy(self._failure) from self._failure.__cause__
            connection = await self._live_connection()
            if place not in self._forwards:
                await run_shielded(self._listen(connection, *place))  # a cancelled asyncssh listener stays half open
            return self._forwards[place].host

    async def explain(self, host: Host) -> TunnelFailed | None:
        """Return why a connection through the tunnel failed, or None if the gateway reaches the server."""
        connection = self._connection
        if connection is None or connection.is_closed() or self._loop is not asyncio.get_running_loop():
            return self._dropped()
        from src.database.connect.ssh_login import find_refusal  # noqa: PLC0415 - asyncssh is an extra

        seconds = min(PROBE_TIMEOUT_SECONDS, self._connect_timeout)
        try:
            async with asyncio.timeout(seconds):
                refusal = await find_refusal(connection, host)
        except TimeoutError:
            refusal = (f"no answer in {seconds:g} s", "check the firewall between the gateway and the server")
        except ConnectionError:
            return self._dropped()
        if refusal is None:
            return None
        reason, remedy = refusal
        return TunnelFailed(f"the SSH gateway {self._gateway} cannot reach {host}: {reason}", hint=remedy)

    async def close(self) -> None:
        """Close the tunnel and its connections; a gateway that does not answer delays this by a few seconds at most."""
        self._enter_loop()
        # A login that is under way closes its connection itself, also if this call is cancelled while it waits.
        self._is_closing = True
        async with self._lock:
            connection = self._connection
            self._drop()
        if connection is not None:
            with suppress(OSError):  # includes TimeoutError, and a connection of the agent that broke
                async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                    await connection.wait_closed()

    async def _live_connection(self) -> SSHClientConnection:
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        self._drop()
        try:
            from src.database.connect.ssh_login import log_in  # noqa: PLC0415 - asyncssh is an extra
        except ImportError as error:
            raise ConfigurationError(
                "DB_SSH_TUNNEL is set and asyncssh is not installed", hint="pip install 'thea-database[ssh]'"
            ) from error
        try:
            self._connection = await log_in(self._gateway, connect_timeout=self._connect_timeout)
        except DatabaseError as error:
            self._failure = error
            raise
        self._failure = None
        if self._is_closing:
            self._drop()
            raise self._dropped()
        return self._connection

    async def _listen(self, connection: SSHClientConnection, host: Host, as_socket: bool) -> None:
        folder: Path | None = None
        try:
            folder = Path(tempfile.mkdtemp(prefix="thea-", dir=parent_folder())) if as_socket else None
            listener = await _open_listener(connection, host, folder)
        except BaseException as error:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            reason = error.strerror or type(error).__name__
            raise TunnelFailed(
                f"no SSH tunnel through {self._gateway}: this machine cannot open the local end: {reason}",
                hint=_hint_for_listening(as_socket=as_socket),
            ) from error
        # The socket has the port in its name, as PostgreSQL's: the address is the folder and that port.
        local = Host("127.0.0.1", listener.get_port()) if folder is None else Host(str(folder), host.port)
        self._forwards[host, as_socket] = _Forward(local, listener, folder)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        for forward in self._forwards.values():
            forward.close()
        self._forwards.clear()
        if connection is not None:
            connection.close()

    def _enter_loop(self) -> None:
        """Discard the connection of another event loop, which no longer works."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        for forward in self._forwards.values():
            forward.remove_folder()  # without its listener, which belongs to the other loop, and that may be closed
        self._forwards.clear()
        self._loop, self._lock, self._connection, self._failure = loop, asyncio.Lock(), None, None

    def _dropped(self) -> TunnelFailed:
        return TunnelFailed(
            f"the SSH tunnel through {self._gateway} dropped",
            hint="connect again, which opens the tunnel again; if the tunnel drops repeatedly, check the gateway and"
            " the network",
        )


def parent_folder() -> Path:
    """Return the temporary folder, or /tmp if a socket's path in the temporary folder would be too long."""
    folder = Path(tempfile.gettempdir())
    longest = folder / "thea-12345678" / ".s.PGSQL.65535"
    is_short = len(os.fsencode(longest)) <= _SOCKET_PATH_BYTES
    return folder if is_short else Path("/tmp")  # noqa: S108 - the folder in it is private


def _hint_for_listening(*, as_socket: bool) -> str:
    """Return the remedy for a listener that cannot be opened, with the folder of its socket."""
    limit = "check the limit of open files (ulimit -n)"
    if not as_socket:
        return limit
    try:
        folder = parent_folder()
    except OSError:
        return f"set TMPDIR to a folder that this user can write to; {limit}"
    variable = " (from TMPDIR)" if os.environ.get("TMPDIR") == str(folder) else ""
    return f"check that {folder}{variable} exists, has space, and can be written to by this user; {limit}"


async def _open_listener(connection: SSHClientConnection, host: Host, folder: Path | None) -> SSHListener:
    """Listen in the folder, or on a loopback port, for a server that is at a port or a socket."""
    if folder is None:
        if host.is_socket:
            return await connection.forward_local_port_to_path("127.0.0.1", 0, host.socket_path)
        return await connection.forward_local_port("127.0.0.1", 0, host.name, host.port)
    near = Host(str(folder), host.port).socket_path
    if host.is_socket:
        return await connection.forward_local_path(near, host.socket_path)
    return await connection.forward_local_path_to_port(near, host.name, host.port)
