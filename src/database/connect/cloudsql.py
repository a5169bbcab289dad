"""Cloud SQL where no socket is mounted: connections of Google's connector, and the translation of its errors."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import asyncpg

from src.database.errors import AuthenticationFailed, ConfigurationError, ConnectionFailed, DatabaseError
from src.database.target import Host, Target

if TYPE_CHECKING:
    from aiohttp import ClientResponseError

ADDRESSES: Final = ("PUBLIC", "PRIVATE", "PSC")
"""The connector's names of an instance's addresses; the first that the instance has is used."""

_LOG_IN: Final = "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key's path"
_NAME: Final = "check the name with `gcloud sql instances list`: /cloudsql/<project>:<region>:<instance>"
_RETRY: Final = "connect again"

# The name of the error's class, or Google's HTTP status; our error, its message, its hint. Google's libraries are
# imported only when they are used, so that the classes themselves are not at hand. The first match counts.
_FAILURES: Final[Mapping[str, tuple[type[DatabaseError], str, str]]] = {
    "401": (AuthenticationFailed, "Google refused the credentials for {}", _LOG_IN),
    "403 disabled": (
        ConfigurationError,
        "the Cloud SQL Admin API is not enabled for {}",
        "run `gcloud services enable sqladmin.googleapis.com`, and wait a minute",
    ),
    "403": (
        AuthenticationFailed,
        "these Google credentials may not connect to the Cloud SQL instance {}, or the instance does not exist",
        "grant the role roles/cloudsql.client in the project to the account of these credentials",
    ),
    "404": (ConfigurationError, "there is no Cloud SQL instance {}", _NAME),
    "ClientResponseError": (ConnectionFailed, "the Cloud SQL Admin API answered {error} for {}", _RETRY),
    "TimeoutError": (
        ConnectionFailed,
        "no connection to the Cloud SQL instance {}: no answer in time",
        "connect from inside the VPC if the instance has only a private address; else check that the instance runs",
    ),
    "ClientError": (  # of aiohttp; some of these are OSErrors, as the driver's are
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
    "GoogleAuthError": (AuthenticationFailed, "the Google credentials for {} are no longer valid", _LOG_IN),
    "IncompatibleDriverError": (ConfigurationError, "the Cloud SQL instance {} is not PostgreSQL", _NAME),
    "CloudSQLIPTypeError": (ConnectionFailed, "the address of the Cloud SQL instance {} has changed", _RETRY),
}


def is_mounted(host: Host) -> bool:
    """Return True if the host's socket exists, as Cloud Run mounts it."""
    try:
        return Path(host.socket_path).exists()
    except OSError:  # this user may not enter the folder
        return False


def check_is_mounted(target: Target, program: str) -> None:
    """Check that a program that has no connector can reach the target.

    Args:
        target: The database.
        program: The name of the program or the driver, for the error.

    Raises:
        ConfigurationError: The target is a Cloud SQL instance whose socket is not mounted.
    """
    if target.cloud_sql_instance is not None and not is_mounted(target.hosts[0]):
        raise ConfigurationError(
            f"{target.host} is not mounted here, and {program} cannot use the Cloud SQL connector",
            hint=f"run `cloud-sql-proxy --unix-socket /cloudsql {target.cloud_sql_instance}`, or put the address of"
            " the proxy into the URL",
        )


class CloudSqlConnector:
    """The connector of one engine: created for the first connection, shared by all of them.

    After `close` the next connection creates another connector, as a disposed engine opens another pool.

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
        self, *, user: str, password: str | None, database: str, connect_seconds: float, **driver_arguments: Any
    ) -> asyncpg.Connection[Any]:
        """Open one connection, with the connector's own TLS.

        Args:
            user: The database user.
            password: The user's password. If it is None or empty, the login is that of a Google account (IAM).
            database: The database's name.
            connect_seconds: The time limit of the whole login, Google's API included.
            driver_arguments: Further arguments of `asyncpg.connect`, without the host, the port and TLS.

        Raises:
            ConfigurationError: The instance or its API does not exist, or the connector is not installed.
            AuthenticationFailed: Google refused the credentials.
            ConnectionFailed: Google did not answer. The driver's own errors are raised as they are.
        """
        login = {"password": password} if password else {"enable_iam_auth": True}
        try:
            async with asyncio.timeout(connect_seconds):
                return await self._connect(
                    {**driver_arguments, "timeout": connect_seconds, "user": user, "db": database, **login}
                )
        except Exception as error:
            translated = _translate(error, self._instance)
            if translated is None:
                raise
        # Outside of the except block, so that the error has no cause: the repr of aiohttp's error has the bearer token.
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
                # One connection at a time: if two callers fail together, both remove the instance from the connector's
                # cache, and the second gets a KeyError instead of the reason.
                return await self._connect_to_an_address(connector, arguments)
        return await self._connect_to_an_address(connector, arguments)

    async def _connect_to_an_address(self, connector: Any, arguments: dict[str, Any]) -> asyncpg.Connection[Any]:
        """Connect to the address that was used last, or else to the first that the instance has."""
        from google.cloud.sql.connector.exceptions import (  # noqa: PLC0415 - an extra, imported where it is used
            CloudSQLIPTypeError,
        )

        for address in dict.fromkeys([self._address or ADDRESSES[0], *ADDRESSES]):
            try:
                connection = await connector.connect_async(self._instance, "asyncpg", ip_type=address, **arguments)
            except CloudSQLIPTypeError:
                continue
            self._address = address
            return connection
        raise ConfigurationError(
            f"the Cloud SQL instance {self._instance} has no address",
            hint="give the instance a public or a private address",
        )

    def _enter_loop(self) -> None:
        """Discard the connector of another event loop: a connector works only in the loop that created it."""
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
    credentials, _ = await asyncio.to_thread(google.auth.default)  # may wait seconds for a metadata server
    # The default strategy refreshes in one background task for all callers; the first cancelled caller would cancel it.
    return await create_async_connector(credentials=credentials, refresh_strategy="lazy")


def _translate(error: Exception, instance: str) -> DatabaseError | None:
    """Return our error for one of Google's libraries; None if the error is the driver's or already ours."""
    if isinstance(error, DatabaseError | asyncpg.PostgresError | asyncpg.InterfaceError):
        return None
    if isinstance(error, KeyError) and isinstance(error.__context__, Exception):
        error = error.__context__  # the second of two callers that failed together: see _connect
    keys, shown = [kind.__name__ for kind in type(error).__mro__], type(error).__name__
    if "ClientResponseError" in keys:
        response = cast("ClientResponseError", error)
        shown = str(response.status)
        is_disabled = "has not been used" in response.message or "disabled" in response.message
        keys = [f"{shown} disabled", shown, *keys] if is_disabled else [shown, *keys]
    for key, (kind, message, hint) in _FAILURES.items():
        if key in keys:
            return kind(message.format(instance, error=shown), hint=hint)
    if isinstance(error, ValueError) and instance in str(error):  # a name of another form, or another region
        return ConfigurationError(f"there is no Cloud SQL instance {instance} in that region", hint=_NAME)
    if isinstance(error, OSError):
        return None
    return ConnectionFailed(
        f"no connection to the Cloud SQL instance {instance}: its connector failed with {type(error).__name__}",
        hint=_RETRY,
    )
