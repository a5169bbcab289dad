from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, literal_column, select, text
from structlog.testing import capture_logs

from src.database import engine, get_db, get_read_db, tenant_context
from src.database.base import uuid7
from src.database.errors import DuplicateKeyError
from src.database.models import User
from src.database.repositories import UserRepository
from src.database.store import get_store
from tests.database.observability.conftest import Use

CANARY = "the-canary-said-this"
Logs = list[MutableMapping[str, Any]]


@pytest.fixture
def logs() -> Iterator[Logs]:
    with capture_logs() as captured:
        yield captured


def of(logs: Logs, event: str) -> Logs:
    return [entry for entry in logs if entry["event"] == event]


async def look_up() -> None:
    async with get_db() as session:
        await UserRepository(session).get_by_telegram_id(7)


async def test_in_development_each_statement_is_logged_with_its_name_time_rows_and_caller(use: Use, logs: Logs) -> None:
    use(DATABASE_ECHO="true")
    await look_up()
    await get_store().user_by_telegram_id(7)
    by_session, by_store = of(logs, "query")

    assert by_session["statement"] == "UserRepository.get_by_telegram_id"
    assert by_session["caller"].startswith(f"{Path(__file__).name}:")
    assert by_session["caller"].endswith(" in look_up")
    assert by_session["duration_ms"] > 0
    assert (by_session["rows"], by_session["pool"]) == (0, "default")
    assert by_session["sql"].startswith("SELECT")
    assert (by_store["statement"], by_store["pool"]) == ("Store.user_by_telegram_id", "store")


async def test_parameters_are_logged_only_if_the_settings_say_so(use: Use, logs: Logs) -> None:
    async def say() -> None:
        async with get_db() as session:
            await session.execute(text("SELECT :said"), {"said": CANARY})

    use(DATABASE_ECHO="true", DATABASE_SLOW_QUERY_MS="1")
    await say()
    without = str(logs)
    use(DATABASE_ECHO="true", DATABASE_LOG_PARAMETERS="true")
    await say()

    assert CANARY not in without
    assert CANARY in str(logs)


async def test_a_statement_that_fails_is_logged_with_the_class_of_its_error(use: Use, logs: Logs) -> None:
    use(DATABASE_ECHO="true")
    with pytest.raises(DuplicateKeyError):
        async with get_db() as session:
            session.add_all([User(telegram_id=1), User(telegram_id=1)])

    assert of(logs, "query")[-1]["error"] == "DuplicateKeyError"


@pytest.mark.parametrize("environment", ["test", "staging"])
async def test_only_a_slow_statement_is_in_the_slow_query_log_and_its_sql_in_development_alone(
    use: Use, logs: Logs, environment: str
) -> None:
    use(DATABASE_SLOW_QUERY_MS="100", ENVIRONMENT=environment)
    async with get_db() as session:
        await session.execute(text("SELECT 1"))
        await session.execute(text(f"SELECT pg_sleep(0.1), '{CANARY}'"))
    [slow] = of(logs, "slow_query")

    assert slow["duration_ms"] >= 100
    assert slow["log_level"] == "warning"
    assert slow["rows"] == 1
    assert " in test_only_a_slow_statement" in slow["caller"]
    assert ("sql" in slow) is (CANARY in str(logs)) is (environment == "test")
    assert not of(logs, "query")


async def test_a_slow_statements_plan_names_indexes_and_no_value(use: Use, logs: Logs) -> None:
    use(DATABASE_SLOW_QUERY_MS="1", DATABASE_SLOW_QUERY_PLAN="true")
    of_somebody = select(User.id).where(User.username == literal_column(f"'{CANARY}'"), User.telegram_id == 1)
    slow = select(func.pg_sleep(0.01), of_somebody.scalar_subquery())
    async with get_db() as session:
        await session.execute(slow)
    await _planned(logs)
    await engine.dispose()
    [entry] = of(logs, "slow_query_plan")

    assert re.search(r"Index Scan using \w+ on users \(cost=", entry["plan"])
    assert CANARY not in entry["plan"]


async def _planned(logs: Logs) -> None:
    async with asyncio.timeout(30):
        while not of(logs, "slow_query_plan"):  # noqa: ASYNC110 - a log has no event for it
            await asyncio.sleep(0.01)


async def test_a_failed_query_for_a_plan_is_logged_and_affects_no_caller(use: Use, logs: Logs) -> None:
    use(DATABASE_SLOW_QUERY_MS="1", DATABASE_SLOW_QUERY_PLAN="true")
    async with get_db() as session:
        await session.execute(text("CREATE TEMPORARY TABLE fleeting ON COMMIT DROP AS SELECT 1 AS a"))
        await session.execute(text("SELECT pg_sleep(0.01), a FROM fleeting"))
    await _planned(logs)
    [entry] = of(logs, "slow_query_plan")

    assert (entry["plan"], entry["reason"]) == (None, "UndefinedTableError")


async def test_a_query_for_a_plan_does_not_execute_the_statement(use: Use, logs: Logs) -> None:
    use(DATABASE_SLOW_QUERY_MS="1", DATABASE_SLOW_QUERY_PLAN="true")
    slowly = text("INSERT INTO users (id, tenant_id, telegram_id) SELECT uuidv7(), :tenant, 5 FROM pg_sleep(0.01)")
    async with get_db() as session:
        await session.execute(slowly, {"tenant": session.tenant_id})
    await _planned(logs)
    async with get_db() as session:
        count = await session.scalar(text("SELECT count(*) FROM users"))

    assert of(logs, "slow_query_plan")[0]["plan"].startswith("ModifyTable on users")
    assert count == 1


async def test_the_same_statement_repeated_in_a_unit_of_work_is_logged_once(use: Use, logs: Logs) -> None:
    use(DATABASE_REPEATED_QUERIES="3")
    for times in (3, 10):
        async with get_db() as session:
            for number in range(times):
                await UserRepository(session).get_by_telegram_id(number + 1)
    [entry] = of(logs, "repeated_query")

    assert entry["statement"] == "UserRepository.get_by_telegram_id"
    assert entry["more_than"] == 3
    assert "in test_the_same_statement" in entry["caller"]


async def test_a_notice_is_logged_with_its_text_only_if_that_contains_no_data(use: Use, logs: Logs) -> None:
    use(DATABASE_LOG_NOTICES="true")
    async with get_db() as session:
        await session.execute(text("CREATE TEMPORARY TABLE IF NOT EXISTS noted (a int) ON COMMIT DROP"))
        await session.execute(text("CREATE TEMPORARY TABLE IF NOT EXISTS noted (a int) ON COMMIT DROP"))
        await session.execute(text(f"DO $$ BEGIN RAISE WARNING '{CANARY}'; END $$"))
    of_a_table, of_somebody = of(logs, "server_notice")

    assert of_a_table["text"] == 'relation "noted" already exists, skipping'
    assert (of_somebody["severity"], of_somebody["sqlstate"]) == ("WARNING", "01000")
    assert CANARY not in str(logs)


async def test_notices_to_connections_of_the_store_are_logged(use: Use, logs: Logs) -> None:
    use(DATABASE_LOG_NOTICES="true")
    store = get_store()
    await store.user_by_telegram_id(1)
    [slot] = store.pool._idle
    await slot.connection.execute("COMMIT")

    assert [entry["sqlstate"] for entry in of(logs, "server_notice")] == ["25P01"]


async def test_an_error_of_an_observer_does_not_reach_the_caller(
    use: Use, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.database.observability.query_log.QueryLog._fields", lambda *_: 1 / 0)
    use(DATABASE_ECHO="true")
    await look_up()

    assert {entry["error"] for entry in of(logs, "watcher_failed")} == {"ZeroDivisionError"}


@pytest.mark.parametrize("environment", ["staging", "production"])
async def test_each_line_that_uses_the_default_tenant_is_logged_once(use: Use, logs: Logs, environment: str) -> None:
    use(ENVIRONMENT=environment)
    for _ in range(2):
        await look_up()
        async with get_read_db() as session:
            await UserRepository(session).count()
        await get_store().user_by_telegram_id(1)
    with tenant_context(uuid7()):
        async with get_db() as session:
            await UserRepository(session).count()
    entries = of(logs, "default_tenant_used")

    assert [entry["caller"].partition(" in ")[2] for entry in entries] == [
        "look_up",
        *["test_each_line_that_uses_the_default_tenant_is_logged_once"] * 2,
    ]
    assert all(entry["caller"].startswith("test_logs.py:") for entry in entries)
    assert {entry["log_level"] for entry in entries} == {"warning"}
    assert "tenant_context" in entries[0]["hint"]


async def test_in_development_the_default_tenant_is_used_without_a_log(use: Use, logs: Logs) -> None:
    use(ENVIRONMENT="development")
    await look_up()

    assert of(logs, "default_tenant_used") == []
