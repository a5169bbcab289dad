"""Tables of other libraries in the same database: no operation is generated for them, and an upgrade keeps them."""

from __future__ import annotations

import os
from types import SimpleNamespace

import psycopg
import pytest
import sqlalchemy as sa

from src.config import Settings
from src.database.base import Base
from src.database.drift import migrations_check as check_module
from src.database.embedded import OWNER_ROLE
from src.database.migrate import migration_connection, revision, upgrade
from tests.acceptance.command import ROOT, run_forked
from tests.migrations.drafts import Drafts

# LangGraph's, shortened; with each kind of thing that Alembic compares.
OTHERS = """
CREATE TABLE checkpoints (thread_id text, checkpoint_id text, v serial, checkpoint jsonb,
                          PRIMARY KEY (thread_id, checkpoint_id), UNIQUE (v));
CREATE INDEX checkpoints_thread_id_idx ON checkpoints (thread_id);
CREATE TABLE checkpoint_writes (thread_id text, checkpoint_id text, tenant_id uuid, user_id uuid,
                                FOREIGN KEY (thread_id, checkpoint_id) REFERENCES checkpoints,
                                FOREIGN KEY (tenant_id, user_id) REFERENCES users (tenant_id, id));
CREATE SEQUENCE store_numbers;
CREATE VIEW latest_checkpoints AS SELECT thread_id, max(checkpoint_id) FROM checkpoints GROUP BY 1;
INSERT INTO checkpoints VALUES ('thread', 'one');
"""


@pytest.fixture
def others(owner_settings: Settings, superuser: psycopg.Connection) -> Settings:
    superuser.execute(f"SET ROLE {OWNER_ROLE}; {OTHERS} RESET ROLE".encode())
    return owner_settings


def body_of(text: str) -> list[str]:
    """Return the statements of a revision's upgrade and downgrade, without comments."""
    lines = text[text.index("def upgrade") :].splitlines()
    return [line.strip() for line in lines if line.startswith("    ") and not line.strip().startswith(("#", '"""'))]


async def test_autogenerate_and_upgrade_ignore_other_tables(
    others: Settings, superuser: psycopg.Connection, drafts: Drafts
) -> None:
    file = await revision(others, "generated", autogenerate=True, folder=drafts.folder)
    await upgrade(others, folder=drafts.folder)

    assert body_of(file.read_text()) == ["pass", "pass"]
    assert superuser.execute("SELECT thread_id FROM checkpoints").fetchall() == [("thread",)]
    assert superuser.execute("SELECT to_regclass('checkpoints_thread_id_idx') IS NOT NULL").fetchone() == (True,)


def test_alembic_check_passes_beside_other_tables(others: Settings) -> None:
    done = run_forked("alembic", ["check"], ROOT, os.environ)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reported"),
    [
        ("ALTER TABLE users DROP COLUMN preferences", "preferences"),
        ("ALTER TABLE users ADD COLUMN shoe_size integer", "shoe_size"),
        ("ALTER TABLE users ALTER locale TYPE varchar(9)", "locale"),
        ("DROP INDEX ix_tenants_active", "ix_tenants_active"),
        ("CREATE INDEX ix_users_of_mine ON users (created_at)", "ix_users_of_mine"),
        ("DROP TABLE notes", "notes"),
    ],
)
def test_alembic_check_still_reports_differences_of_our_tables(
    others: Settings, superuser: psycopg.Connection, change: str, reported: str
) -> None:
    superuser.execute(change.encode())

    done = run_forked("alembic", ["check"], ROOT, os.environ)

    assert done.returncode != 0
    assert reported in done.stdout + done.stderr
    assert "checkpoint" not in done.stdout + done.stderr


async def test_check_reports_the_table_of_a_model_that_was_removed(
    owner_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No revision is generated that drops it, but the check runs in a database that has no other tables."""
    metadata = sa.MetaData()
    for table in Base.metadata.sorted_tables:
        if table.name != "notes":
            table.to_metadata(metadata)
    monkeypatch.setattr(check_module, "Base", SimpleNamespace(metadata=metadata))

    async with migration_connection(owner_settings) as connection:
        differences = await connection.run_sync(check_module._compare_metadata)

    assert [operation[1].name for operation in differences if operation[0] == "remove_table"] == ["notes"]
