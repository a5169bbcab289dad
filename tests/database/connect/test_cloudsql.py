"""Cloud SQL: the arguments of the connector, the translation of its errors, and the installed release."""

from __future__ import annotations

import asyncio
import inspect
import ssl
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import asyncpg
import google.auth
import pytest
from aiohttp import ClientConnectorError, ClientResponseError, RequestInfo
from aiohttp.client_reqrep import ConnectionKey
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError
from google.cloud.sql.connector import exceptions
from google.cloud.sql.connector.client import CloudSQLClient
from google.cloud.sql.connector.connection_info import ConnectionInfo
from google.cloud.sql.connector.connection_name import ConnectionName
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from src.database.connect import cloudsql
from src.database.connect.cloudsql import CloudSqlConnector, is_mounted
from src.database.embedded import SUPERUSER
from src.database.errors import AuthenticationFailed, ConfigurationError, ConnectionFailed, DatabaseError
from src.database.target import Host
from tests.conftest import SOCKETS

INSTANCE = "project:region:instance"
CANARY = "ya29.bearer-token"
NO_ADDRESS = exceptions.CloudSQLIPTypeError("no IP addresses matching preference")


@dataclass
class Double:
    """A connector that connects to the embedded server."""

    fail: Callable[[dict[str, Any]], BaseException | None] = lambda _asked: None
    asked: list[dict[str, Any]] = field(default_factory=list)
    closed: int = 0

    async def connect_async(self, instance: str, driver: str, **arguments: Any) -> asyncpg.Connection[Any]:
        assert (instance, driver) == (INSTANCE, "asyncpg")
        self.asked.append(dict(arguments))
        await asyncio.sleep(0)
        if error := self.fail(arguments):
            raise error
        arguments.pop("ip_type")
        arguments.pop("enable_iam_auth", None)
        return await asyncpg.connect(host=SOCKETS, database=arguments.pop("db"), **arguments)

    async def close_async(self) -> None:
        self.closed += 1


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Double]:
    """The doubles that were created; a test expects one."""
    doubles: list[Double] = []

    async def create() -> Double:
        await asyncio.sleep(0)
        doubles.append(Double())
        return doubles[-1]

    monkeypatch.setattr(cloudsql, "_create_connector", create)
    return doubles


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], Double]:
    """Make every connection fail."""

    def fail(error: BaseException) -> Double:
        double = Double(fail=lambda _asked: error)
        monkeypatch.setattr(cloudsql, "_create_connector", AsyncMock(return_value=double))
        return double

    return fail


async def connect(connector: CloudSqlConnector, *, password: str | None = None, **others: Any) -> dict[str, Any]:
    """Open a connection; return its user and its name."""
    connect_seconds = others.pop("timeout", 30)
    connection = await connector.connect(
        user=SUPERUSER, password=password, database=SUPERUSER, connect_seconds=connect_seconds, **others
    )
    try:
        return dict(
            await connection.fetchrow("SELECT current_user AS name, current_setting('application_name') AS app")
        )
    finally:
        await connection.close()


def test_finds_a_mounted_socket(tmp_path: Path) -> None:
    (tmp_path / ".s.PGSQL.5432").touch()

    assert is_mounted(Host(str(tmp_path)))
    assert not is_mounted(Host(str(tmp_path), 5433))
    assert not is_mounted(Host(f"/cloudsql/{INSTANCE}"))


async def test_passes_the_password_and_the_drivers_arguments_on(made: list[Double]) -> None:
    arguments = {
        "timeout": 5,
        "command_timeout": 7,
        "statement_cache_size": 0,
        "server_settings": {"application_name": "thea"},
    }

    answer = await connect(CloudSqlConnector(INSTANCE), password="it-is-secret", **arguments)

    assert answer == {"name": SUPERUSER, "app": "thea"}
    assert made[0].asked == [
        {"user": SUPERUSER, "password": "it-is-secret", "db": SUPERUSER, "ip_type": "PUBLIC", **arguments}
    ]


@pytest.mark.parametrize("password", [None, ""])
async def test_uses_iam_without_a_password(made: list[Double], password: str | None) -> None:
    await connect(CloudSqlConnector(INSTANCE), password=password)

    assert made[0].asked[0]["enable_iam_auth"] is True
    assert "password" not in made[0].asked[0]
    assert made[0].asked[0]["timeout"] == 30


async def test_connections_share_one_connector_until_it_is_closed(made: list[Double]) -> None:
    connector = CloudSqlConnector(INSTANCE)

    await asyncio.gather(*(connect(connector) for _ in range(10)))
    await connector.close()
    await connector.close()
    await connect(connector)

    assert [double.closed for double in made] == [1, 0]


def test_can_be_used_in_another_event_loop(made: list[Double]) -> None:
    connector = CloudSqlConnector(INSTANCE)

    for _ in range(2):
        asyncio.run(connect(connector))

    assert len(made) == 2


@pytest.mark.parametrize("has", ["PUBLIC", "PRIVATE", "PSC"])
async def test_finds_the_address_that_the_instance_has(made: list[Double], has: str) -> None:
    connector = CloudSqlConnector(INSTANCE)
    await connect(connector)
    made[0].fail = lambda asked: None if asked["ip_type"] == has else NO_ADDRESS

    await connect(connector)
    tried = len(made[0].asked)
    await asyncio.gather(*(connect(connector) for _ in range(5)))

    assert {asked["ip_type"] for asked in made[0].asked[tried:]} == {has}


async def test_reports_an_instance_without_an_address(failing: Callable[[BaseException], Double]) -> None:
    failing(NO_ADDRESS)

    with pytest.raises(ConfigurationError, match=f"{INSTANCE} has no address"):
        await connect(CloudSqlConnector(INSTANCE))


def response(status: int, message: str = "") -> ClientResponseError:
    url = URL("https://sqladmin.googleapis.com/")
    headers = CIMultiDictProxy(CIMultiDict({"Authorization": f"Bearer {CANARY}"}))
    return ClientResponseError(RequestInfo(url, "GET", headers, url), (), status=status, message=message)


def of_two_callers(error: Exception) -> KeyError:
    """Return the error of the second of two callers, after the first has removed their entry from the cache."""
    made = KeyError((INSTANCE, False))
    made.__context__ = error
    return made


UNREACHABLE = ClientConnectorError(
    ConnectionKey("sqladmin", 443, True, True, None, None, None), OSError(111, "Connection refused")
)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (response(401), AuthenticationFailed, "gcloud auth application-default login"),
        (response(403, "Not authorized"), AuthenticationFailed, "roles/cloudsql.client"),
        (response(403, "SQL Admin API has not been used in project 1"), ConfigurationError, "sqladmin.googleapis.com"),
        (response(404, "instance does not exist"), ConfigurationError, "there is no Cloud SQL instance"),
        (response(503), ConnectionFailed, "answered 503"),
        (of_two_callers(response(404)), ConfigurationError, "there is no Cloud SQL instance"),
        (UNREACHABLE, ConnectionFailed, "the Cloud SQL Admin API cannot be reached"),
        (DefaultCredentialsError("none"), AuthenticationFailed, "gcloud auth application-default login"),
        (RefreshError("invalid_grant", {"token": CANARY}), AuthenticationFailed, "no longer valid"),
        (TransportError("no route"), ConnectionFailed, "sign-in cannot be reached"),
        (exceptions.IncompatibleDriverError("mysql"), ConfigurationError, "is not PostgreSQL"),
        (exceptions.CloudSQLConnectionError("no CA"), ConnectionFailed, "CloudSQLConnectionError"),
        (ValueError(f"[{INSTANCE}]: Provided region was mismatched"), ConfigurationError, "in that region"),
        (TimeoutError(), ConnectionFailed, "no answer in time"),
    ],
)
async def test_translates_an_error_of_google_with_a_remedy(
    failing: Callable[[BaseException], Double], error: Exception, kind: type[DatabaseError], text: str
) -> None:
    failing(error)

    with pytest.raises(kind) as caught:
        await connect(CloudSqlConnector(INSTANCE), password=CANARY)

    assert type(caught.value) is kind
    assert text in str(caught.value)
    assert INSTANCE in str(caught.value)
    assert caught.value.hint
    assert CANARY not in "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "error", [asyncpg.InvalidPasswordError("x"), asyncpg.InterfaceError("x"), ConnectionRefusedError(), ssl.SSLError()]
)
async def test_raises_the_drivers_errors_unchanged(
    failing: Callable[[BaseException], Double], error: Exception
) -> None:
    failing(error)

    with pytest.raises(type(error)) as caught:
        await connect(CloudSqlConnector(INSTANCE))

    assert caught.value is error


async def test_the_time_limit_includes_googles_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloudsql, "_create_connector", asyncio.Event().wait)

    with pytest.raises(ConnectionFailed, match="no answer in time"):
        await connect(CloudSqlConnector(INSTANCE), timeout=0.05)


async def test_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud.sql.connector", None)

    with pytest.raises(ConfigurationError, match=r"pip install 'thea-database\[cloudsql\]'"):
        await connect(CloudSqlConnector(INSTANCE))


@pytest.mark.parametrize("password", ["it-is-secret", None])
async def test_the_installed_connector_accepts_the_arguments(
    monkeypatch: pytest.MonkeyPatch, password: str | None
) -> None:
    """Google's API and asyncpg are replaced; the code between them is the installed release."""
    asked: list[dict[str, Any]] = []
    real = inspect.signature(asyncpg.connect)

    async def play(*_: object, **arguments: Any) -> object:
        asked.append(real.bind(**arguments).arguments)
        return object()

    info = ConnectionInfo(
        *(ConnectionName(*INSTANCE.split(":")), "", "", b"", {"PRIVATE": ["10.0.0.1"]}, "POSTGRES_17"),
        expiration=AsyncMock(),
    )
    monkeypatch.setattr(google.auth, "default", lambda: (AnonymousCredentials(), None))
    get_info = AsyncMock(return_value=info, spec=CloudSQLClient.get_connection_info)
    monkeypatch.setattr(CloudSQLClient, "get_connection_info", get_info)
    monkeypatch.setattr(ConnectionInfo, "create_ssl_context", AsyncMock())
    monkeypatch.setattr(asyncpg, "connect", play)
    connector = CloudSqlConnector(INSTANCE)

    await connector.connect(
        user="thea@project.iam",
        password=password,
        database="thea",
        connect_seconds=5,
        command_timeout=7,
        statement_cache_size=0,
        server_settings={"application_name": "thea"},
    )
    await connector.close()

    assert get_info.call_args.args[-1] is (password is None)
    (arguments,) = asked
    assert (arguments["host"], arguments["user"], arguments["database"]) == ("10.0.0.1", "thea@project.iam", "thea")
    assert (arguments["timeout"], arguments["command_timeout"], arguments["statement_cache_size"]) == (5, 7, 0)
    assert arguments["server_settings"] == {"application_name": "thea"}
    assert arguments["password"] == password
