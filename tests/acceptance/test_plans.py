"""Every statement of every repository method is served by an index, at a million messages and at fewer.

The plans are those of the sent statements, for the application role under row-level security.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

import asyncpg
import psycopg
import pytest
from sqlalchemy import URL, event
from sqlalchemy.ext.asyncio import AsyncConnection

from benchmarks.large import fill as fill_large
from src.config import Settings
from src.database import create_engine, get_db, get_engine, tenant_context
from src.database import engine as application_engine
from src.database.base import tenant_tables
from src.database.engine import DatabaseEngine
from src.database.engine.pool import SizedPool
from src.database.errors import ForeignKeyError
from src.database.repositories import MessageHistoryRepository, TenantRepository
from src.database.session import AsyncSession, TenantBinding
from tests.acceptance.calls import CALLS, REGISTRY_CALLS, STORE_CALLS, Call, fill, missing_calls
from tests.acceptance.calls.store import Sent, recorded_store

TENANT = UUID("01900000-0000-7000-8000-000000000007")
QUICK = {"messages": 100_000, "notes": 20_000}
EXPLAIN_ANALYZE = "EXPLAIN (ANALYZE, FORMAT JSON, TIMING OFF, BUFFERS OFF)"
TABLES = {table.name for table in tenant_tables()}


@asynccontextmanager
async def rolled_back_connection(engine: DatabaseEngine) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction that is rolled back."""
    async with engine.connect() as connection:
        outer = await connection.begin()
        yield connection
        await outer.rollback()


@pytest.fixture
async def application(cloned_database: URL) -> AsyncIterator[DatabaseEngine]:
    """An engine of the application role, to which row-level security applies."""
    engine = create_engine(Settings(ENVIRONMENT="test", DATABASE_URL=cloned_database), poolclass=SizedPool)
    yield engine
    await engine.dispose()


async def statements_of(connection: AsyncConnection, repository: type[Any], call: Call) -> list[tuple[str, Any]]:
    """Call a method with rows of a tenant that has 5 % of all rows, roll back, and return the statements."""
    async with AsyncSession(
        bind=connection,
        join_transaction_mode="create_savepoint",
        expire_on_commit=False,
        binding=TenantBinding(TENANT),
    ) as session:
        rows = await fill(session)
        session.expunge_all()
        await session.connection()
        sent: list[tuple[str, Any]] = []
        note = lambda *cursor: sent.append((cursor[2], cursor[3]))  # noqa: E731 - the same object is taken off again
        event.listen(connection.sync_connection, "before_cursor_execute", note)
        with suppress(ForeignKeyError):  # a row with references is not deleted
            await call.run(repository(session), rows)
        event.remove(connection.sync_connection, "before_cursor_execute", note)
    without_plan = re.compile(r"SET LOCAL|(ROLLBACK TO |RELEASE )?SAVEPOINT")
    return [(statement, parameters) for statement, parameters in sent if not without_plan.match(statement)]


async def wide_reads(connection: AsyncConnection, repository: type[Any], call: Call) -> list[str]:
    """Return the statements that read without an index or too many rows, with the parts of the plan."""
    found = []
    for statement, parameters in await statements_of(connection, repository, call):
        if wide := _wide(await explain(connection, statement, parameters), call):
            found.append(f"{statement}\n" + "\n".join(map(_describe, wide)))
    return found


async def wide_reads_of_the_store() -> dict[str, list[str]]:
    """Call the store with rows of the same tenant, and return the wide reads of each call."""
    found = {}
    with tenant_context(TENANT):
        async with get_db() as session:
            rows = await fill(session)
        async with recorded_store() as (store, sent):
            for name, call in STORE_CALLS.items():
                sent.clear()
                await call.run(store, rows)
                wide = [one for statement in list(sent) for one in await _wide_scans(statement, call)]
                if wide:
                    found[f"Store.{name}"] = wide
    await application_engine.dispose()
    return found


async def _wide_scans(sent: Sent, call: Call) -> list[str]:
    """Explain a statement of the store on a connection with the store's settings."""
    statement, arguments = sent
    connection = await get_engine("store").open_connection()
    await connection.execute("SELECT set_config('app.tenant_id', $1, false)", str(TENANT))
    transaction = connection.transaction()
    await transaction.start()
    try:
        plan = await connection.fetchval(f"{EXPLAIN_ANALYZE} {statement}", *arguments)
    except asyncpg.UniqueViolationError:
        await transaction.rollback()
        plan = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement}", *arguments)
    finally:
        await connection.close()
    return [f"{statement}\n{_describe(scan)}" for scan in _wide(json.loads(plan), call)]


def _wide(plan: Any, call: Call) -> list[dict[str, Any]]:
    """Return the scans of a plan that use no index or read too many rows."""
    scans = [node for node in _nodes(plan[0]["Plan"]) if node.get("Relation Name") in TABLES]
    return [scan for scan in scans if scan["Node Type"] == "Seq Scan" or _rows_read(scan) > call.most_rows]


async def explain(connection: AsyncConnection, statement: str, parameters: Any) -> Any:
    """Return the plan of a statement: executed, or only planned if a foreign key rejects it."""
    for explain in (EXPLAIN_ANALYZE, "EXPLAIN (FORMAT JSON)"):
        again = await connection.begin_nested()
        try:
            return (await connection.exec_driver_sql(f"{explain} {statement}", parameters)).scalar_one()
        except ForeignKeyError:
            pass
        finally:
            await again.rollback()
    raise AssertionError


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


def _describe(scan: dict[str, Any]) -> str:
    by = scan.get("Index Name", scan.get("Recheck Cond", "no index"))
    return f"{scan['Node Type']} of {scan['Relation Name']} by {by}: {_rows_read(scan):g} rows"


def _rows_read(scan: dict[str, Any]) -> float:
    dropped = scan.get("Rows Removed by Filter", 0) + scan.get("Rows Removed by Index Recheck", 0)
    return float((scan.get("Actual Rows", scan["Plan Rows"]) + dropped) * scan.get("Actual Loops", 1))


@pytest.mark.slow
async def test_no_method_reads_more_than_it_needs(
    superuser: psycopg.Connection, application: DatabaseEngine, *, is_long: bool
) -> None:
    """One test for all methods, because filling the database takes the most time. `--long` uses a million messages."""
    fill_large(superuser, **({} if is_long else QUICK))

    found = {}
    for repository, calls in ({**CALLS, TenantRepository: REGISTRY_CALLS}).items():
        for name, call in calls.items():
            async with rolled_back_connection(application) as connection:
                wide = await wide_reads(connection, repository, call)
            if wide:
                found[f"{repository.__name__}.{name}"] = wide

    found |= await wide_reads_of_the_store()

    assert not found, "\n\n".join(f"{name}\n" + "\n".join(wide) for name, wide in found.items())


def test_the_plans_of_every_public_method_are_read() -> None:
    assert missing_calls() == []


async def test_a_missing_index_is_noticed(superuser: psycopg.Connection, application: DatabaseEngine) -> None:
    fill_large(superuser, users=1_000, messages=10_000, events=100, notes=100)
    recent = CALLS[MessageHistoryRepository]["recent"]

    async def wide() -> list[str]:
        async with rolled_back_connection(application) as connection:
            return await wide_reads(connection, MessageHistoryRepository, recent)

    assert await wide() == []
    superuser.execute("ALTER TABLE message_history DROP CONSTRAINT uq_message_history_tenant_id_conversation_id_seq")
    assert await wide() != []
