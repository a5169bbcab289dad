"""create_engine: the pool of each environment, the checks at connect, and translated errors."""

from __future__ import annotations

import asyncio
import os
import socket
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool
from structlog.testing import capture_logs

from src.config import Settings
from src.database import create_engine
from src.database.embedded import SUPERUSER, EmbeddedServer
from src.database.errors import (
    AuthenticationFailed,
    ConfigurationError,
    ConnectionFailed,
    DatabaseError,
    DatabaseMissing,
    LockNotAvailable,
    QueryTimeout,
    SchemaDriftError,
    TlsFailed,
)
from src.database.session import resolve_target
from src.database.target import Target
from tests.conftest import SOCKETS, url_of

CANARY = "c4n4ry"
REMOTE = f"postgresql://thea:{CANARY}@db.example/thea"


def settings_for(environment: str = "test", url: URL | str = REMOTE, **more: Any) -> Settings:
    return Settings(ENVIRONMENT=environment, DATABASE_URL=url, **more)


async def run(engine: AsyncEngine, statement: str) -> Any:
    try:
        async with engine.connect() as connection:
            return await connection.scalar(text(statement))
    finally:
        await engine.dispose()


@pytest.mark.parametrize(
    ("environment", "pool"),
    [
        ("development", NullPool),
        ("test", NullPool),
        ("staging", AsyncAdaptedQueuePool),
        ("production", AsyncAdaptedQueuePool),
    ],
)
def test_the_environment_chooses_the_pool(environment: str, pool: type) -> None:
    assert isinstance(create_engine(settings_for(environment)).pool, pool)


def test_an_argument_chooses_the_pool_and_settings_its_size() -> None:
    engine = create_engine(
        settings_for(DATABASE_POOL_SIZE=3, DATABASE_MAX_OVERFLOW=4, DATABASE_POOL_TIMEOUT=5, DATABASE_POOL_RECYCLE=6),
        poolclass=AsyncAdaptedQueuePool,
    )
    pool = engine.pool

    assert isinstance(pool, AsyncAdaptedQueuePool)
    assert (pool.size(), pool._max_overflow, pool.timeout(), pool._recycle) == (3, 4, 5, 6)


async def test_the_log_of_sqlalchemy_has_statements_without_parameters(
    cloned_database: URL, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_engine(settings_for(url=cloned_database))
    with caplog.at_level("INFO", logger="sqlalchemy.engine"):
        async with engine.connect() as connection:
            await connection.execute(text("SELECT :said"), {"said": CANARY})

    assert "SELECT $1" in caplog.text
    assert CANARY not in caplog.text


def test_migrations_have_a_url_of_their_own() -> None:
    settings = settings_for(DATABASE_MIGRATION_URL="postgresql://owner@other/thea")

    assert resolve_target(settings, purpose="migrations").user == "owner"
    assert resolve_target(settings).user == "thea"


@pytest.fixture
def server_without_tls(open_folder: Path) -> Iterator[Target]:
    """The embedded server over TCP: it is built without OpenSSL."""
    server = EmbeddedServer(open_folder / "postgres", over_tcp=True)
    server.acquire()
    yield server.target()
    server.release()


@pytest.mark.slow
async def test_a_required_tls_does_not_fall_back_to_plaintext(server_without_tls: Target) -> None:
    at = server_without_tls
    url = URL.create("postgresql", at.user, at.password, at.host, at.port, at.database)

    with pytest.raises(TlsFailed, match="does not support TLS"):
        await run(create_engine(settings_for("staging", url)), "SELECT 1")


def test_the_engines_url_has_no_password_at_all() -> None:
    assert CANARY not in create_engine(settings_for()).url.render_as_string(hide_password=False)


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_plaintext_is_refused_in_staging_and_production(environment: str) -> None:
    with pytest.raises(ConfigurationError, match=f"DATABASE_SSL_MODE must be require, .* if ENVIRONMENT={environment}"):
        create_engine(settings_for(environment, DATABASE_SSL_MODE="disable"))
    with pytest.raises(ConfigurationError, match="sslmode in the URL must be"):
        create_engine(settings_for(environment, REMOTE + "?sslmode=disable"))


def test_a_parameter_of_the_url_takes_precedence_over_its_setting() -> None:
    settings = settings_for(
        "staging", REMOTE + "?sslmode=verify-full&application_name=agent", DATABASE_SSL_MODE="require"
    )

    target = resolve_target(settings)

    assert (target.ssl_mode, target.application_name) == ("verify-full", "agent")


def test_remote_environments_require_tls_by_default() -> None:
    assert resolve_target(settings_for("staging")).ssl_mode == "require"
    assert resolve_target(settings_for("development")).ssl_mode == "disable"


async def test_production_refuses_a_role_that_bypasses_row_level_security() -> None:
    with pytest.raises(ConfigurationError, match="must be neither a superuser nor BYPASSRLS"):
        await run(create_engine(settings_for("production", url_of("postgres", SUPERUSER))), "SELECT 1")


async def test_other_environments_warn_once_about_a_role_that_bypasses_row_level_security() -> None:
    engine = create_engine(settings_for("test", url_of("postgres", SUPERUSER)))
    with capture_logs() as logs:
        await run(engine, "SELECT 1")
        await run(engine, "SELECT 1")

    assert [entry["event"] for entry in logs] == ["role_bypasses_row_level_security"]


async def test_the_server_shows_the_application_name(cloned_database: URL) -> None:
    engine = create_engine(settings_for(url=cloned_database, DATABASE_APPLICATION_NAME="agent"))

    assert await run(engine, "SHOW application_name") == f"agent/test/default/{os.getpid()}"


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        (f"postgresql://thea:{CANARY}@127.0.0.1:1/thea", ConnectionFailed, "nothing listens there"),
        (f"postgresql://thea:{CANARY}@host.invalid/thea", ConnectionFailed, "the host is not known"),
        (f"postgresql://thea:{CANARY}@/thea?host=/nowhere", ConnectionFailed, "nothing listens there"),
        (f"postgresql://thea_app:{CANARY}@/nothing?host={SOCKETS}", DatabaseMissing, "the database does not exist"),
        (
            f"postgresql://nobody:{CANARY}@/thea?host={SOCKETS}",
            AuthenticationFailed,
            "refused the user or the password",
        ),
    ],
)
async def test_a_failed_connection_has_a_reason_and_no_password(
    url: str, error: type[DatabaseError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        await run(create_engine(settings_for(url=url)), "SELECT 1")

    assert type(caught.value) is error
    assert CANARY not in "".join(traceback.format_exception(caught.value))


async def test_connecting_to_a_server_that_does_not_answer_ends_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # it is connected to, and never answers
        url = f"postgresql://u@127.0.0.1:{listener.getsockname()[1]}/d"
        with pytest.raises(ConnectionFailed, match="did not answer in time"):
            await run(create_engine(settings_for(url=url, DATABASE_CONNECT_TIMEOUT=0.3)), "SELECT 1")


@pytest.mark.parametrize(
    ("statement", "error", "sqlstate"),
    [
        (f"SELECT '{CANARY}'::int", DatabaseError, "22P02"),
        ("SELECT nothing FROM users", SchemaDriftError, "42703"),
        ("SELECT * FROM nothing", SchemaDriftError, "42P01"),
        ("SELECT nothing()", SchemaDriftError, "42883"),
        (f"SELEC '{CANARY}'", DatabaseError, "42601"),
        ("DROP TABLE users", DatabaseError, "42501"),
    ],
)
async def test_a_refused_statement_raises_our_error_with_its_code_and_without_data(
    cloned_database: URL, statement: str, error: type[DatabaseError], sqlstate: str
) -> None:
    with pytest.raises(DatabaseError) as caught:
        await run(create_engine(settings_for(url=cloned_database)), statement)

    assert type(caught.value) is error
    assert caught.value.sqlstate == sqlstate
    assert caught.value.__cause__ is not None
    text_of_all = "".join(traceback.format_exception(caught.value))
    assert CANARY not in text_of_all.replace(statement, "")
    assert not isinstance(caught.value, SQLAlchemyError)


async def test_each_time_limit_has_its_error(cloned_database: URL, superuser: psycopg.Connection) -> None:
    async def attempt(*statements: str) -> None:
        engine = create_engine(settings_for(url=cloned_database))
        try:
            async with engine.begin() as connection:
                for statement in statements:
                    await connection.execute(text(statement))
        finally:
            await engine.dispose()

    with pytest.raises(QueryTimeout):
        await attempt("SET LOCAL statement_timeout = '10ms'", "SELECT pg_sleep(5)")
    superuser.autocommit = False
    superuser.execute("LOCK TABLE users")
    with pytest.raises(LockNotAvailable):
        await attempt("SET LOCAL lock_timeout = '10ms'", "SELECT * FROM users")
    superuser.rollback()


async def test_a_killed_connection_raises_connection_failed(
    cloned_database: URL, superuser: psycopg.Connection
) -> None:
    engine = create_engine(settings_for(url=cloned_database))
    async with engine.connect() as connection:
        pid = await connection.scalar(text("SELECT pg_backend_pid()"))
        superuser.execute("SELECT pg_terminate_backend(%s)", (pid,))
        with pytest.raises(ConnectionFailed):
            await connection.execute(text("SELECT 1"))


async def test_a_pool_replaces_a_connection_that_closed_while_idle(
    cloned_database: URL, superuser: psycopg.Connection
) -> None:
    engine = create_engine(settings_for(url=cloned_database), poolclass=AsyncAdaptedQueuePool)
    async with engine.connect() as connection:
        pid = await connection.scalar(text("SELECT pg_backend_pid()"))
    superuser.execute("SELECT pg_terminate_backend(%s)", (pid,))
    await asyncio.sleep(0.1)

    assert await run(engine, "SELECT pg_backend_pid()") != pid
