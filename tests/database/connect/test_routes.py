"""An engine over each route: the SSH tunnel with and without TLS, Cloud SQL mounted or through its connector."""

from __future__ import annotations

import asyncio
import os
import signal
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from src.config import Settings
from src.database import create_engine
from src.database.connect import cloudsql
from src.database.embedded import APP_ROLE, EmbeddedServer, embedded_server
from src.database.engine import DatabaseEngine
from src.database.engine.pool import SizedPool
from src.database.errors import ConfigurationError, ConnectionFailed, TlsFailed, TunnelFailed
from tests.conftest import SOCKETS
from tests.database.connect.certificates import Certificates
from tests.database.connect.gateway import Gateway, free_port
from tests.database.connect.tls_proxy import TlsProxy, running

CANARY = "c4n4ry-p4ss"
THROUGH = f"postgresql://{APP_ROLE}:{CANARY}@db.internal/postgres"


def settings(gateway: Gateway, url: str = THROUGH, **more: Any) -> Settings:
    made = gateway.settings()
    variables: dict[str, Any] = {
        "ENVIRONMENT": "test",
        "DATABASE_URL": url,
        "DATABASE_CONNECT_TIMEOUT": 5,
        "DB_SSH_TUNNEL": True,
        "DB_SSH_HOST": made.host,
        "DB_SSH_PORT": made.port,
        "DB_SSH_USER": made.user,
        "DB_SSH_KEY": made.key,
        "DB_SSH_KNOWN_HOSTS": made.known_hosts,
    }
    return Settings(**(variables | more))


@asynccontextmanager
async def engine_of(given: Settings) -> AsyncIterator[DatabaseEngine]:
    engine = create_engine(given, poolclass=SizedPool)
    try:
        yield engine
    finally:
        await engine.dispose()


async def run_query(engine: DatabaseEngine) -> Any:
    async with engine.connect() as connection:
        return await connection.scalar(text("SELECT 6 * 7"))


async def test_the_pool_shares_one_tunnel_that_is_closed_with_the_engine(
    gateway: Gateway, temporary_files: Path
) -> None:
    async with engine_of(settings(gateway)) as engine:
        assert gateway.dials == 0, "creating an engine opens no connection"
        assert await asyncio.gather(*(run_query(engine) for _ in range(12))) == [42] * 12
        assert (gateway.dials, len(gateway.connections)) == (1, 1)

    async with asyncio.timeout(5):
        while gateway.connections:  # noqa: ASYNC110 - the gateway has no event for it
            await asyncio.sleep(0.01)
    assert not any(temporary_files.iterdir())  # noqa: ASYNC240 - a moment


@pytest.mark.slow
async def test_a_tunnel_killed_under_load_is_opened_again(gateway: Gateway) -> None:
    failures: list[BaseException] = []
    answers = 0
    is_over = asyncio.Event()

    async def work(engine: DatabaseEngine) -> None:
        nonlocal answers
        while not is_over.is_set():
            try:
                await run_query(engine)
                answers += 1
            except Exception as error:  # noqa: BLE001 - the test checks every error
                failures.append(error)

    async with engine_of(settings(gateway)) as engine:
        workers = [asyncio.create_task(work(engine)) for _ in range(8)]
        for _ in range(3):
            await asyncio.sleep(0.2)
            await gateway.drop()
        await asyncio.sleep(0.2)
        before = answers
        await asyncio.sleep(0.3)
        is_over.set()
        await asyncio.gather(*workers)
        assert answers > before, "the next session connects"

    assert {type(failure) for failure in failures} <= {ConnectionFailed, TunnelFailed}
    assert gateway.logins <= 8
    assert CANARY not in "".join("".join(traceback.format_exception(failure)) for failure in failures)


async def test_a_target_that_refuses_the_gateway_is_named(gateway: Gateway) -> None:
    url = f"postgresql://{APP_ROLE}:{CANARY}@127.0.0.1:{free_port()}/postgres"
    async with engine_of(settings(gateway, url)) as engine:
        with pytest.raises(TunnelFailed, match=r"the SSH gateway .* cannot reach .* nothing listens there") as caught:
            await run_query(engine)

    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("environment", ["test", "staging"])
async def test_the_gateways_own_socket_needs_no_tls(gateway: Gateway, environment: str) -> None:
    url = f"postgresql://{APP_ROLE}:{CANARY}@/postgres?host={SOCKETS}"
    async with engine_of(settings(gateway, url, ENVIRONMENT=environment)) as engine:
        assert await run_query(engine) == 42


async def test_a_refused_login_is_a_failed_tunnel(gateway: Gateway) -> None:
    given = settings(gateway, DB_SSH_KNOWN_HOSTS="/nowhere/known_hosts")
    async with engine_of(given) as engine:
        with pytest.raises(ConfigurationError, match="DB_SSH_KNOWN_HOSTS must be a readable known_hosts file"):
            await run_query(engine)


@pytest.mark.parametrize(("issued_for", "is_taken"), [("localhost", True), ("127.0.0.1", False)])
async def test_verify_full_checks_the_host_and_not_the_local_end_of_the_tunnel(
    gateway: Gateway, tmp_path: Path, issued_for: str, is_taken: bool
) -> None:
    certificates = Certificates(tmp_path)
    context = certificates.context(certificates.ca.issue_cert(issued_for))
    with running(TlsProxy(f"{SOCKETS}/.s.PGSQL.5432", context)) as proxy:
        url = (
            f"postgresql://{APP_ROLE}:{CANARY}@localhost:{proxy.port}/postgres"
            f"?sslmode=verify-full&sslrootcert={certificates.ca_file}"
        )
        async with engine_of(settings(gateway, url, ENVIRONMENT="production")) as engine:
            if is_taken:
                assert await run_query(engine) == 42
                assert proxy.was_encrypted == [True]
            else:
                with pytest.raises(TlsFailed, match="not valid for 'localhost'"):
                    await run_query(engine)


@pytest.mark.slow
async def test_a_killed_embedded_server_is_restarted_by_the_next_session(used_folder: Path) -> None:
    given = Settings(ENVIRONMENT="test", DATABASE_URL=None, DATABASE_EMBEDDED_DIR=used_folder)
    async with engine_of(given) as engine:
        assert await run_query(engine) == 42
        os.kill(int((used_folder / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        await asyncio.sleep(0.2)  # until its sessions have ended
        async with asyncio.timeout(20):
            assert await run_query(engine) == 42
    await asyncio.to_thread(embedded_server(used_folder).release)


@pytest.mark.slow
async def test_an_embedded_server_over_tcp_is_started_by_its_first_session(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows: the port is known only once the server runs."""
    server = EmbeddedServer(folder, over_tcp=True)
    monkeypatch.setattr("src.database.embedded._server_of", lambda _folder: server)
    given = Settings(ENVIRONMENT="test", DATABASE_URL=None, DATABASE_EMBEDDED_DIR=folder)
    async with engine_of(given) as engine:
        assert await run_query(engine) == 42
    await asyncio.to_thread(server.release)


def test_production_refuses_an_unknown_gateway() -> None:
    given = Settings(
        ENVIRONMENT="production",
        DATABASE_URL=THROUGH,
        DB_SSH_TUNNEL=True,
        DB_SSH_HOST="gate",
        DB_SSH_KNOWN_HOSTS="none",
    )
    with pytest.raises(ConfigurationError, match="DB_SSH_KNOWN_HOSTS must name a file"):
        create_engine(given)


class ConnectorDouble:
    """A connector that connects to the test's server, and records its arguments."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.is_closed = False

    async def connect_async(self, instance: str, driver: str, **arguments: Any) -> asyncpg.Connection[Any]:
        self.asked.append((instance, driver, dict(arguments)))
        arguments.pop("ip_type")
        return await asyncpg.connect(host=SOCKETS, database=arguments.pop("db"), **arguments)

    async def close_async(self) -> None:
        self.is_closed = True


@pytest.fixture
def connector(monkeypatch: pytest.MonkeyPatch) -> ConnectorDouble:
    double = ConnectorDouble()

    async def create() -> ConnectorDouble:
        return double

    monkeypatch.setattr(cloudsql, "_create_connector", create)
    return double


async def test_cloud_sql_is_reached_through_its_connector_without_a_mounted_socket(
    connector: ConnectorDouble, cloned_name: str
) -> None:
    url = f"postgresql://{APP_ROLE}:{CANARY}@/{cloned_name}?host=/cloudsql/facturasbst:us-central1:facturas-db"
    async with engine_of(Settings(ENVIRONMENT="production", DATABASE_URL=url)) as engine:
        assert await asyncio.gather(*(run_query(engine) for _ in range(5))) == [42] * 5

    instance, driver, arguments = connector.asked[0]
    assert (instance, driver) == ("facturasbst:us-central1:facturas-db", "asyncpg")
    assert (arguments["user"], arguments["password"], arguments["db"]) == (APP_ROLE, CANARY, cloned_name)
    assert arguments["server_settings"]["application_name"] == f"thea-database/production/default/{os.getpid()}"
    assert arguments["server_settings"]["statement_timeout"] == "30000"
    assert connector.is_closed


async def test_cloud_sql_is_reached_through_a_mounted_socket(
    connector: ConnectorDouble, monkeypatch: pytest.MonkeyPatch, cloned_name: str, short_folder: Callable[[], Path]
) -> None:
    """Cloud Run mounts the socket in /cloudsql; here another folder has the socket of the test's server."""
    mounted = short_folder() / "project:region:instance"
    mounted.symlink_to(SOCKETS)
    monkeypatch.setattr("src.database.target.target.CLOUD_SQL_FOLDER", f"{mounted.parent}/")
    url = f"postgresql://{APP_ROLE}@/{cloned_name}?host={mounted}"
    given = Settings(ENVIRONMENT="production", DATABASE_URL=url)
    async with engine_of(given) as engine:
        assert await run_query(engine) == 42

    assert connector.asked == []


@pytest.fixture
def cloned_name(cloned_database: Any) -> str:
    return str(cloned_database.database)


@pytest.fixture
def short_folder(temporary_files: Path) -> Callable[[], Path]:
    temporary_files.chmod(0o755)
    return lambda: temporary_files
