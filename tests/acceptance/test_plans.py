"""Every statement of every repository method is served by an index, at a million messages and at fewer.

The plans are the server's own, for the statements that were sent, as the application's role under row-level security.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import URL, event
from sqlalchemy.ext.asyncio import AsyncConnection

from benchmarks.large import fill as fill_large
from src.config import Settings
from src.database import create_engine
from src.database.base import tenant_tables
from src.database.binding import TenantBinding
from src.database.engine import DatabaseEngine
from src.database.errors import ForeignKeyError
from src.database.pool import SizedPool
from src.database.repositories import MessageHistoryRepository, Repository
from src.database.tenancy import AsyncSession
from tests.acceptance.calls import CALLS, Call, fill

TENANT = UUID("01900000-0000-7000-8000-000000000007")
QUICK = {"messages": 100_000, "notes": 20_000}
TABLES = {table.name for table in tenant_tables()}


@asynccontextmanager
async def acting(engine: DatabaseEngine) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction that is rolled back."""
    async with engine.connect() as connection:
        outer = await connection.begin()
        yield connection
        await outer.rollback()


@pytest.fixture
async def application(cloned_database: URL) -> AsyncIterator[DatabaseEngine]:
    """An engine of the application's role, whom row-level security binds."""
    engine = create_engine(Settings(ENVIRONMENT="test", DATABASE_URL=cloned_database), poolclass=SizedPool)
    yield engine
    await engine.dispose()


async def statements_of(
    connection: AsyncConnection, repository: type[Repository[Any]], call: Call
) -> list[tuple[str, Any]]:
    """Call a method on rows of a tenant who has a twentieth of all; what it did is rolled back."""
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
        with suppress(ForeignKeyError):  # a row that others refer to is not deleted
            await call.run(repository(session), rows)
        event.remove(connection.sync_connection, "before_cursor_execute", note)
    return [(statement, parameters) for statement, parameters in sent if "SAVEPOINT" not in statement]


async def wide_reads(connection: AsyncConnection, repository: type[Repository[Any]], call: Call) -> list[str]:
    """Return the statements that read a table without an index or too many rows, and what of the plan is to blame."""
    found = []
    for statement, parameters in await statements_of(connection, repository, call):
        plan = await explain(connection, statement, parameters)
        scans = [node for node in _nodes(plan[0]["Plan"]) if node.get("Relation Name") in TABLES]
        wide = [scan for scan in scans if scan["Node Type"] == "Seq Scan" or _rows_read(scan) > call.most_rows]
        if wide:
            found.append(f"{statement}\n" + "\n".join(map(_describe, wide)))
    return found


async def explain(connection: AsyncConnection, statement: str, parameters: Any) -> Any:
    """Run a statement again and return what the server did; where a foreign key refuses it, what it would have done."""
    for options in ("ANALYZE, FORMAT JSON, TIMING OFF, BUFFERS OFF", "FORMAT JSON"):
        again = await connection.begin_nested()
        try:
            return (await connection.exec_driver_sql(f"EXPLAIN ({options}) {statement}", parameters)).scalar_one()
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


async def test_no_method_reads_more_than_it_needs(
    superuser: psycopg.Connection, application: DatabaseEngine, *, is_long: bool
) -> None:
    """One test for all: filling the database takes longer than the rest. With `--long` there are a million messages."""
    fill_large(superuser, **({} if is_long else QUICK))

    found = {}
    for repository, calls in CALLS.items():
        for name, call in calls.items():
            async with acting(application) as connection:
                wide = await wide_reads(connection, repository, call)
            if wide:
                found[f"{repository.__name__}.{name}"] = wide

    assert not found, "\n\n".join(f"{name}\n" + "\n".join(wide) for name, wide in found.items())


async def test_a_missing_index_is_seen(superuser: psycopg.Connection, application: DatabaseEngine) -> None:
    fill_large(superuser, users=1_000, messages=10_000, events=100, notes=100)
    recent = CALLS[MessageHistoryRepository]["recent"]

    async def wide() -> list[str]:
        async with acting(application) as connection:
            return await wide_reads(connection, MessageHistoryRepository, recent)

    assert await wide() == []
    superuser.execute("ALTER TABLE message_history DROP CONSTRAINT uq_message_history_tenant_id_conversation_id_seq")
    assert await wide() != []
