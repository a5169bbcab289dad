"""The SSH tunnel of an engine: one login, and a local address for each server behind the gateway."""

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

from src.database.connect.ssh_login import log_in, printable
from src.database.connect.to_its_end import to_its_end
from src.database.errors import DatabaseError, TunnelFailed
from src.database.target import Host, SshGateway

if TYPE_CHECKING:
    from asyncssh import ChannelOpenError, SSHClientConnection, SSHListener

__all__ = ["SshTunnel"]

CLOSE_TIMEOUT_SECONDS: Final = 5
PROBE_TIMEOUT_SECONDS: Final = 5
_SOCKET_PATH_BYTES: Final = 103  # what sockaddr_un holds on macOS; Linux has four more

_CHECK_TARGET: Final = "check the host and the port in DATABASE_URL, as the gateway sees them"
# What a gateway says in words of why it has no way on: OpenSSH's first, then asyncssh's.
_REFUSALS: Final = (
    (("refused", "[errno 111]"), "nothing listens there", _CHECK_TARGET),
    (("not known", "name resolution", "no address"), "the gateway does not know the host", _CHECK_TARGET),
    (("no route", "unreachable", "[errno 113]", "[errno 101]"), "the gateway has no route to it", _CHECK_TARGET),
    (("timed out", "[errno 110]"), "it does not answer the gateway", "check the firewall between the two"),
    (("no such file", "[errno 2]"), "the gateway has no such socket", _CHECK_TARGET),
)


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
    """The tunnel of one engine: opened before its first connection, shared by all of them, redialled when it drops.

    It opens nothing before `forward`, and can be used again after `close`, as an engine can after its own.

    Args:
        gateway: The machine to go through.
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
        """Of the last login, until one succeeds."""

    @property
    def is_up(self) -> bool:
        """Whether it stands, as far as is known without asking."""
        return self._connection is not None and not self._connection.is_closed()

    async def forward(self, host: Host, *, as_socket: bool) -> Host:
        """Return the local address that leads to a server; log in where no live tunnel is.

        Args:
            host: The server, as the gateway sees it.
            as_socket: Listen on a Unix socket in a private folder, and not on a loopback port, which every user of
                this machine can reach. Not on Windows; and asyncpg speaks no TLS over it.

        Raises:
            ConfigurationError: The gateway's settings cannot work.
            TunnelFailed: No tunnel can be had.
        """
        self._enter_loop()
        self._is_closing = False
        place = (host, as_socket and sys.platform != "win32")
        earlier = self._failure
        async with self._lock:
            if self._failure is not None and self._failure is not earlier:
                # Whoever waited while a login failed shares the failure: one after the other would wait as long again.
                raise copy(self._failure) from self._failure.__cause__
            connection = await self._live_connection()
            if place not in self._forwards:
                await to_its_end(self._listen(connection, *place))  # asyncio would leave the listener half open
            return self._forwards[place].host

    async def explain(self, host: Host) -> TunnelFailed | None:
        """Say why a connection through the tunnel failed, or None where the gateway does reach the server."""
        connection = self._connection
        if connection is None or connection.is_closed() or self._loop is not asyncio.get_running_loop():
            return self._dropped()
        import asyncssh  # noqa: PLC0415 - an extra, imported where it is used

        seconds = min(PROBE_TIMEOUT_SECONDS, self._connect_timeout)
        try:
            async with asyncio.timeout(seconds):
                await _probe(connection, host)
        except TimeoutError:
            return self._no_way_to(host, f"no answer in {seconds:g} s", "check the firewall between the two")
        except asyncssh.ChannelOpenError as error:
            return self._dropped() if connection.is_closed() else self._no_way_to(host, *_reason(error))
        except (OSError, asyncssh.Error):
            return self._dropped()
        return None

    async def close(self) -> None:
        """Close the tunnel and whatever goes through it; a gateway that does not answer does not hold it up."""
        self._enter_loop()
        self._is_closing = True  # whoever is at a login closes what comes of it, should we not be waited for so long
        async with self._lock:
            connection = self._connection
            self._let_go()
        if connection is not None:
            with suppress(OSError):  # it took too long, or the agent's connection broke
                async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                    await connection.wait_closed()

    async def _live_connection(self) -> SSHClientConnection:
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        self._let_go()
        try:
            self._connection = await log_in(self._gateway, connect_timeout=self._connect_timeout)
        except DatabaseError as error:
            self._failure = error
            raise
        self._failure = None
        if self._is_closing:
            self._let_go()
            raise self._dropped()
        return self._connection

    async def _listen(self, connection: SSHClientConnection, host: Host, as_socket: bool) -> None:
        folder: Path | None = None
        try:
            folder = _create_folder() if as_socket else None
            listener = await _open_listener(connection, host, folder)
        except BaseException as error:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            reason = error.strerror or type(error).__name__
            raise TunnelFailed(
                f"no SSH tunnel through {self._gateway}: this machine cannot listen for it: {reason}",
                hint=_hint_for_listening(as_socket=as_socket),
            ) from error
        local = Host("127.0.0.1", listener.get_port()) if folder is None else Host(str(folder), host.port)
        self._forwards[host, as_socket] = _Forward(local, listener, folder)

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        for forward in self._forwards.values():
            forward.close()
        self._forwards.clear()
        if connection is not None:
            connection.close()

    def _enter_loop(self) -> None:
        """Begin anew in another event loop: what an earlier one served, nobody serves any more."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        for forward in self._forwards.values():
            forward.remove_folder()
        self._forwards.clear()
        self._loop, self._lock, self._connection, self._failure = loop, asyncio.Lock(), None, None

    def _dropped(self) -> TunnelFailed:
        return TunnelFailed(
            f"the SSH tunnel through {self._gateway} dropped",
            hint="connect again, which dials it anew; if it keeps dropping, check the gateway and the network",
        )

    def _no_way_to(self, host: Host, reason: str, remedy: str) -> TunnelFailed:
        return TunnelFailed(f"no way from the SSH gateway {self._gateway} to {host}: {reason}", hint=remedy)


def _create_folder() -> Path:
    """Create a folder that only this user can enter, with a path that is short enough for a socket."""
    return Path(tempfile.mkdtemp(prefix="thea-", dir=_parent_folder()))


def _parent_folder() -> Path:
    """Return the temporary folder, or /tmp if a socket's path in the temporary folder would be too long."""
    folder = Path(tempfile.gettempdir())
    longest = folder / "thea-12345678" / ".s.PGSQL.65535"
    is_short = len(os.fsencode(longest)) <= _SOCKET_PATH_BYTES
    return folder if is_short else Path("/tmp")  # noqa: S108 - the folder in it is private


def _hint_for_listening(*, as_socket: bool) -> str:
    """Return the remedy for a listener that cannot be opened; it names the folder that was used, if there was one."""
    limit = "check the limit of open files (ulimit -n)"
    if not as_socket:
        return limit
    try:
        folder = _parent_folder()
    except OSError:
        return f"set TMPDIR to a folder that this user can write to; {limit}"
    variable = " (from TMPDIR)" if os.environ.get("TMPDIR") == str(folder) else ""
    return f"check that {folder}{variable} exists, has space, and can be written to by this user; {limit}"


def _socket(folder: Path | str, port: int) -> str:
    return f"{folder}/.s.PGSQL.{port}"


async def _open_listener(connection: SSHClientConnection, host: Host, folder: Path | None) -> SSHListener:
    """Listen in the folder, or on a loopback port, for a server that is at a port or a socket."""
    far = _socket(host.name, host.port)
    if folder is None:
        if host.is_socket:
            return await connection.forward_local_port_to_path("127.0.0.1", 0, far)
        return await connection.forward_local_port("127.0.0.1", 0, host.name, host.port)
    near = _socket(folder, host.port)
    if host.is_socket:
        return await connection.forward_local_path(near, far)
    return await connection.forward_local_path_to_port(near, host.name, host.port)


async def _probe(connection: SSHClientConnection, host: Host) -> None:
    """Have the gateway connect to the server, and hang up."""
    import asyncssh  # noqa: PLC0415 - an extra, imported where it is used

    if host.is_socket:
        path = _socket(host.name, host.port)
        (await connection.create_unix_connection(asyncssh.SSHUNIXSession, path))[0].close()
    else:
        (await connection.create_connection(asyncssh.SSHTCPSession, host.name, host.port))[0].close()


def _reason(error: ChannelOpenError) -> tuple[str, str]:
    import asyncssh  # noqa: PLC0415 - an extra, imported where it is used

    if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
        return "the gateway prohibits it", "its administrator allows it: AllowTcpForwarding, PermitOpen"
    said = error.reason.lower()
    for words, reason, remedy in _REFUSALS:
        if any(word in said for word in words):
            return reason, remedy
    return f"the gateway says {printable(error.reason)!r}", _CHECK_TARGET
