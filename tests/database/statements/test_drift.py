"""A function that the database does not have as this release calls it: an error that names it, and no fallback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL

from src.config import Settings, get_settings
from src.database import engine, get_db, get_engine
from src.database.drift import verify
from src.database.errors import SchemaDriftError
from src.database.health import readiness
from src.database.repositories import ConversationRepository, EventRepository, MessageHistoryRepository, UserRepository
from src.database.session import AsyncSession
from src.database.store import get_store
from tests.acceptance.calls import Rows, a_message, fill

KEYS = [a_message("x"), a_message("y")]
STORE: dict[str, tuple[str, Callable[[Rows], Awaitable[Any]]]] = {
    "append": ("app_append_message", lambda rows: get_store().append(rows.conversation, KEYS[0])),
    "append_many": ("app_append_messages", lambda rows: get_store().append_many(rows.conversation, KEYS)),
    "get_or_create_user": ("app_get_or_create_user", lambda _: get_store().get_or_create_user(1)),
    "turn": ("app_turn", lambda _: get_store().turn(1, "telegram", "1", KEYS)),
    "claim_due_reminders": ("app_claim_reminders", lambda _: get_store().claim_due_reminders("w")),
}
REPOSITORIES: dict[str, tuple[str, Callable[[AsyncSession, Rows], Awaitable[Any]]]] = {
    "append": (
        "app_append_message",
        lambda session, rows: MessageHistoryRepository(session).append(rows.conversation, KEYS[0]),
    ),
    "append_many": (
        "app_append_messages",
        lambda session, rows: MessageHistoryRepository(session).append_many(rows.conversation, KEYS),
    ),
    "claim_due_reminders": (
        "app_claim_reminders",
        lambda session, _: EventRepository(session).claim_due_reminders("w"),
    ),
    "get_or_create": (
        "app_get_or_create_user",
        lambda session, _: UserRepository(session).get_or_create_by_telegram_id(1),
    ),
    "get_or_start": (
        "app_get_or_start_conversation",
        lambda session, rows: ConversationRepository(session).get_or_start(rows.user, "telegram", "1"),
    ),
}
INSIDE = ["app_enter_tenant", "app_get_or_create_user", "app_get_or_start_conversation", "app_append_messages"]
"""The functions that app_turn calls; those of users and conversations only for a new user."""
OTHER_PARAMETERS = "CREATE FUNCTION {}(p_tenant uuid) RETURNS bigint LANGUAGE sql RETURN 1"


@pytest.fixture
async def rows(cloned_database: URL, use_database: Callable[..., Settings]) -> AsyncIterator[Rows]:
    use_database(cloned_database.update_query_dict({"pool_max": "1"}))
    async with get_db() as session:
        yield await fill(session)
    await get_engine("store").dispose()
    await engine.dispose()


async def error_of(call: Awaitable[Any]) -> SchemaDriftError:
    with pytest.raises(SchemaDriftError) as raised:
        await call
    return raised.value


async def in_a_session(call: Callable[[AsyncSession, Rows], Awaitable[Any]], rows: Rows) -> None:
    async with get_db() as session:
        await call(session, rows)


async def turn_of_a_new_user(_rows: Rows) -> Any:
    return await get_store().turn(99, "telegram", "99", KEYS)


def count_of(superuser: psycopg.Connection) -> Any:
    tables = ("users", "conversations", "message_history")
    return [superuser.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() for table in tables]  # noqa: S608


@pytest.mark.parametrize("has_other_parameters", [False, True], ids=["missing", "other parameters"])
async def test_an_outdated_function_is_named_on_both_paths_and_nothing_is_written(
    rows: Rows, superuser: psycopg.Connection, *, has_other_parameters: bool
) -> None:
    before = count_of(superuser)
    calls: list[tuple[str, str, Callable[[], Awaitable[Any]]]] = [
        *((f"store.{name}", function, partial(call, rows)) for name, (function, call) in STORE.items()),
        *((name, function, partial(in_a_session, call, rows)) for name, (function, call) in REPOSITORIES.items()),
        *(("store.turn", function, partial(turn_of_a_new_user, rows)) for function in INSIDE),
    ]
    wrong = []
    for name, function, call in calls:
        superuser.execute(f"ALTER FUNCTION {function} RENAME TO aside".encode())
        if has_other_parameters and function != "app_enter_tenant":  # which has this parameter alone
            superuser.execute(OTHER_PARAMETERS.format(function).encode())
        error = await error_of(call())
        if function not in str(error) or "thea-db verify" not in (error.hint or ""):
            wrong.append((name, function, str(error), error.hint))
        superuser.execute(f"DROP FUNCTION IF EXISTS {function}".encode())
        superuser.execute(f"ALTER FUNCTION aside RENAME TO {function}".encode())

    assert wrong == []
    assert count_of(superuser) == before
    assert (await STORE["append"][1](rows)).inserted, "the connections are as before"


async def test_verify_and_readiness_report_a_function_that_is_missing_or_differs(
    rows: Rows, superuser: psycopg.Connection
) -> None:
    del rows
    superuser.execute(b"DROP FUNCTION app_turn")
    superuser.execute(b"ALTER FUNCTION app_append_messages SECURITY DEFINER")

    report = await verify(get_settings())
    health = await readiness(timeout_seconds=20, drift=True)

    found = {difference.object.split("(")[0] for difference in report.errors}
    assert found == {"app_turn", "app_append_messages"}
    assert "2 of which can make statements fail" in health.checks["drift"].found
    assert not health.can_serve or health.checks["drift"].status != "healthy"
