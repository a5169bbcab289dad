"""Cloud SQL if no socket is mounted: the connections of the official connector, and the translation of its errors."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import asyncpg

from src.database.errors import AuthenticationFailed, ConfigurationError, ConnectionFailed, DatabaseError
from src.database.target import Host

if TYPE_CHECKING:
    from aiohttp import ClientResponseError

DEFAULT_TIMEOUT_SECONDS: Final = 30
ADDRESSES: Final = ("PUBLIC", "PRIVATE", "PSC")
"""The connector's names of an instance's addresses; the first that the instance has is used."""

_LOG_IN: Final = "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key's path"
_NO_CONNECTION: Final = "no connection to the Cloud SQL instance {}: {error}"
_NAME: Final = "check it with `gcloud sql instances list`: /cloudsql/<project>:<region>:<instance>"


def is_mounted(host: Host) -> bool:
    """Return True if the host's socket exists, as Cloud Run mounts it."""
    try:
        return Path(host.name, f".s.PGSQL.{host.port}").exists()
    except OSError:  # a folder that we may not enter
        return False


class CloudSqlConnector:
    """The connector of one engine: created for the first connection, shared by all of them.

    It can be used again after `close`, as an engine can.

    Args:
        instance: ``project:region:instance``.
    """

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connector: Any = None
        self._address: str | None = None

    async def connect(
        self, *, user: str, password: str | None, database: str, **driver_arguments: Any
    ) -> asyncpg.Connection[Any]:
        """Open one connection, with the connector's own TLS; without a password, as a Google account (IAM).

        Args:
            user: Of the database.
            password: None, or empty: IAM.
            database: Its name.
            driver_arguments: What `asyncpg.connect` takes, but for the host, the port and TLS; ``timeout``, in
                seconds, bounds Google's part as well.

        Raises:
            ConfigurationError: The instance, its API or the installation cannot serve.
            ConnectionFailed: Google did not answer; AuthenticationFailed: or refused. The driver's own errors are
                left as they are.
        """
        timeout = driver_arguments.get("timeout") or DEFAULT_TIMEOUT_SECONDS
        login = {"password": password} if password else {"enable_iam_auth": True}
        try:
            async with asyncio.timeout(timeout):
                return await self._connect(
                    {**driver_arguments, "timeout": timeout, "user": user, "db": database, **login}
                )
        except Exception as error:
            translated = _translate(error, self._instance)
            if translated is None:
                raise
        # Outside of the handler, so that the cause is dropped: the repr of aiohttp's error has the bearer token.
        raise translated

    async def close(self) -> None:
        """Close the connector; its connections stay open."""
        self._enter_loop()
        async with self._lock:
            connector, self._connector = self._connector, None
        if connector is not None:
            await connector.close_async()

    async def _connect(self, arguments: dict[str, Any]) -> asyncpg.Connection[Any]:
        self._enter_loop()
        async with self._lock:
            if self._connector is None:
                self._connector = await _create_connector()
            connector = self._connector
            if self._address is None:
                # One at a time: callers that fail together make the connector trip over its own cache.
                return await self._connect_to_an_address(connector, arguments)
        return await self._connect_to_an_address(connector, arguments)

    async def _connect_to_an_address(self, connector: Any, arguments: dict[str, Any]) -> asyncpg.Connection[Any]:
        """Connect to the address that served before, or else to the first that the instance has."""
        from google.cloud.sql.connector.exceptions import (  # noqa: PLC0415 - an extra, imported where it is used
            CloudSQLIPTypeError,
        )

        for address in dict.fromkeys([self._address or ADDRESSES[0], *ADDRESSES]):
            try:
                made = await connector.connect_async(self._instance, "asyncpg", ip_type=address, **arguments)
            except CloudSQLIPTypeError:
                continue
            self._address = address
            return made
        raise ConfigurationError(
            f"the Cloud SQL instance {self._instance} has no address", hint="give it a public or a private one"
        )

    def _enter_loop(self) -> None:
        """Start again in another event loop: a connector belongs to the loop in which it was created."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._lock, self._connector = loop, asyncio.Lock(), None


async def _create_connector() -> Any:
    """Create a connector for the running loop."""
    try:
        import google.auth  # noqa: PLC0415 - an extra, imported where it is used
        from google.cloud.sql.connector import create_async_connector  # noqa: PLC0415 - the same
    except ImportError as error:
        raise ConfigurationError(
            "host=/cloudsql/... is not mounted and the Cloud SQL connector is not installed",
            hint="pip install 'thea-database[cloudsql]', or mount the instance's socket",
        ) from error
    credentials, _ = await asyncio.to_thread(google.auth.default)  # it may wait seconds for a metadata server
    # Lazy: its background refresh is one task for all callers, which the first cancelled caller cancels permanently.
    return await create_async_connector(credentials=credentials, refresh_strategy="lazy")


# The first class that the error is of, by its name: Google's libraries are imported only when they are used.
_REASONS: Final[Mapping[str, tuple[type[DatabaseError], str, str]]] = {
    "TimeoutError": (
        ConnectionFailed,
        "no connection to the Cloud SQL instance {}: no answer in time",
        "a private address answers inside its VPC alone; else check the network, and that the instance runs",
    ),
    "ClientError": (  # aiohttp's; some are OSErrors, as the driver's are
        ConnectionFailed,
        "the Cloud SQL Admin API cannot be reached for {}: {error}",
        "check that this machine reaches sqladmin.googleapis.com",
    ),
    "DefaultCredentialsError": (AuthenticationFailed, "there are no Google credentials for {}", _LOG_IN),
    "TransportError": (
        ConnectionFailed,
        "Google's sign-in cannot be reached for {}",
        "check that this machine reaches googleapis.com",
    ),
    "GoogleAuthError": (AuthenticationFailed, "the Google credentials for {} no longer hold", _LOG_IN),
    "IncompatibleDriverError": (ConfigurationError, "the Cloud SQL instance {} is no PostgreSQL", _NAME),
    "CloudSQLIPTypeError": (ConnectionFailed, "the address of the Cloud SQL instance {} has changed", "try again"),
    "CloudSQLConnectionError": (ConnectionFailed, _NO_CONNECTION, "try again"),
    "TLSVersionError": (ConnectionFailed, _NO_CONNECTION, "try again"),
    "ClosedConnectorError": (ConnectionFailed, _NO_CONNECTION, "try again"),
}


def _translate(error: Exception, instance: str) -> DatabaseError | None:
    """Translate an error of Google's libraries; return None if the error is the driver's, or ours already."""
    if isinstance(error, DatabaseError | asyncpg.PostgresError | asyncpg.InterfaceError):
        return None
    if isinstance(error, KeyError) and isinstance(error.__context__, Exception):
        error = error.__context__  # two callers failed together, and both took the entry out of the connector's cache
    classes = {kind.__name__ for kind in type(error).__mro__}
    if "ClientResponseError" in classes:
        return _translate_response(cast("ClientResponseError", error), instance)
    for name, (kind, message, hint) in _REASONS.items():
        if name in classes:
            return kind(message.format(instance, error=type(error).__name__), hint=hint)
    if isinstance(error, ValueError) and instance in str(error):  # not of the form, or the region is another one
        return ConfigurationError(f"there is no Cloud SQL instance {instance} in that region", hint=_NAME)
    if isinstance(error, OSError):
        return None
    return ConnectionFailed(
        f"no connection to the Cloud SQL instance {instance}: its connector failed with {type(error).__name__}"
    )


def _translate_response(error: ClientResponseError, instance: str) -> DatabaseError:
    match error.status:
        case 401:
            return AuthenticationFailed(f"Google refused the credentials for {instance}", hint=_LOG_IN)
        case 403 if "has not been used" in error.message or "disabled" in error.message:
            return ConfigurationError(
                f"the Cloud SQL Admin API is not enabled for {instance}",
                hint="run `gcloud services enable sqladmin.googleapis.com`, and wait a minute",
            )
        case 403:
            return AuthenticationFailed(
                f"these Google credentials may not connect to the Cloud SQL instance {instance}, or it does not exist",
                hint="grant their account roles/cloudsql.client in the project",
            )
        case 404:
            return ConfigurationError(f"there is no Cloud SQL instance {instance}", hint=_NAME)
    return ConnectionFailed(f"the Cloud SQL Admin API answered {error.status} for {instance}", hint="try again")
