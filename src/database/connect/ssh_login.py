"""One login at an SSH gateway: how we and it prove who we are, and the reason where it fails."""

from __future__ import annotations

import asyncio
import errno
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from src.database.errors import ConfigurationError, TunnelFailed
from src.database.target import SshGateway

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncssh import SSHClientConnection, SSHClientConnectionOptions, SSHKeyPair, SSHKnownHosts

__all__ = ["log_in", "printable"]

# A gateway that is silent for a minute is given up: the first question and three more without an answer.
KEEPALIVE_SECONDS: Final = 15
KEEPALIVES_UNANSWERED: Final = 3

_SSH_PORT: Final = 22
_SHOWN_CHARACTERS: Final = 200
_NO_SSH: Final = "check that an SSH server is on that port; its log has why"
_FIREWALL: Final = "check DB_SSH_HOST, DB_SSH_PORT and the firewall"


async def log_in(gateway: SshGateway, *, connect_timeout: float) -> SSHClientConnection:
    """Return a connection to the gateway, which the caller closes.

    The settings alone decide: ~/.ssh/config is not read, nothing is asked for, no agent or display is forwarded.

    Args:
        gateway: Where, as whom, and whom we trust.
        connect_timeout: Seconds for all of it.

    Raises:
        ConfigurationError: A file that the settings name cannot serve, or asyncssh is not installed.
        TunnelFailed: Anything else, with the reason.
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
    """Return what a gateway said, short and on one line: a log is no terminal of its own."""
    return "".join(character if character.isprintable() else " " for character in text[:_SHOWN_CHARACTERS]).strip()


def _prepare(gateway: SshGateway, timeout: float) -> tuple[SSHKnownHosts | None, SSHClientConnectionOptions]:
    """Read the files; it takes milliseconds of disk and computing, so it runs in a thread."""
    import asyncssh  # noqa: PLC0415 - an extra, imported where it is used

    known_hosts, keys = _read_known_hosts(gateway), _read_keys(gateway)
    try:
        return known_hosts, asyncssh.SSHClientConnectionOptions(
            config=None,
            host=gateway.host,
            port=gateway.port,
            username=gateway.user or (),
            client_keys=keys,
            agent_path="" if keys else (),  # a key that is named is the only one
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
    """Return the hosts that are known; None trusts every host."""
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
    """Return the key that is named, with its certificate; none is named: nothing, which means the usual ones."""
    import asyncssh  # noqa: PLC0415 - an extra, imported where it is used

    if gateway.key is None:
        return ()
    try:
        return asyncssh.load_keypairs(str(gateway.key.expanduser()))
    except (OSError, RuntimeError, ValueError) as error:
        # The key itself in place of its path is a mistake to expect; an OSError repeats it.
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
