"""`thea-db check`: the checks of the migrations in a scratch database, which is dropped afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import URL
from typer.testing import CliRunner

from src.config import Settings
from src.database.base import Base
from src.database.check_result import CheckResult
from src.database.cli.drift import drift_app
from src.database.drift import Catalog, snapshot
from src.database.drift import check_migrations as check
from src.database.drift import migrations_check as check_module
from src.database.drift.scratch import scratch_database
from src.database.embedded import SUPERUSER
from src.database.migrate import package_history
from tests.conftest import url_of

SQUAWK = check_module.find_squawk()
SHIPPED = snapshot.SNAPSHOT_FILE.read_text()


@pytest.fixture
def settings(use_database: Callable[..., Settings]) -> Settings:
    """Settings of a role that may create databases."""
    return use_database(url_of("postgres", SUPERUSER))


@pytest.fixture
def without_squawk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "find_squawk", lambda: None)


def text_of(file: Path) -> str:
    return file.read_text()


@pytest.fixture
def stale(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A snapshot file in place of the released one, with one changed fact."""
    file = tmp_path / "snapshot.json"
    file.write_text(SHIPPED.replace('"nullability": "NOT NULL"', '"nullability": "NULL"', 1))
    for module in (snapshot, check_module):
        monkeypatch.setattr(module, "SNAPSHOT_FILE", file)
    snapshot.load_snapshot.cache_clear()
    yield file
    snapshot.load_snapshot.cache_clear()


@pytest.mark.slow
async def test_all_checks_pass_and_the_scratch_database_is_dropped(
    settings: Settings, stale: Path, scratches: Callable[[], list[Any]]
) -> None:
    outcomes = await check(settings, update_snapshot=True)

    squawk = "ok" if SQUAWK else "skipped"
    assert {name: one.status for name, one in outcomes.items()} == {
        **dict.fromkeys(("one head", "build", "autogenerate", "models", "isolation", "up, down, up", "snapshot"), "ok"),
        "squawk": squawk,
    }, outcomes
    assert text_of(stale) == SHIPPED, "the snapshot that ships is stale: thea-db check --update-snapshot"
    assert scratches() == []


def test_a_stale_snapshot_fails_and_names_the_difference(stale: Path) -> None:
    shipped = json.loads(SHIPPED)
    built = Catalog(objects=shipped["objects"], server_major=shipped["server"], revisions=tuple(shipped["revisions"]))

    outcome = check_module._check_snapshot(built, None)

    assert stale.exists()
    assert (outcome.status, "nullability must be" in outcome.found) == ("failed", True)


@pytest.fixture
def changed_models() -> Iterator[None]:
    """A predicate that no migration has; autogenerate does not compare predicates."""
    notes = Base.metadata.tables["notes"]
    index = next(index for index in notes.indexes if index.name == "ix_notes_pinned")
    before = index.dialect_options["postgresql"]["where"]
    index.dialect_options["postgresql"]["where"] = sa.text("pinned")
    yield
    index.dialect_options["postgresql"]["where"] = before


@pytest.mark.slow
@pytest.mark.usefixtures("without_squawk", "changed_models")
async def test_a_model_that_no_migration_builds_fails(settings: Settings) -> None:
    outcomes = await check(settings)

    assert {name for name, one in outcomes.items() if one.status == "failed"} == {"models"}
    assert "ix_notes_pinned" in outcomes["models"].found


@pytest.mark.usefixtures("without_squawk")
async def test_strict_fails_without_squawk(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing_but_squawk(*_arguments: object, **_options: object) -> dict[str, CheckResult]:
        return {"squawk": await check_module._check_squawk(package_history())}

    monkeypatch.setattr("src.database.drift.check_migrations", nothing_but_squawk)
    codes = [
        (await asyncio.to_thread(CliRunner().invoke, drift_app, ["check", *options])).exit_code
        for options in ([], ["--strict"])
    ]

    assert settings.is_local
    assert codes == [0, 1]


@pytest.mark.skipif(SQUAWK is None, reason="squawk is not installed")
@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("CREATE INDEX by_title ON notes (title);", "require-concurrent-index-creation"),
        ("ALTER TABLE notes ADD CONSTRAINT c CHECK (title > '');", "constraint-missing-not-valid"),
        ("ALTER TABLE notes ALTER title SET NOT NULL;", "adding-not-nullable-field"),
        ("ALTER TABLE notes RENAME COLUMN title TO heading;", "renaming-column"),
    ],
)
async def test_squawk_finds_locks_and_breaks_of_the_previous_release(
    statement: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sql_of(_history: object, _revisions: str) -> str:
        return statement

    monkeypatch.setattr(check_module, "sql_of", sql_of)

    faults, _unwritten = await check_module.lint(str(SQUAWK), package_history())

    assert rule in {fault["rule_name"] for fault in faults}


async def test_a_scratch_database_is_dropped_on_cancellation(
    settings: Settings, scratches: Callable[[], list[Any]]
) -> None:
    inside = asyncio.Event()

    async def use() -> None:
        async with scratch_database(settings):
            inside.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(use())
    await inside.wait()
    assert len(scratches()) == 1
    task.cancel()
    await asyncio.wait([task])

    assert scratches() == []


async def test_a_role_without_createdb_fails_the_build_and_the_other_checks_run(
    use_database: Callable[..., Settings], cloned_database: URL
) -> None:
    outcomes = await check(use_database(cloned_database))

    assert outcomes["build"].status == "failed"
    assert "CREATEDB" in str(outcomes["build"].remedy)
    assert (outcomes["one head"].status, outcomes["snapshot"].status) == ("ok", "skipped")


@pytest.mark.slow
async def test_the_remedy_of_a_failed_build_allows_the_build(
    use_database: Callable[..., Settings], cloned_database: URL, superuser: psycopg.Connection
) -> None:
    superuser.execute("CREATE ROLE builder LOGIN")
    try:
        settings = use_database(cloned_database.set(username="builder"))
        remedy = str((await check(settings))["build"].remedy)
        superuser.execute(remedy.partition("as a superuser: ")[2].partition(";")[0].encode())
        built = (await check(settings))["build"]
    finally:
        superuser.execute("DROP OWNED BY builder; DROP ROLE builder")

    assert built.status == "ok"
