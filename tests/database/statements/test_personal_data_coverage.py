"""Every table with user data is exported and erased, also a later one, and exports need constant memory."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL, Column, ForeignKeyConstraint, MetaData, Numeric, Table, Uuid, text

from src.database import get_db
from src.database.base import Base
from src.database.repositories import UserRepository
from src.database.session import AsyncSession
from src.database.statements.personal_data import erase_user, export_user
from tests.acceptance.calls.rows import listed
from tests.database.repositories.user_rows import ROWS_OF_A_USER, add_user_with_rows


def tables_about_people(metadata: MetaData) -> set[str]:
    """Return users, and the tables with a `user_id` or a foreign key to users, by other means than the code does."""
    return {
        table.name
        for table in metadata.tables.values()
        if table.name == "users"
        or "user_id" in table.columns
        or any(key.target_fullname == "users.id" for key in table.foreign_keys)
    }


def with_another_table(*, named: str) -> MetaData:
    """Return a copy of the metadata with another table."""
    metadata = MetaData()
    for table in Base.metadata.sorted_tables:
        table.to_metadata(metadata)
    Table(
        "diaries",
        metadata,
        Column("tenant_id", Uuid(), primary_key=True),
        Column("id", Uuid(), primary_key=True),
        Column(named, Uuid()),
        Column("amount", Numeric(20, 8)),
        ForeignKeyConstraint(["tenant_id", named], ["users.tenant_id", "users.id"]),
    )
    return metadata


@pytest.mark.parametrize("named", ["user_id", "written_by"])
async def test_a_new_table_that_refers_to_users_is_covered(
    superuser: psycopg.Connection, cloned_database: URL, named: str
) -> None:
    metadata = with_another_table(named=named)
    superuser.execute(
        f"CREATE TABLE diaries (tenant_id uuid, id uuid, {named} uuid, amount numeric(20, 8),"
        " PRIMARY KEY (tenant_id, id));"
        "GRANT ALL ON diaries TO public"
    )
    async with get_db() as session:
        user = await add_user_with_rows(session, "ada")
        await session.execute(
            text("INSERT INTO diaries VALUES (:tenant_id, :tenant_id, :id, 123456789012.12345678)"),
            {"tenant_id": session.tenant_id, "id": user.id},
        )
        exported = await listed(export_user(session, user.id, metadata=metadata))
        removed = await erase_user(session, user.id, metadata=metadata)

        [diary] = [row["row"] for row in exported if row["table"] == "diaries"]
        assert diary["amount"] == "123456789012.12345678", "a JSON number would be rounded"
        assert {row["table"] for row in exported} == set(removed) == tables_about_people(metadata)
        assert await session.scalar(text("SELECT count(*) FROM diaries")) == 0


async def test_every_table_that_holds_user_data_is_exported_and_erased(session: AsyncSession) -> None:
    user = await add_user_with_rows(session, "ada")
    exported = {row["table"] for row in await listed(UserRepository(session).export(user.id))}
    removed = await UserRepository(session).erase(user.id)

    assert exported == tables_about_people(Base.metadata), "give the user of tests/.../user_rows.py a row there"
    assert set(removed) == tables_about_people(Base.metadata)


@pytest.mark.parametrize("named", ["user_id", "written_by"])
async def test_a_table_that_is_not_covered_is_noticed(session: AsyncSession, named: str) -> None:
    user = await add_user_with_rows(session, "ada")
    exported = {row["table"] for row in await listed(UserRepository(session).export(user.id))}

    assert tables_about_people(with_another_table(named=named)) - exported == {"diaries"}


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory in use from /proc")
async def test_exports_many_messages_in_constant_memory(
    superuser: psycopg.Connection, cloned_database: URL, *, is_long: bool
) -> None:
    """The whole export would take several times the limit; with `--long` it has 100,000 messages."""
    messages = 100_000 if is_long else 40_000
    async with get_db() as session:
        user = await add_user_with_rows(session, "ada")
    superuser.execute(
        "ALTER TABLE message_history DISABLE TRIGGER ALL"
    )  # checking the foreign key of so many rows takes seconds
    superuser.execute(
        "INSERT INTO message_history (tenant_id, id, conversation_id, user_id, seq, message_id, role, content)"
        " SELECT tenant_id, md5(number::text)::uuid, id, user_id, number, number::text, 'user', repeat('x', 100)"
        " FROM conversations, generate_series(10, %s) AS number",
        [messages + 9],
    )
    rows = 0
    async with get_db() as session:
        before = most = resident_bytes()
        async for _ in UserRepository(session).export(user.id):
            rows += 1
            if rows % 1000 == 0:
                most = max(most, resident_bytes())

    assert rows == messages + ROWS_OF_A_USER
    assert most - before < 20 * 2**20
