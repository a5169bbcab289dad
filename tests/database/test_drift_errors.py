"""Errors of statements for which the database lacks a column, a table or resources."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable

import psycopg
import pytest
from sqlalchemy import select, text

from src.config import Settings
from src.database import get_db
from src.database.errors import DatabaseError, SchemaDriftError
from src.database.models import User
from src.database.repositories import UserRepository
from src.database.session import AsyncSession, get_engine
from src.database.store import get_store
from tests.conftest import url_of

Send = Callable[[AsyncSession], Awaitable[object]]


async def _flush(session: AsyncSession) -> None:
    session.add(User())
    await session.flush()


PLPGSQL = "DO $$ BEGIN PERFORM u.preferences FROM users AS u; END $$"
SENT: dict[str, tuple[Send, str]] = {
    "a mapped select": (lambda session: session.scalars(select(User)), "column users.preferences"),
    "a repository": (lambda session: UserRepository(session).get_by_telegram_id(1), "column users.preferences"),
    "an insert": (lambda session: UserRepository(session).add(User()), "column preferences"),
    "a flush": (_flush, "column preferences"),
    "quoted": (lambda session: session.execute(text('SELECT ñ."preferences" FROM users ñ')), 'column ñ."preferences"'),
    "in a function": (lambda session: session.execute(text(PLPGSQL)), "column u.preferences"),
    "a table": (lambda session: session.execute(text("SELECT 'ñ' FROM public.ghosts")), "table public.ghosts"),
}


async def test_the_missing_column_or_table_is_named_from_the_statement(
    clone_name: str, superuser: psycopg.Connection, use_database: Callable[..., Settings]
) -> None:
    """Not from the server's message, whose language is the server's choice."""
    use_database(url_of(clone_name))
    superuser.execute("ALTER TABLE users DROP COLUMN preferences")
    named = {}
    for name, (send, _) in SENT.items():
        with pytest.raises(SchemaDriftError) as caught:
            async with get_db() as session:
                await send(session)
        named[name] = str(caught.value.args[0]).rpartition("(")[2].removesuffix(")")
    with pytest.raises(SchemaDriftError, match=r"\(column [\w.]*preferences\)"):
        await get_store().user_by_telegram_id(1)
    await get_engine("store").dispose()

    assert named == {name: expected for name, (_, expected) in SENT.items()}


async def test_the_hint_of_a_missing_column_is_verify(session: AsyncSession) -> None:
    with pytest.raises(SchemaDriftError) as caught:
        await session.execute(text("SELECT nothing FROM users"))

    assert str(caught.value.hint).startswith("`thea-db verify`")


async def test_a_traceback_prints_the_hint_of_a_missing_function_once(
    clone_name: str, superuser: psycopg.Connection, use_database: Callable[..., Settings]
) -> None:
    use_database(url_of(clone_name))
    superuser.execute("ALTER FUNCTION app_get_or_create_user RENAME TO renamed")

    async def by_session() -> None:
        async with get_db() as session:
            await UserRepository(session).get_or_create_by_telegram_id(1)

    printed = {}
    for call in (by_session, lambda: get_store().get_or_create_user(1)):
        with pytest.raises(SchemaDriftError, match="app_get_or_create_user") as caught:
            await call()
        assert caught.value.sqlstate == "42883"
        printed[call] = "".join(traceback.format_exception(caught.value))
    await get_engine("store").dispose()

    assert [text.count("hint:") for text in printed.values()] == [1, 1]


@pytest.mark.parametrize(
    ("statement", "hint"),
    [
        ("SET LOCAL search_path = nothing; CREATE TABLE made ()", "CREATE SCHEMA"),
        ("CREATE TABLE nothing.made ()", "correct the name"),
        ("SELECT * FROM pg_authid", "`thea-db doctor`"),
        ("INSERT INTO users (tenant_id, id) VALUES (gen_random_uuid(), gen_random_uuid())", "tenant_context"),
        ("SET LOCAL statement_timeout = 5; SELECT pg_sleep(5)", "DATABASE_STATEMENT_TIMEOUT"),
    ],
)
async def test_an_error_of_the_server_has_a_remedy(session: AsyncSession, statement: str, hint: str) -> None:
    *before, failing = statement.split("; ")
    for one in before:
        await session.execute(text(one))

    with pytest.raises(DatabaseError) as caught:
        await session.execute(text(failing))

    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("sqlstate", "message", "hint"),
    [
        ("53100", "disk is full", "free space on the volume"),
        ("53200", "out of memory", "work_mem"),
        ("53400", "limit of the server's configuration", "temp_file_limit"),
    ],
)
async def test_a_server_without_resources_is_reported_with_the_remedy(
    session: AsyncSession, sqlstate: str, message: str, hint: str
) -> None:
    statement = f"DO $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '{sqlstate}'; END $$"

    with pytest.raises(DatabaseError, match=message) as caught:
        await session.execute(text(statement))

    assert caught.value.sqlstate == sqlstate
    assert hint in str(caught.value.hint)
