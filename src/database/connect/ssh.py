"""The SSH tunnel of an engine: one login at the gateway, and a local address for each server behind it."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
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
    from collections.abc import Sequence

    from asyncssh import (
        ChannelOpenError,
        SSHClientConnection,
        SSHClientConnectionOptions,
        SSHKeyPair,
        SSHKnownHosts,
        SSHListener,
    )

CLOSE_TIMEOUT_SECONDS: Final = 5
PROBE_TIMEOUT_SECONDS: Final = 5
# A gateway that is silent for a minute is given up: after four keepalive messages without an answer.
KEEPALIVE_SECONDS: Final = 15
KEEPALIVES_UNANSWERED: Final = 3

_SSH_PORT: Final = 22
_SHOWN_CHARACTERS: Final = 200
_NO_SSH: Final = "check that an SSH server is on that port; its log has why"
_FIREWALL: Final = "check DB_SSH_HOST, DB_SSH_PORT and the firewall"
_SOCKET_PATH_BYTES: Final = 103  # what sockaddr_un holds on macOS; Linux has four more

_CHECK_TARGET: Final = "check the host and the port in DATABASE_URL, as the gateway sees them"
# Words in a gateway's refusal, OpenSSH's and asyncssh's; the reason; the remedy.
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
    """The tunnel of one engine: opened for the first connection, shared by all of them, reopened after it dropped.

    It opens nothing before `forward`, and can be used again after `close`, as an engine can.

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
        """The failure of the last login, until one succeeds."""

    @property
    def is_up(self) -> bool:
        """Whether the tunnel is up, as far as is known without a query."""
        return self._connection is not None and not self._connection.is_closed()

    async def forward(self, host: Host, *, as_socket: bool) -> Host:
        """Return the local address that leads to a server; log in if the tunnel is not up.

        Args:
            host: The server, as the gateway sees it.
            as_socket: Listen on a Unix socket in a private folder, and not on a loopback port, which every user of
                this machine can reach. Not on Windows; and asyncpg speaks no TLS over it.

        Raises:
            ConfigurationError: The gateway's settings cannot work.
            TunnelFailed: The tunnel cannot be opened.
        """
        self._enter_loop()
        self._is_closing = False
        place = (host, as_socket and sys.platform != "win32")
        earlier = self._failure
        async with self._lock:
            if self._failure is not None and self._failure is not earlier:
                # A caller that waited for a failed login shares the failure: otherwise each would wait as long again.
                raise copy(self._failure) from self._failure.__cause__
            connection = await self._live_connection()
            if place not in self._forwards:
                await run_shielded(self._listen(connection, *place))  # asyncio would leave the listener half open
            return self._forwards[place].host

    async def explain(self, host: Host) -> TunnelFailed | None:
        """Return why a connection through the tunnel failed, or None if the gateway reaches the server."""
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
        """Close the tunnel and its connections; a gateway that does not answer delays this by a few seconds at most."""
        self._enter_loop()
        self._is_closing = (
            True  # a login that is under way closes its connection itself, if this call is cancelled first
        )
        async with self._lock:
            connection = self._connection
            self._drop()
        if connection is not None:
            with suppress(OSError):  # it took too long, or the agent's connection broke
                async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                    await connection.wait_closed()

    async def _live_connection(self) -> SSHClientConnection:
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        self._drop()
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

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        for forward in self._forwards.values():
            forward.close()
        self._forwards.clear()
        if connection is not None:
            connection.close()

    def _enter_loop(self) -> None:
        """Start again in another event loop: the connection of an earlier loop is dead."""
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
    """Open a connection from the gateway to the server, and close it."""
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


async def log_in(gateway: SshGateway, *, connect_timeout: float) -> SSHClientConnection:
    """Return a connection to the gateway, which the caller closes.

    Only the settings decide: ~/.ssh/config is not read, there is no prompt, no agent or display is forwarded.

    Args:
        gateway: The machine, the user, and the trusted host keys.
        connect_timeout: Seconds for the whole login.

    Raises:
        ConfigurationError: A file that the settings name cannot be used, or asyncssh is not installed.
        TunnelFailed: Any other failure, with the reason.
    """
    try:
        import asyncssh  # noqa: PLC0415 - an extra, imported where it is used
    except ImportError as error:
        raise ConfigurationError(
            "DB_SSH_TUNNEL is set and asyncssh is not installed", hint="pip install 'thea-database[ssh]'"
        ) from error
    known_hosts, options = await asyncio.to_thread(_prepare, gateway, connect_timeout)
    try:
        return await asyncssh.connect(gateway.host, gateway.port, options=options, config=None)
    except Exception as error:  # what the gateway or the agent sends can make asyncssh raise anything
        reason, remedy = (
            _reason_by_network(error)
            or _reason_by_host_key(error, gateway, known_hosts)
            or _reason_by_login(error, gateway, options.username)
        )
        raise TunnelFailed(f"no SSH tunnel through {gateway}: {reason}", hint=remedy) from error


def printable(text: str) -> str:
    """Return a gateway's text in one short line without control characters, for a log or a terminal."""
    return "".join(character if character.isprintable() else " " for character in text[:_SHOWN_CHARACTERS]).strip()


def _prepare(gateway: SshGateway, timeout: float) -> tuple[SSHKnownHosts | None, SSHClientConnectionOptions]:
    """Read the files; called in a thread, since it takes milliseconds."""
    import asyncssh  # noqa: PLC0415 - an extra, imported where it is used

    known_hosts, keys = _read_known_hosts(gateway), _read_keys(gateway)
    try:
        return known_hosts, asyncssh.SSHClientConnectionOptions(
            config=None,
            host=gateway.host,
            port=gateway.port,
            username=gateway.user or (),
            client_keys=keys,
            agent_path="" if keys else (),  # the key of the settings is the only one
            known_hosts=known_hosts,
            x509_trusted_certs=None,
            gss_host=None,
            host_based_auth=False,
            kbdint_auth=False,
            password_auth=False,
            agent_forwarding=False,
            x11_forwarding=False,
            connect_timeout=timeout,
            login_timeout=timeout,
            keepalive_interval=KEEPALIVE_SECONDS,
            keepalive_count_max=KEEPALIVES_UNANSWERED,
        )
    except (OSError, RuntimeError, ValueError) as error:  # this user has no name or no home, a key there is broken
        raise ConfigurationError(
            f"the SSH login cannot be prepared: {type(error).__name__}",
            hint="set DB_SSH_USER and DB_SSH_KEY; where the user of this process has no name, set LOGNAME too",
        ) from None


def _known_hosts_file(gateway: SshGateway) -> Path:
    return Path("~/.ssh/known_hosts" if gateway.known_hosts is None else gateway.known_hosts)


def _read_known_hosts(gateway: SshGateway) -> SSHKnownHosts | None:
    """Return the known hosts; None means that every host is trusted."""
    import asyncssh  # noqa: PLC0415 - an extra, imported where it is used

    if gateway.known_hosts == "none":
        return None
    path = _known_hosts_file(gateway)
    try:
        return asyncssh.read_known_hosts(str(path.expanduser()))
    except (OSError, RuntimeError, ValueError) as error:
        if gateway.known_hosts is None and isinstance(error, FileNotFoundError | RuntimeError):
            return asyncssh.import_known_hosts("")  # no file, or no home: no host is known
        # asyncssh quotes the line that it cannot read, which is a secret where the file is a key.
        raise ConfigurationError(
            f"DB_SSH_KNOWN_HOSTS must be a readable known_hosts file, got {str(path)!r}: {_reason_of_file(error)}",
            hint="name a file of OpenSSH's form; `ssh-keyscan` writes one, whose fingerprints must be compared with the"
            " gateway's own",
        ) from None


def _read_keys(gateway: SshGateway) -> Sequence[SSHKeyPair]:
    """Return the key of the settings with its certificate; an empty sequence means the agent and the usual files."""
    import asyncssh  # noqa: PLC0415 - an extra, imported where it is used

    if gateway.key is None:
        return ()
    try:
        return asyncssh.load_keypairs(str(gateway.key.expanduser()))
    except (OSError, RuntimeError, ValueError) as error:
        # Users may set the key itself in place of its path; an OSError would repeat it.
        shown = "the key itself" if "PRIVATE KEY" in str(gateway.key) else repr(str(gateway.key))
        raise ConfigurationError(
            f"DB_SSH_KEY must be the path of a private key without a passphrase, got {shown}: {_reason_of_file(error)}",
            hint="put an encrypted key into the agent and leave DB_SSH_KEY out, or make one without a passphrase",
        ) from None


def _reason_of_file(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "it is encrypted" if "assphrase" in str(error) else "it cannot be read as one"


def _reason_by_network(error: Exception) -> tuple[str, str] | None:
    if isinstance(error, TimeoutError):
        return "it did not answer in time", _FIREWALL
    if isinstance(error, socket.gaierror) or "idna" in str(error):
        return "the host is not known", "check DB_SSH_HOST"
    if isinstance(error, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(error):  # of each address
        return "nothing listens there", _FIREWALL
    if isinstance(error, ConnectionError):
        return "it ended the connection before the login", _NO_SSH
    if isinstance(error, OSError):
        return errno.errorcode.get(error.errno or 0, type(error).__name__), _FIREWALL
    return None


def _reason_by_host_key(
    error: Exception, gateway: SshGateway, known_hosts: SSHKnownHosts | None
) -> tuple[str, str] | None:
    import asyncssh  # noqa: PLC0415 - an extra, imported where it is used

    # A gateway that has no key of the kind that is known fails earlier, at agreeing on a kind.
    of_another_kind = isinstance(error, asyncssh.KeyExchangeFailed) and "host key" in str(error)
    if known_hosts is None or not (of_another_kind or isinstance(error, asyncssh.HostKeyNotVerifiable)):
        return None
    file = _known_hosts_file(gateway)
    add = f"ssh-keyscan -p {gateway.port} {gateway.host} >> {file}"
    compare = "compare it with the gateway's own first (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` there)"
    if any(known_hosts.match(gateway.host, "", None if gateway.port == _SSH_PORT else gateway.port)):
        return (
            f"its host key is not the one in {file}: it has changed, or somebody is in the middle",
            f"{compare}; if it has really changed, remove the old line and: {add}",
        )
    return (
        f"its host key is not known: {file} has none for it, so it could be a man in the middle's",
        f"{compare}, then: {add}",
    )


def _reason_by_login(error: Exception, gateway: SshGateway, user: str) -> tuple[str, str]:
    import asyncssh  # noqa: PLC0415 - an extra, imported where it is used

    if isinstance(error, asyncssh.PermissionDenied) or "authentication" in str(error).lower():
        keys = f"the key {str(gateway.key)!r}" if gateway.key else "the keys of the agent and of ~/.ssh"
        return (
            f"it refused the user {user!r} with {keys}",
            "set DB_SSH_USER and DB_SSH_KEY, and have the public key in that user's authorized_keys there",
        )
    if isinstance(error, asyncssh.ConnectionLost):
        return "it ended the connection before the login", _NO_SSH
    said = printable(error.reason) if isinstance(error, asyncssh.Error) else "what it sent is not SSH"
    return f"the login failed: {said}", _NO_SSH
