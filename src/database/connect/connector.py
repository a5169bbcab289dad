"""Opens the connections of one engine: host after host, over TLS or not, through a tunnel or not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

import asyncpg

from src.database.connect.connection import DRIVER_ERRORS, OurConnection, is_running_here
from src.database.connect.password import PasswordProvider, with_password
from src.database.connect.tls import create_ssl_context
from src.database.errors import AuthenticationFailed, ConnectionFailed, DatabaseMissing, TlsFailed
from src.database.target import Host, SessionAttributes, Target
from src.database.translation import Encryption, translate_connect

if TYPE_CHECKING:
    from src.database.connect.cloudsql import CloudSqlConnector
    from src.database.connect.ssh import SshTunnel

__all__ = ["Connector", "connect"]

_ENDS_THE_SEARCH: Final = (AuthenticationFailed, DatabaseMissing, TlsFailed)
"""What another host would not answer differently; libpq does not go on after these either."""
_REJECTED_BY_PG_HBA: Final = "28000"
_LOST: Final = "08"
"""The class of the codes that the driver gives itself where nobody answered."""
DEFAULT_TIMEOUT_SECONDS: Final = 10.0
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}  # seconds, seconds, times


class Connector:
    """Opens connections to a target, and keeps what they share: the SSH tunnel, or the Cloud SQL connector.

    Args:
        find_target: Says where to, anew for each connection: the embedded server's port can change.
        driver_arguments: Further keyword arguments of `asyncpg.connect`.
        name: Says what the server shall call it, anew for each connection: a forked process has another number.
        password: Asked for the password of each connection, in place of the target's.
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
        self._opened: WeakSet[asyncpg.Connection[Any]] = WeakSet()

    def __str__(self) -> str:
        return str(self._find_target())

    @property
    def connect_timeout(self) -> float:
        """Seconds for one host, and for what is asked of a new connection."""
        return self._find_target().connect_timeout or DEFAULT_TIMEOUT_SECONDS

    async def connect(self) -> asyncpg.Connection[Any]:
        """Open one connection, to the first host that takes it and is what the target asks for.

        Raises:
            ConnectionFailed: Or the child of it that says why; never a bare ``OSError``.
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
        """Wait until the server has heard of every statement that was cancelled."""
        opened: list[Any] = [connection for connection in list(self._opened) if is_running_here(connection._loop)]  # noqa: SLF001
        parting = [connection.parting for connection in opened if connection.parting is not None]
        requests = [request for connection in opened for request in connection._cancellations]  # noqa: SLF001
        await asyncio.gather(*parting, *requests, return_exceptions=True)

    @property
    def tunnel_is_up(self) -> bool | None:
        """Whether the SSH tunnel stands; None where none has been asked for."""
        return None if self._tunnel is None else self._tunnel.is_up

    def terminate_all(self) -> None:
        """Drop every connection that is still open, without a word to the server."""
        for connection in list(self._opened):
            asyncpg.Connection.terminate(connection)

    def hang_up(self) -> None:
        """Shut down the sockets of connections whose event loop is closed: the server then ends its backends."""
        for connection in list(self._opened):
            transport = connection._transport  # noqa: SLF001 - on a closed loop the driver's own ways raise
            network = None if transport is None else transport.get_extra_info("socket")
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
        return await self._log_in(host, again, attributes)  # it was changed in between

    async def _log_in(self, host: Host, target: Target, attributes: SessionAttributes) -> asyncpg.Connection[Any]:
        arguments = {
            "user": target.user,
            # Never None: the driver would look into the environment and ~/.pgpass, and settings alone decide.
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
        if (instance := target.cloud_sql_instance) is not None and not _is_mounted(host):
            return await self._connect_to_cloud_sql(instance, target, arguments)
        if target.ssh is not None:
            return await self._connect_through_tunnel(host, target, arguments)
        return await _attempt(host, host, target, arguments)

    async def _connect_through_tunnel(
        self, host: Host, target: Target, arguments: dict[str, Any]
    ) -> asyncpg.Connection[Any]:
        from src.database.connect.ssh import SshTunnel  # noqa: PLC0415 - an extra, imported where it is used

        assert target.ssh is not None  # noqa: S101 - for mypy
        if self._tunnel is None:
            self._tunnel = SshTunnel(target.ssh, connect_timeout=arguments["timeout"])
        tunnel = self._tunnel
        # The driver skips TLS on a Unix socket, without a word; without TLS, a socket is what nobody else can use.
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
        from src.database.connect.cloudsql import CloudSqlConnector  # noqa: PLC0415 - an extra

        if self._cloud_sql is None:
            self._cloud_sql = CloudSqlConnector(instance)
        arguments = {**arguments, "password": target.password}
        try:
            return await self._cloud_sql.connect(**arguments)
        except DRIVER_ERRORS as error:
            raise translate_connect(error, where=str(target)) from error


async def connect(target: Target) -> asyncpg.Connection[Any]:
    """Open one connection of its own, over a route that needs nothing shared: no tunnel, no Cloud SQL connector.

    Raises:
        ConnectionFailed: Or the child of it that says why; never a bare ``OSError``.
    """
    named = {"application_name": target.application_name, "search_path": target.search_path}
    settings = {name: value for name, value in named.items() if value}
    return await Connector(lambda: target, driver_arguments={"server_settings": settings}).connect()


async def _attempt(near: Host, host: Host, target: Target, arguments: Mapping[str, Any]) -> asyncpg.Connection[Any]:
    """Try what the TLS mode allows, in its order, and go on only where the server did not take what came first."""
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
    """Have the system ask a peer that says nothing whether it is there, as libpq does and the driver does not.

    It keeps firewalls from forgetting an idle connection, and ends what waits for a peer that is gone.
    """
    network = connection._transport.get_extra_info("socket")  # noqa: SLF001 - the driver has no public way to it
    if network is None or network.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    with suppress(OSError):
        network.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if (option := getattr(socket, name, None)) is not None:  # macOS has other names, and its own defaults
                network.setsockopt(socket.IPPROTO_TCP, option, value)


def _encryptions(near: Host, host: Host, target: Target) -> Sequence[Any]:
    """Return what to try in turn: a context is TLS, and a plain False is plaintext.

    With None in its place the driver would try TLS, take plaintext for an answer, and not say so.
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
    """Return what to ask of the hosts, round after round."""
    return ("standby", "any") if attributes == "prefer-standby" else (attributes or "any",)


def _sum_up(refusals: Sequence[ConnectionFailed]) -> ConnectionFailed:
    if len(refusals) == 1:
        return refusals[0]
    reasons = "; ".join(dict.fromkeys(str(refusal.args[0]) for refusal in refusals))
    error = ConnectionFailed(f"none of the hosts serves: {reasons}", hint=refusals[0].hint)
    error.__cause__ = refusals[-1].__cause__  # the driver's: a traceback prints one hint
    return error


def _is_mounted(host: Host) -> bool:
    from src.database.connect.cloudsql import is_mounted  # noqa: PLC0415 - beside the extra

    return bool(is_mounted(host))
