"""The table of the package's revisions, and its move from Alembic's default name, which can be a service's."""

from __future__ import annotations

import os

import psycopg
import pytest

from src.config import Settings
from src.database.drift import verify
from src.database.embedded import APP_ROLE, OWNER_ROLE
from src.database.health import readiness
from src.database.migrate import current, downgrade, heads, revision, sql, stamp, upgrade
from tests.acceptance.command import ROOT, run_forked
from tests.migrations.drafts import Drafts

(HEAD,) = heads()
TABLES = """
SELECT relname, relacl::text FROM pg_class
 WHERE relname ~ 'alembic_version' AND relnamespace = 'public'::regnamespace ORDER BY 1
"""
OLD = "ALTER TABLE thea_alembic_version RENAME TO alembic_version"
OLD_KEY = "ALTER TABLE alembic_version RENAME CONSTRAINT thea_alembic_version_pkc TO alembic_version_pkc"


@pytest.fixture
def old(owner_settings: Settings, superuser: psycopg.Connection) -> Settings:
    """A database of a release that recorded its revisions in `alembic_version`."""
    superuser.execute(OLD)
    superuser.execute(OLD_KEY)
    return owner_settings


def tables(superuser: psycopg.Connection) -> list[str]:
    return [name for name, _ in superuser.execute(TABLES).fetchall()]


@pytest.mark.parametrize("action", ["upgrade", "stamp", "downgrade", pytest.param("alembic", marks=pytest.mark.slow)])
async def test_an_old_table_is_renamed_with_its_grants(
    old: Settings, superuser: psycopg.Connection, action: str
) -> None:
    superuser.execute(f"REVOKE ALL ON alembic_version FROM {APP_ROLE}; GRANT SELECT ON alembic_version TO {APP_ROLE}")
    before: dict[str, str] = dict(superuser.execute(TABLES).fetchall())

    match action:
        case "upgrade":
            assert (await upgrade(old)).before == (HEAD,)
        case "stamp":
            await stamp(old, "head")
        case "downgrade":
            await downgrade(old, "-1")
        case _:
            done = run_forked("alembic", ["upgrade", "head"], ROOT, os.environ)
            assert done.returncode == 0, done.stdout + done.stderr

    assert dict(superuser.execute(TABLES).fetchall()) == {
        "thea_alembic_version": before["alembic_version"],
        "thea_alembic_version_pkc": None,
    }


async def test_readers_read_an_old_table_and_do_not_rename_it(old: Settings, superuser: psycopg.Connection) -> None:
    superuser.execute(f"GRANT SELECT ON alembic_version TO {APP_ROLE}")

    assert await current(old) == (HEAD,)
    assert (await verify(old)).is_sound
    assert (await readiness()).checks["revision"].found == HEAD
    for command in ("current", "check"):
        done = run_forked("alembic", [command], ROOT, os.environ)
        assert done.returncode == 0, done.stdout + done.stderr
    assert tables(superuser) == ["alembic_version", "alembic_version_pkc"]


@pytest.mark.slow
async def test_a_revision_is_generated_from_a_database_with_an_old_table(old: Settings, drafts: Drafts) -> None:
    file = await revision(old, "generated", autogenerate=True, folder=drafts.folder)

    assert f"down_revision: str | Sequence[str] | None = {HEAD!r}" in file.read_text()


@pytest.mark.parametrize("recorded", [["e0a17d850507"], [HEAD, "e0a17d850507"]])
async def test_the_table_of_another_history_is_not_renamed(
    old: Settings, superuser: psycopg.Connection, recorded: list[str]
) -> None:
    superuser.execute("DELETE FROM alembic_version")
    superuser.execute("INSERT INTO alembic_version SELECT unnest(%s::text[])", [recorded])

    assert (await stamp(old, "head")).before == ()

    assert tables(superuser) == [f"{owner}alembic_version{end}" for owner in ("", "thea_") for end in ("", "_pkc")]
    rows = superuser.execute("SELECT version_num FROM alembic_version ORDER BY 1").fetchall()
    assert [row for (row,) in rows] == recorded


async def test_the_sql_of_a_range_renames_an_old_table(old: Settings, superuser: psycopg.Connection) -> None:
    superuser.execute("UPDATE alembic_version SET version_num = '0007'")
    superuser.execute(f"SET ROLE {OWNER_ROLE}")

    for statement in (await sql("0007:0007")).split(";\n\n"):
        superuser.execute(statement.encode())

    assert tables(superuser) == ["thea_alembic_version", "thea_alembic_version_pkc"]
    assert "alembic_version RENAME" not in await sql("0001"), "an empty database has no old table"
