"""Opens the connections of an engine or a command: host after host, with or without TLS and a tunnel."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from weakref import WeakSet

import asyncpg

from src.database.connect.cloudsql import CloudSqlConnector, is_mounted
from src.database.connect.connection import DRIVER_ERRORS, OurConnection, is_running_here
from src.database.connect.password import DEFAULT_TIMEOUT_SECONDS, PasswordProvider, with_password
from src.database.connect.setup import LONGEST_NAME_BYTES
from src.database.connect.ssh import SshTunnel
from src.database.connect.tls import create_ssl_context
from src.database.errors import AuthenticationFailed, ConnectionFailed, DatabaseMissing, TlsFailed
from src.database.target import Host, SessionAttributes, Target
from src.database.translation import Encryption, translate_connect

_ENDS_THE_SEARCH: Final = (AuthenticationFailed, DatabaseMissing, TlsFailed)
"""Other hosts would answer the same; libpq does not try the next host after these either."""
_REJECTED_BY_PG_HBA: Final = "28000"
_LOST: Final = "08"
"""The class of the codes that the driver itself sets if there was no answer."""
# The time limits of a role are for connections that serve requests.
_UNLIMITED: Final = {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0", "lock_timeout": "0"}
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}  # seconds, seconds, times


class Connector:
    """Opens connections to a target, and has what they share: the SSH tunnel, or the Cloud SQL connector.

    Args:
        find_target: Returns the target; called for each connection, since the embedded server's port can change.
        driver_arguments: Further keyword arguments of `asyncpg.connect`.
        name: Returns the application_name; called for each connection, since a forked process has another number.
        password: Called for the password of each connection, in place of the target's.
    """

    def __init__(
        self,
        find_target: Callable[[], Target],
        *,
        driver_arguments: Mapping[str, Any] | None = None,
        name: Callable[[], str] | None = None,
        password: PasswordProvider | None = None,
    ) -> None:
        self._find_target = find_target
        self._driver_arguments = dict(driver_arguments or {})
        self._name = name
        self._password = password
        self._tunnel: SshTunnel | None = None
        self._cloud_sql: CloudSqlConnector | None = None
        self._opened: WeakSet[OurConnection] = WeakSet()

    def __str__(self) -> str:
        return str(self._find_target())

    @property
    def connect_timeout(self) -> float:
        """Seconds for one host, and for the setup of a new connection."""
        return self._find_target().connect_timeout or DEFAULT_TIMEOUT_SECONDS

    async def connect(self) -> asyncpg.Connection[Any]:
        """Open one connection, to the first host that accepts it and has the attributes that the target requires.

        Raises:
            ConnectionFailed: No connection; a subclass has the reason. Never a bare ``OSError``.
        """
        target = self._find_target()
        refusals: list[ConnectionFailed] = []
        for attributes in _searches(target.target_session_attrs):
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
        raise _sum_up(refusals)

    async def part(self) -> None:
        """Wait until the server has received the cancellation of every statement that was cancelled."""
        opened: list[Any] = [connection for connection in list(self._opened) if is_running_here(connection.loop)]
        parting = [connection.parting for connection in opened if connection.parting is not None]
        requests = [request for connection in opened for request in connection.cancel_requests]
        await asyncio.gather(*parting, *requests, return_exceptions=True)

    @property
    def tunnel_is_up(self) -> bool | None:
        """Whether the SSH tunnel is up; None if there is none."""
        return None if self._tunnel is None else self._tunnel.is_up

    def terminate_all(self) -> None:
        """Drop every connection that is still open, without notice to the server."""
        for connection in list(self._opened):
            asyncpg.Connection.terminate(connection)

    def hang_up(self) -> None:
        """Shut down the sockets of connections whose event loop is closed: the server then ends its backends."""
        for connection in list(self._opened):
            network = connection.transport.get_extra_info("socket")  # the driver's methods raise on a closed loop
            if network is not None:
                with suppress(OSError, TypeError):  # closed already; or uvloop's, which closes them with the loop
                    network.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        """Close the tunnel or the connector; the next connection opens them again."""
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
            again = await with_password(self._password, target, host)
            if again.password == target.password:
                raise
        return await self._log_in(host, again, attributes)  # the password was changed in between

    async def _log_in(self, host: Host, target: Target, attributes: SessionAttributes) -> asyncpg.Connection[Any]:
        arguments = {
            "user": target.user,
            # Never None: the driver would read the environment and ~/.pgpass, and only the settings decide.
            "password": target.password or "",
            "database": target.database,
            "timeout": target.connect_timeout or DEFAULT_TIMEOUT_SECONDS,
            "target_session_attrs": attributes,
            "connection_class": OurConnection,
            **self._driver_arguments,
        }
        if self._name is not None:
            named = {"application_name": self._name()}
            arguments["server_settings"] = {**arguments.get("server_settings", {}), **named}
        if (instance := target.cloud_sql_instance) is not None and not is_mounted(host):
            return await self._connect_to_cloud_sql(instance, target, arguments)
        if target.ssh is not None:
            return await self._connect_through_tunnel(host, target, arguments)
        return await _attempt(host, host, target, arguments)

    async def _connect_through_tunnel(
        self, host: Host, target: Target, arguments: dict[str, Any]
    ) -> asyncpg.Connection[Any]:
        assert target.ssh is not None  # noqa: S101 - for mypy
        if self._tunnel is None:
            self._tunnel = SshTunnel(target.ssh, connect_timeout=arguments["timeout"])
        tunnel = self._tunnel
        # The driver silently skips TLS on a Unix socket. Without TLS, a socket is safer: no other user can enter it.
        near = await tunnel.forward(host, as_socket=host.is_socket or target.ssl_mode == "disable")
        try:
            return await _attempt(near, host, target, arguments)
        except ConnectionFailed as error:
            answered = error.sqlstate is not None and not error.sqlstate.startswith(_LOST)
            if not answered and (reason := await tunnel.explain(host)) is not None:
                raise reason from error
            raise

    async def _connect_to_cloud_sql(
        self, instance: str, target: Target, arguments: dict[str, Any]
    ) -> asyncpg.Connection[Any]:
        if self._cloud_sql is None:
            self._cloud_sql = CloudSqlConnector(instance)
        arguments = {**arguments, "password": target.password}
        try:
            return await self._cloud_sql.connect(**arguments)
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
    """Connect for one command, by the target's route and without a pool; the driver's errors inside are translated.

    Args:
        target: The database.
        close_seconds: How long closing the connection may take, and after that closing its route.
        server_settings: Parameters of the session, beside its name; by default it has no time limits.
        command_timeout: Seconds for each statement; by default no limit.
        password: Called for the password, in place of the target's.

    Raises:
        ConnectionFailed: No connection; a subclass has the reason.
    """
    name = f"{target.application_name}:thea-db"[:LONGEST_NAME_BYTES]
    connector = Connector(
        lambda: target,
        driver_arguments={
            "server_settings": {"application_name": name, **server_settings},
            "statement_cache_size": 0,  # PgBouncer may be in between, whatever the settings are
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
    """Try what the TLS mode allows, in its order; try the second only if the server did not accept the first."""
    ways = _encryptions(near, host, target)
    for number, encryption in enumerate(ways, start=1):
        try:
            made = await asyncpg.connect(host=near.name, port=near.port, ssl=encryption, direct_tls=False, **arguments)
        except (*DRIVER_ERRORS, UnicodeError) as error:
            where = f"{host}, database {target.database}, user {target.user}"
            failed = translate_connect(error, where=where, encryption=_kind_of(encryption, host))
            if number < len(ways) and (isinstance(failed, TlsFailed) or failed.sqlstate == _REJECTED_BY_PG_HBA):
                continue
            raise failed from error
        _keep_alive(made)
        return made
    raise AssertionError("the last way returns or raises")


def _kind_of(encryption: Any, host: Host) -> Encryption:
    """Return how the server sees the connection: over TLS, in plaintext, or from its own socket."""
    if host.is_socket:
        return "Unix socket"
    return "TLS" if encryption else "plaintext"


def _keep_alive(connection: asyncpg.Connection[Any]) -> None:
    """Switch TCP keepalives on, as libpq does and the driver does not.

    Without them firewalls drop an idle connection, and a statement waits forever for a server that is gone.
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
    """Return what to try in turn: a context is TLS, and False is plaintext.

    With None in place of False the driver would try TLS and silently fall back to plaintext.
    """
    mode = target.ssl_mode or "disable"
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


def _searches(attributes: SessionAttributes | None) -> Sequence[SessionAttributes]:
    """Return the attributes to require of the hosts, one for each round over them."""
    return ("standby", "any") if attributes == "prefer-standby" else (attributes or "any",)


def _sum_up(refusals: Sequence[ConnectionFailed]) -> ConnectionFailed:
    if len(refusals) == 1:
        return refusals[0]
    reasons = "; ".join(dict.fromkeys(str(refusal.args[0]) for refusal in refusals))
    error = ConnectionFailed(f"none of the hosts serves: {reasons}", hint=refusals[0].hint)
    error.__cause__ = refusals[-1].__cause__  # the driver's: a traceback prints one hint
    return error
