"""Upgrade, downgrade and stamp, their errors, new revisions, and the SQL of migrations."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL
from structlog.testing import capture_logs

from src.config import Settings
from src.database.embedded import OWNER_ROLE
from src.database.errors import ConfigurationError, DatabaseError
from src.database.migrate import current, downgrade, heads, history, revision, sql, stamp, upgrade
from tests.acceptance.command import run_forked
from tests.conftest import url_of
from tests.migrations.drafts import Drafts

ROOT = Path(__file__).parents[2]


async def test_reports_the_revisions_before_and_after_and_the_steps(owner_settings: Settings, drafts: Drafts) -> None:
    head = drafts.newest
    drafts.add("one", "op.execute('SELECT 1')")

    with capture_logs() as logs:
        done = await upgrade(owner_settings, folder=drafts.folder)
    again = await upgrade(owner_settings, folder=drafts.folder)

    assert (done.before, done.after) == ((head,), ("one",))
    assert [step.name for step in done.steps] == [f"upgrade {head} -> one"]
    assert 0 < done.steps[0].seconds < 5
    assert [log["step"] for log in logs if log["event"] == "migrated"] == [f"upgrade {head} -> one"]
    assert (again.before, again.after, again.steps) == (("one",), ("one",), ())


@pytest.mark.parametrize("asked", ["base", "-1", "head_before"])
async def test_upgrade_rejects_an_older_revision_and_warns_of_downgrade(
    owner_settings: Settings, drafts: Drafts, asked: str
) -> None:
    before = drafts.newest
    drafts.add("one", "pass")
    await upgrade(owner_settings, folder=drafts.folder)
    asked = before if asked == "head_before" else asked

    with pytest.raises(
        ConfigurationError, match=f"must not be older than one, got {asked}\nhint: no downgrade is necessary"
    ) as caught:
        await upgrade(owner_settings, asked, folder=drafts.folder)

    assert f"downgrade {asked}" not in str(caught.value), "following such a remedy would drop tables"

    assert (await downgrade(owner_settings, "-1", folder=drafts.folder)).after == (before,)


async def test_an_unknown_revision_is_an_error(owner_settings: Settings) -> None:
    with pytest.raises(
        ConfigurationError, match=f"Can't locate revision identified by 'nothing'; this installation has {heads()[0]}"
    ):
        await upgrade(owner_settings, "nothing")


@pytest.mark.slow
async def test_a_database_of_a_newer_release_needs_that_release(
    owner_settings: Settings, superuser: psycopg.Connection
) -> None:
    superuser.execute("UPDATE thea_alembic_version SET version_num = 'newer'")

    for asked in (upgrade(owner_settings), downgrade(owner_settings, "base"), history(owner_settings)):
        with pytest.raises(ConfigurationError, match=r"'newer'; this installation has [^?]*install that release"):
            await asked
    assert await current(owner_settings) == ("newer",)
    done = alembic("upgrade", "head")
    assert "install that release" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


async def test_tables_without_a_revision_are_kept_and_the_error_leads_to_stamp(
    owner_settings: Settings, superuser: psycopg.Connection
) -> None:
    superuser.execute("DROP TABLE thea_alembic_version")

    with pytest.raises(DatabaseError, match="`thea-db verify` names each difference, or the revision to stamp"):
        await upgrade(owner_settings)

    assert (await stamp(owner_settings, "head")).after == heads()


async def test_history_marks_applied_revisions(owner_settings: Settings, drafts: Drafts) -> None:
    head = drafts.newest
    drafts.add("one", "pass")

    newest, before, *_ = await history(owner_settings, folder=drafts.folder)
    unasked = await history()

    assert (newest.revision, newest.follows, newest.message) == ("one", (head,), "one, an example.")
    assert (newest.is_head, newest.is_applied) == (True, False)
    assert (before.revision, before.is_head, before.is_applied) == (head, False, True)
    assert {entry.is_applied for entry in unasked} == {None}


async def test_a_stamp_runs_no_migration(
    owner_settings: Settings, superuser: psycopg.Connection, drafts: Drafts
) -> None:
    drafts.add("one", "op.execute('CREATE TABLE one (i int)')")

    done = await stamp(owner_settings, "one", folder=drafts.folder)

    assert done.after == ("one",)
    assert superuser.execute("SELECT to_regclass('one')").fetchone() == (None,)


async def test_a_generated_revision_contains_the_rules_and_runs(owner_settings: Settings, drafts: Drafts) -> None:
    plain = await revision(owner_settings, "An empty one", folder=drafts.folder)
    first = await upgrade(owner_settings, folder=drafts.folder)
    generated = await revision(owner_settings, "A generated one", autogenerate=True, folder=drafts.folder)
    second = await upgrade(owner_settings, folder=drafts.folder)
    third = await downgrade(owner_settings, "-2", folder=drafts.folder)

    assert plain.parent == generated.parent == drafts.folder
    assert "The previous and the new release run on this schema at the same time" in plain.read_text()
    assert second.before == first.after != second.after
    assert third.after == first.before


async def test_an_installed_release_accepts_no_new_revisions(
    owner_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.database.migrate.run.is_checkout", lambda: False)

    with pytest.raises(ConfigurationError, match="DATABASE_SERVICE_MIGRATIONS"):
        await revision(owner_settings, "A new one")


async def test_a_missing_folder_is_rejected(owner_settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"the folder of revisions must be a folder, got '.*nothing'"):
        await upgrade(owner_settings, folder=tmp_path / "nothing")


async def test_a_folder_may_have_any_name(owner_settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "100% mine: here, and there"
    folder.mkdir()
    Drafts(folder).add("one", "pass")

    assert (await upgrade(owner_settings, folder=folder)).after == ("one",)


async def test_the_sql_of_all_migrations_builds_the_same_schema(
    owner_settings: Settings, superuser: psycopg.Connection
) -> None:
    written = await sql()
    superuser.execute("DROP DATABASE IF EXISTS from_sql WITH (FORCE)")
    superuser.execute(f"CREATE DATABASE from_sql OWNER {OWNER_ROLE}")
    try:
        with psycopg.connect(
            host=superuser.info.host, user=OWNER_ROLE, dbname="from_sql", autocommit=True
        ) as connection:
            # One by one, as psql sends them: CREATE and DROP INDEX CONCURRENTLY stand in no transaction.
            for statement in written.split(";\n\n"):
                connection.execute(statement.encode())
        settings = Settings(ENVIRONMENT="test", DATABASE_URL=url_of("from_sql", OWNER_ROLE))
        assert (await upgrade(settings)).steps == ()
        assert await sql(f"{heads()[0]}:base", down=True) != ""
    finally:
        superuser.execute("DROP DATABASE from_sql WITH (FORCE)")


async def test_a_downgrade_as_sql_needs_a_range(owner_settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="from"):
        await sql("base", down=True)


async def test_a_transaction_pooler_is_rejected(cloned_database: URL) -> None:
    settings = Settings(ENVIRONMENT="test", DATABASE_URL=cloned_database, DATABASE_PGBOUNCER=True)

    with pytest.raises(ConfigurationError, match="DATABASE_MIGRATION_URL must be set if DATABASE_PGBOUNCER=true"):
        await upgrade(settings)


def alembic(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command alembic in the checkout."""
    return run_forked("alembic", arguments, ROOT, os.environ)


async def test_a_search_path_without_a_schema_is_rejected(
    owner_settings: Settings, cloned_database: URL, superuser: psycopg.Connection
) -> None:
    """pg_temp is at the end of every search_path: as the only schema it would receive the tables."""
    superuser.execute(f"ALTER DATABASE {cloned_database.database} SET search_path = missing")

    with pytest.raises(ConfigurationError, match="no schema of the search_path exists") as caught:
        await upgrade(owner_settings)

    assert "CREATE SCHEMA" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("extension", "fault", "remedy"),
    [
        ("pageinspect", 'permission denied to create extension "pageinspect"', "CREATE EXTENSION in this database"),
        ("nowhere", 'extension "nowhere" is not available', "install the extension on the server"),
    ],
)
async def test_an_extension_that_cannot_be_created_is_reported_with_the_remedy(
    owner_settings: Settings, drafts: Drafts, extension: str, fault: str, remedy: str
) -> None:
    drafts.add("one", f"op.execute('CREATE EXTENSION {extension}')")

    with pytest.raises(DatabaseError, match=fault) as caught:
        await upgrade(owner_settings, folder=drafts.folder)

    assert remedy in str(caught.value)
