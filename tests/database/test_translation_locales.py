"""An error has the same class in every language of the server: classes follow SQLSTATE and fields, not messages."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from threading import Thread

import psycopg
import pytest
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import NullPool

from src.config import Settings
from src.database import create_engine
from src.database.embedded import APP_ROLE, OWNER_ROLE, SUPERUSER
from src.database.errors import (
    CheckViolation,
    DatabaseError,
    DuplicateKeyError,
    ForeignKeyError,
    LockNotAvailable,
    QueryTimeout,
    SchemaDriftError,
    TransactionAborted,
)
from src.database.migrate import upgrade
from tests.system_server import GRANTS, system_server

LOCALE = "es_ES.UTF-8"
TENANT = "00000000-0000-7000-8000-000000000001"
BOUND = f"SELECT app_set_tenant('{TENANT}')"
REGISTERED = f"INSERT INTO tenants (id, slug, name) VALUES ('{TENANT}', 'locales', 'T')"  # noqa: S608 - constants
NEW_USER = "INSERT INTO users (tenant_id, id, telegram_id) VALUES ('{tenant}', gen_random_uuid(), 1)"
USER = NEW_USER.format(tenant=TENANT)
# The statements of a transaction, the last of which fails; the error's class, and the start of its message.
CASES: dict[str, tuple[tuple[str, ...], type[DatabaseError], str]] = {
    "a row of another tenant": (
        (BOUND, NEW_USER.format(tenant="00000000-0000-7000-8000-000000000002")),
        CheckViolation,
        "row-level security refused the row",
    ),
    "a missing privilege": (("SELECT * FROM pg_authid",), DatabaseError, "the role lacks a privilege"),
    "row security off": (
        ("SET LOCAL row_security = off", "SELECT * FROM users"),
        DatabaseError,
        "the role lacks a privilege",
    ),
    "a missing operator": (("SELECT now() + 1",), DatabaseError, "no operator accepts"),
    "no equality for a type": (("SELECT DISTINCT '{}'::json",), DatabaseError, "no operator accepts"),
    "no equality for an element": (
        ("SELECT ARRAY['{}'::json] = ARRAY['{}'::json]",),
        DatabaseError,
        "no operator accepts",
    ),
    "no equality for a field": (
        ("SELECT r = r FROM (SELECT '{}'::json) AS r",),
        DatabaseError,
        "no operator accepts",
    ),
    "a missing function": (("SELECT operator_of_nothing(1)",), SchemaDriftError, "a function is missing"),
    "a missing column": (("SELECT nothing FROM users",), SchemaDriftError, "a column is missing"),
    "a missing table": (("SELECT * FROM nothing",), SchemaDriftError, "a table is missing"),
    "a duplicate key": ((BOUND, REGISTERED, USER, USER), DuplicateKeyError, "a row with this key"),
    "a missing parent": ((BOUND, USER), ForeignKeyError, "the row refers to a row that does not exist"),
    "no schema to create in": (
        ("SET LOCAL search_path = nothing", "CREATE TABLE made ()"),
        DatabaseError,
        "no schema of the search_path exists",
    ),
    "a missing schema": (("CREATE TABLE nothing.made ()",), DatabaseError, "the schema does not exist"),
    "a failed check": (
        ("INSERT INTO tenants (id, slug, name) VALUES (gen_random_uuid(), '', 'T')",),
        CheckViolation,
        "a check refused the row",
    ),
    "a NULL": (("INSERT INTO tenants (id) VALUES (gen_random_uuid())",), CheckViolation, "a column must not be null"),
    "a bad value": (("SELECT 'x'::integer",), DatabaseError, "the server refused a value"),
    "a syntax error": (("SELEC 1",), DatabaseError, "the server refused the statement"),
    "a time limit": (("SET LOCAL statement_timeout = 5", "SELECT pg_sleep(5)"), QueryTimeout, "the statement was"),
    "a transaction that reads": (("SET TRANSACTION READ ONLY", REGISTERED), DatabaseError, "the transaction is"),
}


@pytest.fixture(scope="module")
def spanish() -> Iterator[URL]:
    """A migrated database whose server reports errors in Spanish."""
    localedef = shutil.which("localedef")
    if localedef is None or not Path("/usr/share/locale/es/LC_MESSAGES/postgres-15.mo").exists():
        pytest.skip("no localedef, or no Spanish messages of PostgreSQL 15")
    with tempfile.TemporaryDirectory(prefix="thea-locale-") as locales:
        Path(locales).chmod(0o755)
        built = subprocess.run(
            [localedef, "-i", "es_ES", "-f", "UTF-8", f"{locales}/{LOCALE}"], capture_output=True, check=False
        )
        if not Path(locales, LOCALE, "LC_CTYPE").exists():
            pytest.skip(f"localedef cannot build {LOCALE}: {built.stderr.decode(errors='replace')[:200]}")
        with system_server({"LOCPATH": locales}) as folder:
            with psycopg.connect(host=folder, user=SUPERUSER, dbname="postgres", autocommit=True) as superuser:
                superuser.execute(GRANTS)
                superuser.execute(f"ALTER DATABASE postgres SET lc_messages = '{LOCALE}'".encode())
            in_thread = Thread(target=lambda: asyncio.run(upgrade(_settings(folder, OWNER_ROLE))))
            in_thread.start()
            in_thread.join()
            yield URL.create("postgresql", username=APP_ROLE, database="postgres", query={"host": folder})


@pytest.fixture(params=["English", pytest.param("Spanish", marks=pytest.mark.slow)])
async def engine(request: pytest.FixtureRequest, shared_engine: AsyncEngine) -> AsyncIterator[AsyncEngine]:
    if request.param == "English":
        yield shared_engine
        return
    engine = create_engine(
        Settings(ENVIRONMENT="test", DATABASE_URL=request.getfixturevalue("spanish")), poolclass=NullPool
    )
    yield engine
    await engine.dispose()


def _settings(folder: str, user: str) -> Settings:
    url = URL.create("postgresql", username=user, database="postgres", query={"host": folder})
    return Settings(ENVIRONMENT="test", DATABASE_URL=url)


@pytest.mark.parametrize("case", CASES)
async def test_an_error_has_one_class_in_every_language(engine: AsyncEngine, case: str) -> None:
    (*before, failing), kind, message = CASES[case]

    async with engine.connect() as connection:
        for statement in before:
            await connection.execute(text(statement))
        with pytest.raises(DatabaseError) as raised:
            await connection.execute(text(failing.replace(":", r"\:")))

    assert type(raised.value) is kind
    assert str(raised.value).startswith(message)


async def test_a_lock_timeout_has_one_class_in_every_language(engine: AsyncEngine) -> None:
    async with engine.connect() as holder, engine.connect() as other:
        await holder.execute(text("SELECT pg_advisory_xact_lock(14)"))
        await other.execute(text("SET LOCAL lock_timeout = 5"))
        with pytest.raises(LockNotAvailable) as raised:
            await other.execute(text("SELECT pg_advisory_xact_lock(14)"))

    assert "`thea-db activity`" in str(raised.value.hint)


async def test_an_aborted_transaction_has_one_class_in_every_language(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        with pytest.raises(DatabaseError):
            await connection.execute(text("SELECT 1 / 0"))
        with pytest.raises(TransactionAborted):
            await connection.execute(text("SELECT 1"))


@pytest.mark.slow
def test_the_spanish_server_answers_in_spanish(spanish: URL) -> None:
    """Without its catalogs the server would answer in English, and the tests above would prove nothing."""
    with (
        psycopg.connect(host=str(spanish.query["host"]), user=APP_ROLE, dbname="postgres") as connection,
        pytest.raises(psycopg.errors.UndefinedTable, match="no existe la relación"),
    ):
        connection.execute("SELECT * FROM nada")
