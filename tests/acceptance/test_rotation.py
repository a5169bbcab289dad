"""The run-book of password rotation: no request fails meanwhile, and the old role cannot log in afterwards."""

from __future__ import annotations

import asyncio
import shutil
import sys
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import NullPool

from src.config import Settings
from src.database import create_engine
from src.database.embedded import APP_ROLE, DATABASE, OWNER_ROLE, SERVER_PARAMETERS, SUPERUSER, EmbeddedServer
from src.database.embedded.process import chown_to_server
from src.database.errors import AuthenticationFailed, ConfigurationError
from src.database.migrate import upgrade
from src.database.session import AsyncSession, TenantBinding
from tests.acceptance.runbooks import blocks, perform, quick_folder

NEW = "n3w-p4ss wörd's"
ONE, OTHER = UUID(int=1), UUID(int=2)

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash to run the commands with")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[EmbeddedServer]:
    """A migrated server with passwords, and a user for each of two tenants."""
    server = EmbeddedServer(folder / "server", over_tcp=True, config=SERVER_PARAMETERS)
    server.acquire()
    asyncio.run(upgrade(Settings(ENVIRONMENT="test", DATABASE_URL=url_of(server, OWNER_ROLE))))
    with superuser(server) as connection:
        for tenant in (ONE, OTHER):
            connection.execute("INSERT INTO tenants (id, slug, name) VALUES (%s, %s, 'x')", [tenant, f"t{tenant.int}"])
            connection.execute("INSERT INTO users (tenant_id, id) VALUES (%s, gen_random_uuid())", [tenant])
        connection.execute(f"ALTER ROLE {APP_ROLE} SET statement_timeout = '7s'")
        connection.execute(f'ALTER ROLE {APP_ROLE} IN DATABASE {DATABASE} SET search_path = public, "Ñ"')
    yield server
    server.release()


def url_of(server: EmbeddedServer, user: str, password: str | None = None) -> URL:
    target = server.target_as(user, DATABASE)
    host = target.hosts[0]
    return URL.create("postgresql", user, password or target.password, host.name, host.port, DATABASE)


def superuser(server: EmbeddedServer) -> psycopg.Connection:
    url = url_of(server, SUPERUSER)
    return psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)


def engine_of(url: URL) -> AsyncEngine:
    return create_engine(Settings(ENVIRONMENT="test", DATABASE_URL=url), poolclass=NullPool)


@asynccontextmanager
async def engine(url: URL) -> AsyncIterator[AsyncEngine]:
    made = engine_of(url)
    yield made
    await made.dispose()


async def login(url: URL) -> str:
    """Read the user of the own tenant on a new connection, as a request does."""
    async with engine(url) as made, AsyncSession(bind=made, binding=TenantBinding(ONE)) as session:
        assert await session.scalar(text("SELECT count(*) FROM users")) == 1
        return str(await session.scalar(text("SELECT current_user")))


async def test_no_request_fails_while_the_roles_change(server: EmbeddedServer, folder: Path) -> None:
    steps = blocks("rotate-a-password")
    set_password, check, close = steps["Each time"]
    last, following = url_of(server, APP_ROLE), url_of(server, f"{APP_ROLE}_b", NEW)
    in_use, served, is_over = last, [], False

    async def serve() -> None:
        while not is_over:
            served.append(await login(in_use))

    def run(block: str, typed: str = "") -> str:
        host = server.target().hosts[0]
        shell = folder / "shell"
        shell.mkdir(exist_ok=True)
        chown_to_server(shell)
        variables = {
            "PGHOST": host.name,
            "PGPORT": str(host.port),
            "PGPASSWORD": url_of(server, SUPERUSER).password or "",
            "LAST": APP_ROLE,
            "NEXT": f"{APP_ROLE}_b",
        }
        return perform(block, folder=shell, typed=typed, variables=variables)

    requests = asyncio.create_task(serve())
    await asyncio.to_thread(run, steps["Once: create a second role"][0])
    await asyncio.to_thread(run, set_password, f"{NEW}\n{NEW}\n")
    in_use = following
    await asyncio.sleep(0.2)
    assert APP_ROLE not in {line.strip() for line in run(check).splitlines()}
    await asyncio.to_thread(run, close)
    await asyncio.sleep(0.2)
    is_over = True
    await requests  # raises the error of any request

    assert set(served) == {APP_ROLE, f"{APP_ROLE}_b"}
    with pytest.raises(AuthenticationFailed):
        await login(last)
    with superuser(server) as connection:
        settings = "SELECT setdatabase = 0, setconfig FROM pg_db_role_setting WHERE setrole = %s::regrole ORDER BY 1"
        assert (
            connection.execute(settings, [f"{APP_ROLE}_b"]).fetchall()
            == connection.execute(settings, [APP_ROLE]).fetchall()
        )
        [(verifier,)] = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'thea_app_b'").fetchall()
        assert verifier.startswith("SCRAM-SHA-256$")


async def test_with_one_role_open_connections_continue_and_new_ones_fail(server: EmbeddedServer) -> None:
    """The reason for two roles."""
    old, new = (url_of(server, "alone", password) for password in ("0ne", "an0ther"))
    with superuser(server) as admin:
        admin.execute(f"CREATE ROLE alone LOGIN PASSWORD '0ne' IN ROLE {APP_ROLE}")
        async with engine(old) as made, made.connect() as connection:
            assert await connection.scalar(text("SELECT 1")) == 1
            admin.execute("ALTER ROLE alone PASSWORD 'an0ther'")

            assert await connection.scalar(text("SELECT current_user")) == "alone"
            with pytest.raises(AuthenticationFailed):
                await login(old)
            assert await login(new) == "alone"


class Vault:
    """A password store that returns its passwords in order, and then always the last one."""

    def __init__(self, *passwords: str) -> None:
        self.passwords = list(passwords)
        self.asked: list[tuple[str, str, int]] = []

    def ask(self, user: str, host: str, port: int) -> str:
        self.asked.append((user, host, port))
        return self.passwords.pop(0) if len(self.passwords) > 1 else self.passwords[0]

    async def ask_slowly(self, user: str, host: str, port: int) -> str:
        await asyncio.sleep(0)
        return self.ask(user, host, port)


@pytest.fixture
def rotated(server: EmbeddedServer) -> Iterator[tuple[URL, psycopg.Connection]]:
    """A role whose password changes, in a URL without a password."""
    with superuser(server) as admin:
        admin.execute(f"CREATE ROLE rotated LOGIN PASSWORD '0ne' IN ROLE {APP_ROLE}")
        host = server.target().hosts[0]
        yield URL.create("postgresql", "rotated", host=host.name, port=host.port, database=DATABASE), admin
        admin.execute("DROP ROLE rotated")


@pytest.mark.slow
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_password_provider_is_called_for_each_connection(
    rotated: tuple[URL, psycopg.Connection], is_async: bool
) -> None:
    url, admin = rotated
    vault = Vault("0ne")
    settings = Settings(ENVIRONMENT="test", DATABASE_URL=url)
    made = create_engine(settings, poolclass=NullPool, password=vault.ask_slowly if is_async else vault.ask)

    async with made.connect() as connection:
        assert await connection.scalar(text("SELECT current_user")) == "rotated"
    admin.execute("ALTER ROLE rotated PASSWORD 'an0ther'")
    vault.passwords = ["an0ther"]
    async with made.connect() as connection:
        assert await connection.scalar(text("SELECT current_user")) == "rotated"

    assert vault.asked == [("rotated", url.host, url.port)] * 2
    await made.dispose()


async def test_a_password_provider_is_called_again_after_a_rejected_password(
    rotated: tuple[URL, psycopg.Connection],
) -> None:
    url, _ = rotated
    vault = Vault("stale-canary", "0ne")
    made = create_engine(Settings(ENVIRONMENT="test", DATABASE_URL=url), poolclass=NullPool, password=vault.ask)

    async with made.connect() as connection:
        assert await connection.scalar(text("SELECT current_user")) == "rotated"

    assert len(vault.asked) == 2
    vault.passwords = ["rejected-canary"]
    with pytest.raises(AuthenticationFailed) as refused:
        async with made.connect():
            pass
    assert "canary" not in "".join(traceback.format_exception(refused.value))
    assert "canary" not in repr(made)
    await made.dispose()


@pytest.mark.slow
async def test_the_provider_of_the_setting_is_called_if_the_url_has_no_password(
    rotated: tuple[URL, psycopg.Connection], server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = rotated
    vault = Vault("0ne")
    monkeypatch.setitem(sys.modules, "a_vault", SimpleNamespace(ask=vault.ask))
    for each in (url, url_of(server, OWNER_ROLE)):
        settings = Settings(ENVIRONMENT="test", DATABASE_URL=each, DATABASE_PASSWORD_PROVIDER="a_vault:ask")
        made = create_engine(settings, poolclass=NullPool)
        async with made.connect() as connection:
            assert await connection.scalar(text("SELECT current_user")) == each.username
        await made.dispose()

    assert [user for user, _, _ in vault.asked] == ["rotated"], "a password in the URL takes precedence"


@pytest.mark.parametrize("fault", ["raises", "hangs", "returns nothing"])
async def test_a_failing_provider_is_named_without_its_message(
    rotated: tuple[URL, psycopg.Connection], fault: str
) -> None:
    async def ask(_user: str, _host: str, _port: int) -> str:
        if fault == "hangs":
            await asyncio.sleep(60)
        if fault == "raises":
            raise RuntimeError("canary")
        return ""

    settings = Settings(ENVIRONMENT="test", DATABASE_URL=rotated[0], DATABASE_CONNECT_TIMEOUT=0.5)
    made = create_engine(settings, poolclass=NullPool, password=ask)

    with pytest.raises(ConfigurationError if fault == "returns nothing" else AuthenticationFailed) as failed:
        async with made.connect():
            pass

    chain = "".join(traceback.format_exception(failed.value))
    assert "the password provider" in chain
    assert "canary" not in chain.replace('RuntimeError("canary")', "")
    await made.dispose()


@pytest.mark.parametrize("name", ["nowhere:ask", "src.config:nothing"])
def test_a_setting_that_names_no_function_is_an_error(name: str) -> None:
    url = URL.create("postgresql", "u", host="h", database="d")
    settings = Settings(ENVIRONMENT="test", DATABASE_URL=url, DATABASE_PASSWORD_PROVIDER=name)

    with pytest.raises(ConfigurationError, match="DATABASE_PASSWORD_PROVIDER must be module:function"):
        create_engine(settings)


@pytest.mark.parametrize("name", ["no function", "module", "module:", "a b:c", "module:f()"])
def test_a_malformed_provider_is_rejected_with_the_settings(name: str) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_PASSWORD_PROVIDER must be module:function"):
        Settings(ENVIRONMENT="test", DATABASE_PASSWORD_PROVIDER=name)
