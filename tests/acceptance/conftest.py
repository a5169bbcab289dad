"""Servers for the commands: one with passwords, a silent one, one with TLS."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database import engine
from src.database.embedded import EmbeddedServer
from src.database.session.scopes import read_engine
from tests.acceptance.command import CANARY
from tests.acceptance.counting_relay import Relay, relaying
from tests.conftest import HAS_ROOM, MEMORY, SOCKETS
from tests.database.connect.certificates import Certificates
from tests.database.connect.tls_proxy import TlsProxy, running


@pytest.fixture(scope="session")
def servers_folder() -> Iterator[Path]:
    """The folder of servers that tests start. As root, servers run as another user, which cannot enter pytest's."""
    with tempfile.TemporaryDirectory(prefix="thea-", dir=MEMORY if HAS_ROOM else None) as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.fixture(scope="session")
def password_server(servers_folder: Path) -> Iterator[EmbeddedServer]:
    """A server over TCP that requires scram-sha-256."""
    server = EmbeddedServer(servers_folder / "password", over_tcp=True)
    server.acquire()
    yield server
    server.release()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def tls_server(certificates: Certificates) -> Iterator[TlsProxy]:
    """The suite's server behind TLS, on a loopback port."""
    with running(TlsProxy(f"{SOCKETS}/.s.PGSQL.5432", certificates.contexts["right CA"])) as proxy:
        yield proxy


@pytest.fixture
def silent_port() -> Iterator[int]:
    """The port of a server that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def secret_url(password_server: EmbeddedServer) -> str:
    """The URL of the server with passwords, with a wrong password."""
    return f"postgresql://thea_app:{CANARY}@127.0.0.1:{password_server.target().port}/thea"


@pytest.fixture
async def relay(cloned_database: URL, use_database: Callable[..., Settings]) -> AsyncIterator[Relay]:
    """A relay between `get_db` and its server; each engine has a pool of one connection."""
    async with relaying(SOCKETS) as relay:
        use_database(relay.lead_to(cloned_database))
        yield relay
        await engine.dispose()
        await read_engine.dispose()
