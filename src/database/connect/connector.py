"""Open connections for an engine or a command: host after host, with TLS, a tunnel, or the Cloud SQL connector."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from weakref import WeakSet

import asyncpg

from src.database.connect.cloudsql import CloudSqlConnector, is_mounted
from src.database.connect.connection import DRIVER_ERRORS, StatefulConnection, is_running_here
from src.database.connect.drivers import Forwarder
from src.database.connect.password import PasswordProvider, with_password
from src.database.connect.setup import LONGEST_NAME_BYTES
from src.database.connect.ssh import SshTunnel
from src.database.connect.tls import create_ssl_context
from src.database.errors import AuthenticationFailed, ConnectionFailed, DatabaseMissing, TlsFailed
from src.database.target import Host, SessionAttributes, Target
from src.database.translation import Encryption, translate_connect

_ENDS_THE_SEARCH: Final = (AuthenticationFailed, DatabaseMissing, TlsFailed)
"""The other hosts would answer the same; libpq does not try the next host after these errors either."""
_REJECTED_BY_PG_HBA: Final = "28000"
_LOST: Final = "08"
"""The class of the SQLSTATEs that the driver itself sets if the server did not answer."""
# The time limits of a role are meant for connections that serve requests, not for a command.
_UNLIMITED: Final = {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0", "lock_timeout": "0"}
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}  # seconds, seconds, times


class Connector:
    """Opens connections to a target, and owns what they share: the SSH tunnel or the Cloud SQL connector.

    Args:
        target: The database. It may be replaced: the address of the embedded server changes when it is restarted.
        driver_arguments: Further keyword arguments of `asyncpg.connect`.
        name: Returns the application_name; called for each connection, since a forked process has another id.
        password: Returns the password of each connection, in place of the target's.
    """

    def __init__(
        self,
        target: Target,
        *,
        driver_arguments: Mapping[str, Any] | None = None,
        name: Callable[[], str] | None = None,
        password: PasswordProvider | None = None,
    ) -> None:
        self.target = target
        self._driver_arguments = dict(driver_arguments or {})
        self._name = name
        self._password = password
        self._tunnel: SshTunnel | None = None
        self._forwarders: dict[tuple[Host, bool], tuple[Forwarder, Host]] = {}
        self._cloud_sql: CloudSqlConnector | None = None
        # Weak, since the pool or the caller owns the connections, and may drop one without a call of this class.
        self._opened: WeakSet[StatefulConnection] = WeakSet()

    def __str__(self) -> str:
        return str(self.target)

    async def connect(self) -> asyncpg.Connection[Any]:
        """Open one connection, to the first host that accepts it and has the attributes that the target requires.

        Raises:
            ConnectionFailed: No host accepted the connection; a subclass names the reason. Never a bare ``OSError``.
        """
        target = self.target
        refusals: list[ConnectionFailed] = []
        for attributes in _attribute_rounds(target.target_session_attrs):
            for host in target.hosts:
                try:
                    connection = await self._connect_to(host, target, attributes)
                except _ENDS_THE_SEARCH:
                    raise
                except ConnectionFailed as error:
                    refusals.append(error)
                else:
                    self._opened.add(connection)
                    return connection
        raise _combine(refusals)

    async def wait_for_cancellations(self) -> None:
        """Wait until the server has received the request to cancel each statement that was cancelled."""
        opened: list[Any] = [connection for connection in list(self._opened) if is_running_here(connection.loop)]
        closing = [connection.closing for connection in opened if connection.closing is not None]
        requests = [request for connection in opened for request in connection.cancel_requests]
        await asyncio.gather(*closing, *requests, return_exceptions=True)

    @property
    def tunnel_is_up(self) -> bool | None:
        """True if the SSH tunnel is up; None if the target has no tunnel, or none was opened yet."""
        return None if self._tunnel is None else self._tunnel.is_up

    def terminate_all(self) -> None:
        """Drop every open connection immediately, without the wait for a cancelled statement."""
        for connection in list(self._opened):
            asyncpg.Connection.terminate(connection)  # the driver's own, which sends and awaits nothing

    def shut_down_sockets(self) -> None:
        """Shut down the sockets of connections whose event loop is closed: the server then ends its backends."""
        for connection in list(self._opened):
            network = connection.transport.get_extra_info("socket")  # the driver's methods raise on a closed loop
            if network is not None:
                with suppress(OSError, TypeError):  # already closed; uvloop closes its sockets with the loop
                    network.shutdown(socket.SHUT_RDWR)

    async def local_addresses(self, target: Target) -> tuple[Host, ...]:
        """Return the addresses at which this machine reaches the hosts of a target, for drivers of other libraries.

        Args:
            target: A database behind the same SSH gateway, or behind none.

        Raises:
            TunnelFailed: The tunnel cannot be opened.
        """
        if target.ssh is None:
            return target.hosts
        return tuple([await self._forward(host, target) for host in target.hosts])

    async def close(self) -> None:
        """Close the tunnel or the Cloud SQL connector; the next connection opens them again."""
        forwarders, self._forwarders = self._forwarders, {}
        for forwarder, _ in forwarders.values():
            await forwarder.close()
        if self._tunnel is not None:
            await self._tunnel.close()
        if self._cloud_sql is not None:
            await self._cloud_sql.close()

    async def _connect_to(self, host: Host, target: Target, attributes: SessionAttributes) -> asyncpg.Connection[Any]:
        if self._password is None:
            return await self._log_in(host, target, attributes)
        target = await with_password(self._password, target, host)
        try:
            return await self._log_in(host, target, attributes)
        except AuthenticationFailed:
            # The password may have been rotated between the provider's answer and the login.
            again = await with_password(self._password, target, host)
            if again.password == target.password:
                raise
        return await self._log_in(host, again, attributes)

    async def _log_in(self, host: Host, target: Target, attributes: SessionAttributes) -> asyncpg.Connection[Any]:
        arguments = {
            "user": target.user,
            # Never None: the driver would read PGPASSWORD and ~/.pgpass, and only the settings decide.
            "password": target.password or "",
            "database": target.database,
            "timeout": target.connect_seconds,
            "target_session_attrs": attributes,
            "connection_class": StatefulConnection,
            **self._driver_arguments,
        }
        if self._name is not None:
            name = {"application_name": self._name()}
            arguments["server_settings"] = {**arguments.get("server_settings", {}), **name}
        if (instance := target.cloud_sql_instance) is not None and not is_mounted(host):
            return await self._connect_to_cloud_sql(instance, target, arguments)
        if target.ssh is not None:
            return await self._connect_through_tunnel(host, target, arguments)
        return await _attempt(host, host, target, arguments)

    async def _connect_through_tunnel(
        self, host: Host, target: Target, arguments: dict[str, Any]
    ) -> asyncpg.Connection[Any]:
        tunnel = self._tunnel_of(target)
        near = await tunnel.forward(host, as_socket=_listens_on_socket(host, target))
        try:
            return await _attempt(near, host, target, arguments)
        except ConnectionFailed as error:
            # At the tunnel's local end, each failure behind the gateway looks like a lost connection. If PostgreSQL did
            # not answer, the gateway knows the reason.
            answered = error.sqlstate is not None and not error.sqlstate.startswith(_LOST)
            if not answered and (reason := await tunnel.explain(host)) is not None:
                raise reason from error
            raise

    async def _forward(self, host: Host, target: Target) -> Host:
        tunnel, as_socket = self._tunnel_of(target), _listens_on_socket(host, target)
        # An error of the gateway is raised here: a driver would report a lost connection.
        await tunnel.forward(host, as_socket=True)
        if (host, as_socket) not in self._forwarders:
            forwarder = Forwarder(tunnel, host, as_socket=as_socket)
            opened = forwarder, await forwarder.open()
            if self._forwarders.setdefault((host, as_socket), opened) is not opened:  # another caller was faster
                await forwarder.close()
        return self._forwarders[host, as_socket][1]

    def _tunnel_of(self, target: Target) -> SshTunnel:
        assert target.ssh is not None  # noqa: S101 - for mypy
        if self._tunnel is None:
            self._tunnel = SshTunnel(target.ssh, connect_timeout=target.connect_seconds)
        return self._tunnel

    async def _connect_to_cloud_sql(
        self, instance: str, target: Target, arguments: dict[str, Any]
    ) -> asyncpg.Connection[Any]:
        if self._cloud_sql is None:
            self._cloud_sql = CloudSqlConnector(instance)
        try:
            return await self._cloud_sql.connect(connect_seconds=arguments.pop("timeout"), **arguments)
        except DRIVER_ERRORS as error:
            raise translate_connect(error, where=str(target)) from error


@asynccontextmanager
async def command_connection(
    target: Target,
    *,
    close_seconds: float = 5.0,
    server_settings: Mapping[str, str] = _UNLIMITED,
    command_timeout: float | None = None,
    password: PasswordProvider | None = None,
) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Open a connection for one command, without a pool; errors of the driver inside the block are translated.

    The connection, and the tunnel or connector that it needs, are closed at the end of the block.

    Args:
        target: The database.
        close_seconds: How long closing the connection may take, and after that closing the tunnel or connector.
        server_settings: Parameters of the session, beside its name; by default the session has no time limits.
        command_timeout: Seconds for each statement; None sets no limit.
        password: Returns the password, in place of the target's.

    Raises:
        ConnectionFailed: The connection failed; a subclass names the reason.
    """
    name = f"{target.application_name}:thea-db"[:LONGEST_NAME_BYTES]
    connector = Connector(
        target,
        driver_arguments={
            "server_settings": {
                "application_name": name,
                **({} if target.search_path is None else {"search_path": target.search_path}),
                **server_settings,
            },
            "statement_cache_size": 0,  # the target may be PgBouncer, which loses prepared statements
            "command_timeout": command_timeout,
        },
        password=password,
    )
    try:
        connection = await connector.connect()
        try:
            yield connection
        except DRIVER_ERRORS as error:
            raise translate_connect(error, where=str(target)) from error
        finally:
            with suppress(*DRIVER_ERRORS):
                await connection.close(timeout=close_seconds)
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(close_seconds):
                await connector.close()


async def _attempt(near: Host, host: Host, target: Target, arguments: Mapping[str, Any]) -> asyncpg.Connection[Any]:
    """Try what the TLS mode allows, in order; the second is tried only if the server rejected the first."""
    encryptions = _encryptions(near, host, target)
    for number, tls in enumerate(encryptions, start=1):
        try:
            connection = await asyncpg.connect(host=near.name, port=near.port, ssl=tls, direct_tls=False, **arguments)
        except (*DRIVER_ERRORS, UnicodeError) as error:  # UnicodeError: the host's name cannot be encoded (IDNA)
            where = f"{host}, database {target.database}, user {target.user}"
            encryption: Encryption = "Unix socket" if host.is_socket else "TLS" if tls else "plaintext"
            failure = translate_connect(error, where=where, encryption=encryption)
            is_rejected = isinstance(failure, TlsFailed) or failure.sqlstate == _REJECTED_BY_PG_HBA
            if number < len(encryptions) and is_rejected:
                continue
            raise failure from error
        _keep_alive(connection)
        return connection
    raise AssertionError("the last attempt returns or raises")


def _keep_alive(connection: asyncpg.Connection[Any]) -> None:
    """Enable TCP keepalives, as libpq does and asyncpg does not.

    Without them, firewalls drop an idle connection, and a statement waits forever for a server that has disappeared.
    """
    network = connection.transport.get_extra_info("socket")
    if network is None or network.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    with suppress(OSError):
        network.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if (option := getattr(socket, name, None)) is not None:  # macOS has other names, and its own defaults
                network.setsockopt(socket.IPPROTO_TCP, option, value)


def _encryptions(near: Host, host: Host, target: Target) -> Sequence[Any]:
    """Return what to pass as `ssl` in turn: a context means TLS, False means plaintext.

    Never None, with which asyncpg would try TLS and silently continue in plaintext (libpq's `prefer`).
    """
    mode = target.ssl_mode or "disable"
    # As in libpq, a Unix socket is never encrypted, also if a tunnel leads from a local port to the socket.
    if near.is_socket or host.is_socket or mode == "disable":
        return (False,)
    tls = create_ssl_context(
        mode,
        ca=target.ssl_ca,
        cert=target.ssl_cert,
        key=target.ssl_key,
        server_name=host.name if near != host else None,
    )
    return {"allow": (False, tls), "prefer": (tls, False)}.get(mode, (tls,))


def _listens_on_socket(host: Host, target: Target) -> bool:
    """Return True if the local end of the tunnel is a Unix socket, and not a loopback port.

    Drivers ignore TLS on a Unix socket, so that TLS needs a port. Without TLS, a socket is safer: no other user of this
    machine can open it.
    """
    return host.is_socket or target.ssl_mode == "disable"


def _attribute_rounds(attributes: SessionAttributes | None) -> Sequence[SessionAttributes]:
    """Return the attributes to require from the hosts, one for each round over all hosts."""
    return ("standby", "any") if attributes == "prefer-standby" else (attributes or "any",)


def _combine(refusals: Sequence[ConnectionFailed]) -> ConnectionFailed:
    if len(refusals) == 1:
        return refusals[0]
    reasons = "; ".join(dict.fromkeys(str(refusal.args[0]) for refusal in refusals))
    error = ConnectionFailed(f"none of the hosts accepts the connection: {reasons}", hint=refusals[0].hint)
    error.__cause__ = refusals[-1].__cause__  # the driver's error: a traceback shows one hint, not one for each host
    return error
