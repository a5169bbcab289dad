"""get_connect_arguments: each route with both drivers, and another library's tables beside ours."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import asyncpg
import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import URL, make_url

from src.config import Settings
from src.database import engine, get_connect_arguments, get_db, tenant_context
from src.database.base import uuid7
from src.database.connect import Driver, asyncpg_arguments, psycopg_arguments
from src.database.drift import verify
from src.database.embedded import APP_ROLE, OWNER_ROLE, embedded_server
from src.database.errors import ConfigurationError, TunnelFailed
from src.database.migrate import upgrade
from src.database.models import Tenant, User
from src.database.session import forget_settings
from src.database.target import Host, Target, parse_url
from tests.acceptance.pgbouncer import PROGRAM, pgbouncer
from tests.conftest import SOCKETS, url_of
from tests.database.connect.certificates import Certificates
from tests.database.connect.gateway import SERVER, Gateway
from tests.database.connect.tls_proxy import TlsProxy, running

DRIVERS = get_args(Driver)
CANARY = "c4n4ry"
QUERY = (
    "SELECT current_user::text || ' ' || current_database() || ' ' || current_setting('statement_timeout')"
    " || ' ' || split_part(current_setting('application_name'), '/', 3)"
)


async def ask(driver: Driver, query: str = QUERY, **options: Any) -> Any:
    arguments = await get_connect_arguments(driver, **options)
    if driver == "asyncpg":
        connection = await asyncpg.connect(**arguments)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()
    async with await psycopg.AsyncConnection.connect(**arguments) as opened:
        row = await (await opened.execute(query.encode())).fetchone()
        return row and row[0]


@pytest.mark.parametrize("driver", DRIVERS)
async def test_both_drivers_connect_with_the_limits_of_the_settings(driver: Driver, cloned_database: URL) -> None:
    name = cloned_database.database

    assert await ask(driver) == f"{APP_ROLE} {name} 30s {driver}"


@pytest.mark.parametrize("driver", DRIVERS)
async def test_the_search_path_of_the_url_is_passed_on(
    driver: Driver, cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    use_database(cloned_database.update_query_dict({"options": '-csearch_path="Other",public'}))

    assert await ask(driver, "SHOW search_path") == '"Other",public'


async def test_the_embedded_server_is_started_and_kept(used_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("DATABASE_EMBEDDED_DIR", str(used_folder))
    forget_settings()
    try:
        for driver in DRIVERS:
            assert await ask(driver) == f"{APP_ROLE} thea 30s {driver}"
        owner = await asyncpg.connect(**await get_connect_arguments("asyncpg", purpose="migrations"))
        await owner.execute("CREATE TABLE jobs (id bigserial, name text)")
        await owner.close()
        assert await ask("psycopg", "INSERT INTO jobs (name) VALUES ('a') RETURNING id") == 1
        assert embedded_server(used_folder).is_running()
    finally:
        await asyncio.to_thread(embedded_server(used_folder).release)
        monkeypatch.undo()
        forget_settings()


@pytest.fixture
def through(gateway: Gateway, use_database: Callable[..., Settings]) -> Callable[[str], Settings]:
    """A function that sets a URL behind the gateway."""

    def use(url: str, **more: str) -> Settings:
        made = gateway.settings()
        return use_database(
            make_url(url),
            DATABASE_CONNECT_TIMEOUT="5",
            DB_SSH_HOST=made.host,
            DB_SSH_PORT=str(made.port),
            DB_SSH_USER=str(made.user),
            DB_SSH_KEY=str(made.key),
            DB_SSH_KNOWN_HOSTS=str(made.known_hosts),
            **{"DB_SSH_TUNNEL": "true", **more},
        )

    return use


THROUGH = f"postgresql://{APP_ROLE}:{CANARY}@{SERVER.name}/postgres"


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_pool_continues_after_the_tunnel_dropped(
    driver: Driver, gateway: Gateway, through: Callable[[str], Settings], temporary_files: Path
) -> None:
    through(THROUGH)
    arguments = await get_connect_arguments(driver)

    for _ in range(2):
        if driver == "asyncpg":
            connection = await asyncpg.connect(**arguments)
            assert await connection.fetchval("SELECT 42") == 42
        else:
            opened = await psycopg.AsyncConnection.connect(**arguments)
            assert await (await opened.execute("SELECT 42")).fetchone() == (42,)
        await gateway.drop()
        if driver == "asyncpg":
            connection.terminate()
        else:
            await opened.close()
    assert await get_connect_arguments(driver) == arguments, "the address stays the same"
    assert gateway.logins >= 2

    await engine.dispose()
    assert list(temporary_files.iterdir()) == [], "the local address ends with the engine"  # noqa: ASYNC240 - closed


async def test_a_synchronous_driver_connects_through_the_tunnel_in_a_thread(
    through: Callable[[str], Settings],
) -> None:
    through(THROUGH)
    arguments = await get_connect_arguments("psycopg")

    def run() -> Any:
        with psycopg.connect(**arguments) as connection:
            return connection.execute("SELECT 42").fetchone()

    assert await asyncio.to_thread(run) == (42,)
    await engine.dispose()


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_gateway_that_does_not_answer_is_reported(
    driver: Driver, gateway: Gateway, through: Callable[[str], Settings]
) -> None:
    through(THROUGH)
    await gateway.stop()

    with pytest.raises(TunnelFailed):
        await get_connect_arguments(driver)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    "case",
    [(False, "localhost"), (False, "elsewhere"), (True, "localhost"), (True, "elsewhere")],
)
async def test_verify_full_checks_the_name_of_the_server(
    driver: Driver,
    case: tuple[bool, str],
    gateway: Gateway,
    through: Callable[..., Settings],
    tmp_path: Path,
) -> None:
    is_tunneled, issued_for = case
    certificates = Certificates(tmp_path)
    context = certificates.context(certificates.ca.issue_cert(issued_for))
    with running(TlsProxy(f"{SOCKETS}/.s.PGSQL.5432", context)) as proxy:
        url = (
            f"postgresql://{APP_ROLE}:{CANARY}@localhost:{proxy.port}/postgres"
            f"?sslmode=verify-full&sslrootcert={certificates.ca_file}"
        )
        through(url, DB_SSH_TUNNEL=str(is_tunneled))

        if issued_for == "localhost":
            assert await ask(driver, "SELECT 42") == 42
            assert proxy.was_encrypted == [True]
        else:
            with pytest.raises(
                (ssl.SSLError, psycopg.OperationalError), match=r"not valid for 'localhost'|does not match"
            ):
                await ask(driver)
        await engine.dispose()
        # The end of the proxy blocks the event loop until the gateway, in the same loop, has closed its connection.
        await gateway.stop()


@pytest.mark.parametrize("driver", DRIVERS)
async def test_no_prepared_statement_and_no_startup_parameter_behind_pgbouncer(
    driver: Driver, cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    if PROGRAM is None:
        pytest.skip("pgbouncer is not installed: apt install pgbouncer")
    with pgbouncer(SOCKETS, pool_size=1) as started:
        use_database(started.url(str(cloned_database.database)), DATABASE_PGBOUNCER="true")

        for _ in range(8):  # psycopg prepares a statement at its sixth use
            assert await ask(driver, "SELECT 42") == 42
        arguments = await get_connect_arguments(driver)
        assert arguments["statement_cache_size" if driver == "asyncpg" else "prepare_threshold"] in {0, None}


async def provide(user: str, host: str, port: int) -> str:
    """Return a password that counts the calls."""
    CALLS.append((user, host, port))
    return f"{CANARY}-{len(CALLS)}"


CALLS: list[tuple[str, str, int]] = []


async def test_passwords_come_from_the_provider_and_are_in_no_text(use_database: Callable[..., Settings]) -> None:
    CALLS.clear()
    use_database(
        parse_url("postgresql://u@a:1,b:2/d"),
        DATABASE_PASSWORD_PROVIDER=f"{__name__}:provide",
        DATABASE_SSL_MODE="require",
    )

    for_psycopg = await get_connect_arguments("psycopg")
    for_asyncpg = await get_connect_arguments("asyncpg")

    assert (for_psycopg["password"], CALLS) == (f"{CANARY}-1", [("u", "a", 1)])
    assert await for_asyncpg["password"]() == f"{CANARY}-2"
    assert (for_psycopg["host"], for_psycopg["port"]) == ("a,b", "1,2")
    assert (for_asyncpg["host"], for_asyncpg["port"]) == (["a", "b"], [1, 2])
    assert CANARY not in f"{for_psycopg}{for_psycopg!r}{for_asyncpg}{for_asyncpg!r}"


@pytest.mark.parametrize("driver", DRIVERS)
async def test_the_cloud_sql_connector_is_refused_with_the_remedy(
    driver: Driver, use_database: Callable[..., Settings]
) -> None:
    use_database(make_url("postgresql://u:p@/d?host=/cloudsql/project:region:instance"))

    with pytest.raises(ConfigurationError, match=f"{driver} cannot use the Cloud SQL connector") as refused:
        await get_connect_arguments(driver)
    assert "cloud-sql-proxy --unix-socket /cloudsql project:region:instance" in str(refused.value.hint)


async def test_several_names_behind_one_tunnel_are_refused_for_asyncpg_alone(gateway: Gateway) -> None:
    hosts, near = (Host("a"), Host("b")), (Host("127.0.0.1", 1), Host("127.0.0.1", 2))
    target = Target(hosts=hosts, database="d", user="u", ssl_mode="verify-full", ssh=gateway.settings())

    with pytest.raises(ConfigurationError, match="asyncpg checks one name for all hosts"):
        asyncpg_arguments(target, near)
    made = psycopg_arguments(target, near)
    assert (made["host"], made["hostaddr"], made["port"]) == ("a,b", "127.0.0.1,127.0.0.1", "1,2")


async def test_another_driver_is_refused() -> None:
    with pytest.raises(ValueError, match="driver must be one of asyncpg, psycopg, got 'pg8000'"):
        await get_connect_arguments("pg8000")  # type: ignore[arg-type]


CHECKPOINTS = """
CREATE TABLE checkpoint_migrations (v integer PRIMARY KEY);
CREATE TABLE checkpoints (thread_id text NOT NULL, id text NOT NULL, checkpoint jsonb, PRIMARY KEY (thread_id, id));
"""


async def test_the_tables_of_a_checkpointer_stay_through_every_command(
    superuser: psycopg.Connection, clone_name: str, use_database: Callable[..., Settings]
) -> None:
    """LangGraph's `setup()` creates its tables as the owner, and the service uses them."""
    superuser.execute(f"ALTER DATABASE {clone_name} OWNER TO {OWNER_ROLE}")
    owner_url = url_of(clone_name, OWNER_ROLE).render_as_string(hide_password=False)
    settings = use_database(url_of(clone_name), DATABASE_MIGRATION_URL=owner_url)
    as_owner = await get_connect_arguments("psycopg", purpose="migrations")
    async with await psycopg.AsyncConnection.connect(**as_owner) as owner:
        await owner.execute(CHECKPOINTS)

    pool = AsyncConnectionPool(kwargs=partial(get_connect_arguments, "psycopg"), open=False, min_size=1)
    async with pool, pool.connection() as connection:
        await connection.execute("INSERT INTO checkpoints VALUES ('t', '1', '{}')")
    await upgrade(settings)

    assert (await verify(settings)).is_sound
    assert await ask("asyncpg", "SELECT count(*) FROM checkpoints") == 1


@pytest.mark.parametrize("driver", DRIVERS)
async def test_row_level_security_hides_the_rows_of_tenants(driver: Driver, cloned_database: URL) -> None:
    tenant = uuid7()
    async with get_db() as session:
        session.add(Tenant(id=tenant, slug=str(tenant), name="t"))
    with tenant_context(tenant):
        async with get_db() as session:
            session.add(User(display_name="Ada"))

    assert await ask(driver, "SELECT count(*) FROM users") == 0
    bound = f"WITH bound AS MATERIALIZED (SELECT set_config('app.tenant_id', '{tenant}', true))"
    assert await ask(driver, f"{bound} SELECT count(*) FROM bound, users") == 1  # noqa: S608 - our own id
