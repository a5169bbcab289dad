"""Cloud SQL where no socket is mounted: the official connector's connections, and its errors in our words."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from src.database.errors import AuthenticationFailed, ConfigurationError, ConnectionFailed, DatabaseError
from src.database.target import Host

if TYPE_CHECKING:
    from aiohttp import ClientResponseError

__all__ = ["CloudSqlConnector", "is_mounted"]

DEFAULT_TIMEOUT_SECONDS: Final = 30
ADDRESSES: Final = ("PUBLIC", "PRIVATE", "PSC")
"""The connector's names of an instance's addresses, in the order to try; the first that the instance has serves."""

_LOG_IN: Final = "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key's path"
_NAME: Final = "check it with `gcloud sql instances list`: /cloudsql/<project>:<region>:<instance>"


def is_mounted(host: Host) -> bool:
    """Say whether the host's socket is there, as Cloud Run mounts it."""
    try:
        return Path(host.name, f".s.PGSQL.{host.port}").exists()
    except OSError:  # a folder that we may not enter
        return False


class CloudSqlConnector:
    """The connector of one engine: made for its first connection, shared by all of them.

    It can be used again after `close`, as an engine can after its own.

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
        # Out of the handler, so that the cause is dropped: aiohttp's has the request with its bearer token in its repr.
        raise translated

    async def close(self) -> None:
        """Close what the connector holds; connections that it made stay open."""
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
        """Begin anew in another event loop: the connector serves the one that it was made in."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._lock, self._connector = loop, asyncio.Lock(), None


async def _create_connector() -> Any:
    """Make a connector for the running loop."""
    try:
        import google.auth  # noqa: PLC0415 - an extra, imported where it is used
        from google.cloud.sql.connector import create_async_connector  # noqa: PLC0415 - the same
    except ImportError as error:
        raise ConfigurationError(
            "host=/cloudsql/... is not mounted and the Cloud SQL connector is not installed",
            hint="pip install 'thea-database[cloudsql]', or mount the instance's socket",
        ) from error
    credentials, _ = await asyncio.to_thread(google.auth.default)  # it may wait seconds for a metadata server
    # Lazy: its background refresh is one task for all callers, which the first cancelled caller cancels for good.
    return await create_async_connector(credentials=credentials, refresh_strategy="lazy")


def _translate(error: Exception, instance: str) -> DatabaseError | None:
    """Turn an error of Google's libraries into ours; None: it is the driver's, or ours already."""
    if isinstance(error, DatabaseError | asyncpg.PostgresError | asyncpg.InterfaceError):
        return None
    if isinstance(error, TimeoutError):
        return ConnectionFailed(
            f"no connection to the Cloud SQL instance {instance}: no answer in time",
            hint="a private address answers inside its VPC alone; else check the network, and that the instance runs",
        )
    from aiohttp import ClientError, ClientResponseError  # noqa: PLC0415 - an extra, imported where it is used

    if isinstance(error, KeyError) and isinstance(error.__context__, Exception):
        error = error.__context__  # two callers failed together, and both took the entry out of the connector's cache
    if isinstance(error, ClientResponseError):
        return _translate_response(error, instance)
    if isinstance(error, ClientError):  # some are OSErrors, which would pass for the driver's
        return ConnectionFailed(
            f"the Cloud SQL Admin API cannot be reached for {instance}: {type(error).__name__}",
            hint="check that this machine reaches sqladmin.googleapis.com",
        )
    return _translate_credentials(error, instance) or _translate_connector(error, instance)


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


def _translate_credentials(error: Exception, instance: str) -> DatabaseError | None:
    from google.auth import exceptions  # noqa: PLC0415 - an extra, imported where it is used

    match error:
        case exceptions.DefaultCredentialsError():
            return AuthenticationFailed(f"there are no Google credentials for {instance}", hint=_LOG_IN)
        case exceptions.TransportError():
            return ConnectionFailed(
                f"Google's sign-in cannot be reached for {instance}",
                hint="check that this machine reaches googleapis.com",
            )
        case exceptions.GoogleAuthError():
            return AuthenticationFailed(f"the Google credentials for {instance} no longer hold", hint=_LOG_IN)
    return None


def _translate_connector(error: Exception, instance: str) -> DatabaseError | None:
    from google.cloud.sql.connector import exceptions  # noqa: PLC0415 - an extra, imported where it is used

    match error:
        case exceptions.IncompatibleDriverError():
            return ConfigurationError(f"the Cloud SQL instance {instance} is no PostgreSQL", hint=_NAME)
        case exceptions.CloudSQLIPTypeError():
            return ConnectionFailed(f"the address of the Cloud SQL instance {instance} has changed", hint="try again")
        case ValueError() if instance in str(error):  # not of the form, or the region is another one
            return ConfigurationError(f"there is no Cloud SQL instance {instance} in that region", hint=_NAME)
        case exceptions.CloudSQLConnectionError() | exceptions.TLSVersionError() | exceptions.ClosedConnectorError():
            return ConnectionFailed(
                f"no connection to the Cloud SQL instance {instance}: {type(error).__name__}", hint="try again"
            )
        case OSError():
            return None
    return ConnectionFailed(
        f"no connection to the Cloud SQL instance {instance}: its connector failed with {type(error).__name__}"
    )
