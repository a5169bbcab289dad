"""The login at an SSH gateway, and the reasons why a login or a connection through the gateway fails."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import asyncssh

from src.database.errors import ConfigurationError, TunnelFailed
from src.database.target import Host, SshGateway

# After a minute of silence, four keepalive messages without an answer, the connection to the gateway is closed.
KEEPALIVE_SECONDS: Final = 15
KEEPALIVES_UNANSWERED: Final = 3

_SSH_PORT: Final = 22
_SHOWN_CHARACTERS: Final = 200
_NO_SSH: Final = "check that an SSH server listens on that port; the log of the server has the reason"
_FIREWALL: Final = "check DB_SSH_HOST, DB_SSH_PORT and the firewall"
_FIREWALL_BEHIND: Final = "check the firewall between the gateway and the server"
_CHECK_TARGET: Final = "check the host and the port in DATABASE_URL, as the gateway sees them"
# Words in a gateway's refusal (OpenSSH's and asyncssh's); the reason; the remedy. SSH has no code for these.
_REFUSALS: Final = (
    (("refused", "[errno 111]"), "nothing listens there", _CHECK_TARGET),
    (("not known", "name resolution", "no address"), "the gateway does not know the host", _CHECK_TARGET),
    (("no route", "unreachable", "[errno 113]", "[errno 101]"), "the gateway has no route to the host", _CHECK_TARGET),
    (("timed out", "[errno 110]"), "the host does not answer the gateway", _FIREWALL_BEHIND),
    (("no such file", "[errno 2]"), "the gateway has no such socket", _CHECK_TARGET),
)


async def log_in(gateway: SshGateway, *, connect_timeout: float) -> asyncssh.SSHClientConnection:
    """Return a connection to the gateway, which the caller closes.

    Only the settings decide: ~/.ssh/config is not read, nothing prompts, no agent or display is forwarded.

    Args:
        gateway: The machine, the user, and the trusted host keys.
        connect_timeout: Seconds for the whole login.

    Raises:
        ConfigurationError: A file that the settings name cannot be used.
        TunnelFailed: Any other failure, with the reason.
    """
    # In a thread, since reading the key files takes milliseconds.
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


async def find_refusal(connection: asyncssh.SSHClientConnection, host: Host) -> tuple[str, str] | None:
    """Open a connection from the gateway to a server; return the reason and the remedy if the gateway refuses.

    Raises:
        ConnectionError: The connection to the gateway was lost.
    """
    channel: Any
    try:
        if host.is_socket:
            channel, _ = await connection.create_unix_connection(asyncssh.SSHUNIXSession, host.socket_path)
        else:
            channel, _ = await connection.create_connection(asyncssh.SSHTCPSession, host.name, host.port)
    except TimeoutError:
        raise
    except asyncssh.ChannelOpenError as error:
        if not connection.is_closed():
            return _reason_of_channel(error)
        raise ConnectionError from error
    except (OSError, asyncssh.Error) as error:
        raise ConnectionError from error
    channel.close()
    return None


def printable(text: str) -> str:
    """Return a gateway's text in one short line without control characters, for a log or a terminal."""
    return "".join(character if character.isprintable() else " " for character in text[:_SHOWN_CHARACTERS]).strip()


def _prepare(
    gateway: SshGateway, timeout: float
) -> tuple[asyncssh.SSHKnownHosts | None, asyncssh.SSHClientConnectionOptions]:
    known_hosts, keys = _read_known_hosts(gateway), _read_keys(gateway)
    try:
        return known_hosts, asyncssh.SSHClientConnectionOptions(
            config=None,
            host=gateway.host,
            port=gateway.port,
            username=gateway.user or (),
            client_keys=keys,
            agent_path="" if keys else (),  # "": no agent, only the key of the settings; (): the usual agent
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
    except (OSError, RuntimeError, ValueError) as error:  # no user name, no home directory, or a broken key there
        raise ConfigurationError(
            f"the SSH login cannot be prepared: {type(error).__name__}",
            hint="set DB_SSH_USER and DB_SSH_KEY; if the user of this process has no name, set LOGNAME too",
        ) from None


def _known_hosts_file(gateway: SshGateway) -> Path:
    return Path("~/.ssh/known_hosts" if gateway.known_hosts is None else gateway.known_hosts)


def _read_known_hosts(gateway: SshGateway) -> asyncssh.SSHKnownHosts | None:
    """Return the known hosts; None means that every host is trusted."""
    if gateway.known_hosts == "none":
        return None
    path = _known_hosts_file(gateway)
    try:
        return asyncssh.read_known_hosts(str(path.expanduser()))
    except (OSError, RuntimeError, ValueError) as error:
        if gateway.known_hosts is None and isinstance(error, FileNotFoundError | RuntimeError):
            return asyncssh.import_known_hosts("")  # no file, or no home directory: no host is known
        # `from None`: asyncssh quotes the line that it cannot read, which is a secret if the file is a key.
        raise ConfigurationError(
            f"DB_SSH_KNOWN_HOSTS must be a readable known_hosts file, got {str(path)!r}: {_reason_of_file(error)}",
            hint="`ssh-keyscan` writes such a file; compare the fingerprints in the file with those of the gateway",
        ) from None


def _read_keys(gateway: SshGateway) -> Sequence[asyncssh.SSHKeyPair]:
    """Return the key of the settings with its certificate; an empty sequence means the agent and the usual files."""
    if gateway.key is None:
        return ()
    try:
        return asyncssh.load_keypairs(str(gateway.key.expanduser()))
    except (OSError, RuntimeError, ValueError) as error:
        # Some users set the key itself in place of its path; an OSError would show it.
        shown = "the key itself" if "PRIVATE KEY" in str(gateway.key) else repr(str(gateway.key))
        raise ConfigurationError(
            f"DB_SSH_KEY must be the path of a private key without a passphrase, got {shown}: {_reason_of_file(error)}",
            hint="load an encrypted key into the SSH agent and leave DB_SSH_KEY out, or create a key without a"
            " passphrase",
        ) from None


def _reason_of_file(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "the key is encrypted" if "assphrase" in str(error) else "the content has another format"


def _reason_of_channel(error: asyncssh.ChannelOpenError) -> tuple[str, str]:
    if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
        return (
            "the gateway prohibits the connection",
            "ask the gateway's administrator to allow the connection: AllowTcpForwarding, PermitOpen",
        )
    text = error.reason.lower()
    for words, reason, remedy in _REFUSALS:
        if any(word in text for word in words):
            return reason, remedy
    return f"the gateway reports {printable(error.reason)!r}", _CHECK_TARGET


def _reason_by_network(error: Exception) -> tuple[str, str] | None:
    if isinstance(error, TimeoutError):
        return "the gateway did not answer in time", _FIREWALL
    if isinstance(error, socket.gaierror) or "idna" in str(error):
        return "the host is not known", "check DB_SSH_HOST"
    # If a name has several addresses, asyncio raises an OSError with the error of each in its text.
    if isinstance(error, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(error):
        return "nothing listens there", _FIREWALL
    if isinstance(error, ConnectionError):
        return "the gateway closed the connection before the login", _NO_SSH
    if isinstance(error, OSError):
        return errno.errorcode.get(error.errno or 0, type(error).__name__), _FIREWALL
    return None


def _reason_by_host_key(
    error: Exception, gateway: SshGateway, known_hosts: asyncssh.SSHKnownHosts | None
) -> tuple[str, str] | None:
    # A gateway without a key of the known kind fails earlier, at the negotiation of the kind.
    of_another_kind = isinstance(error, asyncssh.KeyExchangeFailed) and "host key" in str(error)
    if known_hosts is None or not (of_another_kind or isinstance(error, asyncssh.HostKeyNotVerifiable)):
        return None
    file = _known_hosts_file(gateway)
    add = f"ssh-keyscan -p {gateway.port} {gateway.host} >> {file}"
    compare = (
        "first compare the key with the key of the gateway (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the"
        " gateway)"
    )
    if any(known_hosts.match(gateway.host, "", None if gateway.port == _SSH_PORT else gateway.port)):
        return (
            f"the host key of the gateway is not the key in {file}: the key was changed, or another machine answers",
            f"{compare}; if the key was changed, remove the old line and run: {add}",
        )
    return (
        f"the host key of the gateway is not known: {file} has no key of this host, and another machine could answer",
        f"{compare}, then run: {add}",
    )


def _reason_by_login(error: Exception, gateway: SshGateway, user: str) -> tuple[str, str]:
    if isinstance(error, asyncssh.PermissionDenied) or "authentication" in str(error).lower():
        keys = f"the key {str(gateway.key)!r}" if gateway.key else "the keys of the agent and of ~/.ssh"
        return (
            f"the gateway refused the user {user!r} with {keys}",
            "set DB_SSH_USER and DB_SSH_KEY, and add the public key to that user's authorized_keys on the gateway",
        )
    if isinstance(error, asyncssh.ConnectionLost):
        return "the gateway closed the connection before the login", _NO_SSH
    text = printable(error.reason) if isinstance(error, asyncssh.Error) else "the answer is not SSH"
    return f"the login failed: {text}", _NO_SSH
