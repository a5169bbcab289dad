"""thea-db tenant: the registry, export, erase and purge.

Most tests run in the process of the tests, because starting a process takes a second.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import URL
from structlog.testing import capture_logs
from typer.testing import CliRunner

from src.database import get_db, tenant_context
from src.database.base import uuid7
from src.database.cli.tenant import tenant_app
from src.database.errors import DatabaseError
from src.database.models import Tenant, User
from src.database.repositories import TenantRepository
from tests.acceptance.command import database, run
from tests.database.repositories.user_rows import ROWS_OF_A_USER, add_user_with_rows, counts, days_ago

SECRET = "s3cr3t-n0te"

pytestmark = pytest.mark.usefixtures("cloned_database")


def a_tenant(slug: str, **life: Any) -> tuple[Tenant, User]:
    """Register a tenant with a user that has rows in every table."""

    async def make() -> tuple[Tenant, User]:
        async with get_db() as session:
            tenant = await TenantRepository(session).create(slug, slug.title(), retention_days=10)
        with tenant_context(tenant.id):
            async with get_db() as session:
                return tenant, await add_user_with_rows(session, SECRET, **life)

    return asyncio.run(make())


def rows_of(tenant_id: UUID) -> int:
    async def count() -> int:
        with tenant_context(tenant_id):
            async with get_db() as session:
                return sum((await counts(session, tenant_id)).values())

    return asyncio.run(count())


def output_of(*arguments: str, typed: str | None = None) -> str:
    """Run a command, check that it succeeds, and return its standard output."""
    done = CliRunner().invoke(tenant_app, arguments, input=typed)
    assert done.exit_code == 0, done.exception
    return done.stdout


def refusal(*arguments: str, typed: str | None = None) -> str:
    """Run a command, check that it fails, and return the error message."""
    done = CliRunner().invoke(tenant_app, arguments, input=typed)
    assert isinstance(done.exception, DatabaseError)
    assert done.stdout == ""
    return str(done.exception)


def test_a_tenant_is_registered_suspended_and_listed() -> None:
    made = json.loads(output_of("create", "acme", "Acme Ñ", "--retention-days", "90", "--json"))
    suspended = json.loads(output_of("suspend", "acme", "--json"))
    listed = json.loads(output_of("list", "--json"))
    printed = output_of("activate", "acme")

    assert made == {"id": made["id"], "slug": "acme", "name": "Acme Ñ", "status": "active", "retention_days": 90}
    assert suspended == made | {"status": "suspended"}
    assert suspended in listed["tenants"]
    assert printed == f"{made['id']}  active     acme  Acme Ñ  (kept 90 days)\n"
    assert printed in output_of("list")
    assert refusal("create", "acme", "Other").startswith("the slug acme is taken")


def test_a_tenant_is_changed() -> None:
    made = json.loads(output_of("create", "acme", "Acme", "--retention-days", "90", "--json"))

    changed = json.loads(output_of("update", "acme", "--name", "Acme SL", "--slug", "acme-sl", "--json"))
    forever = json.loads(output_of("update", "acme-sl", "--keep-for-ever", "--json"))
    shorter = output_of("update", "acme-sl", "--retention-days", "30")

    assert changed == made | {"name": "Acme SL", "slug": "acme-sl"}
    assert forever == changed | {"retention_days": None}
    assert shorter == f"{made['id']}  active     acme-sl  Acme SL  (kept 30 days)\n"


def test_control_characters_of_a_name_are_not_printed() -> None:
    name = "A\x1b[2J\r\n\x9b\u202eb ñ"
    output_of("create", "acme", name)

    printed, document = output_of("list"), output_of("list", "--json")

    assert r"acme  A\u001b[2J\r\n\u009b\u202eb ñ  (kept" in printed
    assert name in [tenant["name"] for tenant in json.loads(document)["tenants"]]
    assert all(character.isprintable() or character == "\n" for character in printed + document)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("update", "acme"), "nothing was changed: no change was given\nhint: give --name, --slug"),
        (("update", "acme", "--retention-days", "0"), "retention_days must be a whole number from 1"),
        (("update", "acme", "--retention-days", "1", "--keep-for-ever"), "cannot both be given"),
        (("update", "acme", "--slug", "ACME"), "slug must be 1 to 63"),
        (("update", "nobody", "--name", "x"), "there is no tenant 'nobody'"),
        (("suspend", "nobody"), "there is no tenant 'nobody'\nhint: `thea-db tenant list` shows all tenants"),
        (("purge", "nobody"), "there is no tenant 'nobody'"),
        (("erase", "nobody", "--yes"), "there is no tenant 'nobody'"),
        (("export", "nobody"), "there is no tenant 'nobody'"),
        (("create", "Acme_1", "Acme"), "slug must be 1 to 63 characters from a-z, 0-9 and dashes"),
        (("create", "acme-1", "Acme", "--retention-days", "0"), "retention_days must be a whole number from 1"),
        (("export", "acme", "-o", "missing/out"), "missing/out cannot be written: No such file or directory"),
    ],
)
def test_an_error_is_one_message_with_the_remedy(arguments: tuple[str, ...], message: str) -> None:
    tenant, _ = a_tenant("acme")

    assert message in refusal(*arguments)
    assert rows_of(tenant.id) == ROWS_OF_A_USER


@pytest.mark.parametrize("typed", [None, "\n", "acm\n", "y\n"])
def test_erases_nothing_unless_the_slug_is_repeated(typed: str | None) -> None:
    tenant, _ = a_tenant("acme")

    assert refusal("erase", "acme", typed=typed).startswith("nothing was removed: the slug was not confirmed")
    assert rows_of(tenant.id) == ROWS_OF_A_USER


@pytest.mark.parametrize("command", [("export", "acme"), ("erase", "acme", "--yes")])
def test_tables_of_tenants_without_a_model_are_reported(
    command: tuple[str, ...], superuser: psycopg.Connection
) -> None:
    a_tenant("acme")
    superuser.execute("CREATE TABLE orders (tenant_id uuid, id uuid); CREATE TABLE colors (id uuid)")

    with capture_logs() as logged:
        output_of(*command)

    [warning] = [entry for entry in logged if entry["event"] == "tenant_tables_unknown"]
    assert warning["tables"] == ["orders"]
    assert "DATABASE_SERVICE_MODELS" in warning["hint"]


def test_erases_a_tenant_and_nothing_of_others() -> None:
    tenant, _ = a_tenant("acme")
    other, _ = a_tenant("other")

    removed = json.loads(output_of("erase", "acme", "--json", typed="acme\n"))["removed"]

    assert sum(removed.values()) == ROWS_OF_A_USER
    assert rows_of(tenant.id) == 0
    assert rows_of(other.id) == ROWS_OF_A_USER
    assert "acme" not in output_of("list")
    assert output_of("erase", "other", "--yes").startswith("other: removed 2 notes, 2")


def test_exports_a_tenant_to_a_pipe(tmp_path: Path, cloned_database: URL) -> None:
    tenant, _ = a_tenant("acme")
    a_tenant("other")

    done = run("tenant", "export", "acme", folder=tmp_path, DATABASE_URL=database(cloned_database))
    rows = [json.loads(line) for line in done.stdout.splitlines()]

    assert (done.returncode, done.stderr) == (0, "")
    assert rows[0]["row"]["slug"] == "acme"
    assert len(rows) == 1 + ROWS_OF_A_USER
    assert {row["row"].get("tenant_id", str(tenant.id)) for row in rows} == {str(tenant.id)}


def test_exports_a_user_to_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    _, user = a_tenant("acme")
    file = tmp_path / "out.jsonl"
    file.write_text("before")

    assert output_of("export", "acme", "--user", str(user.id), "-o", str(file)) == ""

    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert rows[0]["row"]["id"] == str(user.id)
    assert len(rows) == ROWS_OF_A_USER
    assert file.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == [file]


def test_an_export_to_a_symlink_writes_its_target(tmp_path: Path) -> None:
    a_tenant("acme")
    file, link = tmp_path / "out.jsonl", tmp_path / "link"
    link.symlink_to(file)

    output_of("export", "acme", "-o", str(link))
    output_of("export", "acme", "-o", str(link))

    assert link.is_symlink()
    assert len(file.read_text(encoding="utf-8").splitlines()) == 1 + ROWS_OF_A_USER
    assert sorted(tmp_path.iterdir()) == [link, file]


def test_an_export_to_a_named_pipe_goes_to_its_reader(tmp_path: Path) -> None:
    a_tenant("acme")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = Thread(target=lambda: read.extend(pipe.read_bytes().splitlines()), daemon=True)
    reader.start()

    output_of("export", "acme", "-o", str(pipe))

    assert pipe.is_fifo()
    reader.join(timeout=10)
    assert len(read) == 1 + ROWS_OF_A_USER


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_a_full_device_is_one_message(tmp_path: Path, cloned_database: URL) -> None:
    a_tenant("acme")

    with Path("/dev/full").open("wb") as full:
        done = run("tenant", "export", "acme", folder=tmp_path, output=full, DATABASE_URL=database(cloned_database))

    assert done.returncode == 2
    assert done.stderr == "error: standard output cannot be written: No space left on device\n"


def test_a_failed_export_is_one_message_and_leaves_the_file_of_before(
    tmp_path: Path, cloned_database: URL, superuser: psycopg.Connection
) -> None:
    a_tenant("acme")
    file = tmp_path / "out.jsonl"
    file.write_text("before")
    superuser.execute("REVOKE SELECT ON notes FROM thea_app")

    done = run("tenant", "export", "acme", "-o", file, folder=tmp_path, DATABASE_URL=database(cloned_database))

    assert done.returncode == 2
    assert done.stderr.startswith("error: the role lacks a privilege")
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_an_export_that_stops_half_way_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_tenant("acme")
    monkeypatch.setattr("src.database.cli.tenant.rows.json", FailsAtTheThirdRow())

    done = CliRunner().invoke(tenant_app, ["export", "acme", "-o", str(tmp_path / "out.jsonl")])

    assert isinstance(done.exception, FailsAtTheThirdRow.Error)
    assert list(tmp_path.iterdir()) == []


class FailsAtTheThirdRow:
    """A replacement of `json` that fails, which nothing real can force."""

    class Error(Exception):
        """The failure."""

    rows = 0

    def dumps(self, row: Any, **options: Any) -> str:
        self.rows += 1
        if self.rows == 3:
            raise self.Error
        return json.dumps(row, **options)


def test_an_unknown_user_leaves_no_file(tmp_path: Path) -> None:
    a_tenant("acme")

    message = refusal("export", "acme", "--user", str(uuid7()), "-o", str(tmp_path / "out"))

    assert message.startswith("this tenant has no User with id")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_purges_the_active_tenants_or_the_one_that_is_named() -> None:
    tenant, _ = a_tenant("acme", at=days_ago(11))
    suspended, _ = a_tenant("idle", at=days_ago(11))
    output_of("suspend", "idle")

    dry = json.loads(output_of("purge", "--dry-run", "--json"))["tenants"]
    before = rows_of(tenant.id)
    done = json.loads(output_of("purge", "--json"))["tenants"]
    by_name = output_of("purge", "idle")

    assert before == ROWS_OF_A_USER
    assert dry["acme"] == {
        "notes": 1,
        "message_history": 2,
        "events": 0,
        "conversations": 0,
        "users": 0,
        "user_identities": 0,
        "state_entries": 0,
    }
    assert done["acme"] == dry["acme"]
    assert "idle" not in done
    assert by_name == "idle: removed 1 notes, 2 message_history\n"
    assert rows_of(tenant.id) == rows_of(suspended.id) == ROWS_OF_A_USER - 3
    assert output_of("purge", "idle", "--dry-run") == "idle: would remove nothing\n"
