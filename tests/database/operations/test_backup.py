"""Backup and restore: every row, the isolation layers, and errors if rows would be missing."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from src.database.embedded.process import programs
from src.database.errors import ConfigurationError, DatabaseError
from src.database.migrate import upgrade
from src.database.operations import back_up, bootstrap, restore, verify_backup
from src.database.operations.backup import Manifest, Table, compare, read_manifest
from src.database.operations.programs import _without_data, find_program
from src.database.target import Host, Target
from tests.database.operations.conftest import CANARY, Cluster

MESSAGES, QUICK_MESSAGES = 100_000, 5_000
# Two tenants: a backup by a role under row-level security would lack their rows.
FILL = """
SET session_replication_role = replica; -- no foreign key is checked: they are right
INSERT INTO tenants (id, slug, name)
     SELECT gen_random_uuid(), 'tenant-' || n, 'Tenant' FROM generate_series(1, 2) AS n;
INSERT INTO users (tenant_id, id, telegram_id) SELECT id, gen_random_uuid(), 1 FROM tenants;
INSERT INTO conversations (tenant_id, id, user_id, session_id, channel, last_seq)
     SELECT tenant_id, gen_random_uuid(), id, 's', 'telegram', {of_each} FROM users;
INSERT INTO message_history (tenant_id, id, conversation_id, user_id, seq, message_id, role, content)
     SELECT tenant_id, gen_random_uuid(), id, user_id, n, 'm' || n, 'user', 'secret ' || n
       FROM conversations, generate_series(1, {of_each}) AS n;
"""

SMALL = """
CREATE TABLE protected AS SELECT 1 AS tenant_id FROM generate_series(1, 2);
CREATE POLICY hide_all ON protected USING (false);
ALTER TABLE protected ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE TABLE bare AS SELECT 1 AS tenant_id;
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("backups")


@pytest.fixture(scope="module")
def messages(*, is_long: bool) -> int:
    return MESSAGES if is_long else QUICK_MESSAGES


@pytest.fixture(scope="module")
def backup(cluster: Cluster, folder: Path, messages: int) -> Manifest:
    """The database `full` with the messages of two tenants, backed up in `full.dump`; `--long`: 100,000 of them."""
    settings = cluster.settings("full")

    async def make() -> Manifest:
        await bootstrap(settings)
        await upgrade(settings)
        cluster.sql(FILL.format(of_each=messages // 2), database="full")
        return await back_up(settings, folder / "full.dump")

    with ThreadPoolExecutor() as thread:  # an event loop may already run in this thread
        return thread.submit(asyncio.run, make()).result()


def test_a_backup_has_the_rows_of_every_tenant_and_only_its_owner_reads_it(
    backup: Manifest, folder: Path, messages: int
) -> None:
    assert backup.tables["public.message_history"].rows == messages
    assert backup.tables["public.users"] == Table(
        rows=2, row_security=True, forced=True, policies=["tenant_isolation for *"]
    )
    assert read_manifest(folder / "full.dump") == backup
    assert backup.revision
    assert sorted(path.name for path in folder.glob("*full*")) == ["full.dump", "full.dump.json"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert "secret" not in (folder / "full.dump.json").read_text()


async def test_a_restored_database_has_its_isolation_layers_and_serves(
    cluster: Cluster, backup: Manifest, folder: Path, messages: int
) -> None:
    await bootstrap(cluster.settings("elsewhere"))

    restored = await restore(cluster.settings("elsewhere"), folder / "full.dump")

    assert restored.manifest == backup
    assert restored.differences == []
    assert not restored.application_lacks_rights
    as_app = "SELECT count(*) FROM message_history"
    assert cluster.sql(as_app, user="elsewhere_app", database="elsewhere") == [(0,)]  # no current tenant
    assert cluster.sql(as_app, user="elsewhere_owner", database="elsewhere") == [(0,)]
    assert cluster.sql(as_app, database="elsewhere") == [(messages,)]
    owners = "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    assert cluster.sql(owners, database="elsewhere") == [("elsewhere_owner",)]
    writes = "SELECT has_table_privilege('elsewhere_app', 'thea_alembic_version', 'INSERT, UPDATE, DELETE')"
    assert cluster.sql(writes, database="elsewhere") == [(False,)]
    statistics = "SELECT reltuples::int FROM pg_class WHERE relname = 'message_history'"
    assert cluster.sql(statistics, database="elsewhere") == [(messages,)]
    with pytest.raises(ConfigurationError, match="the database elsewhere must be empty, and has app_append_message"):
        await restore(cluster.settings("elsewhere"), folder / "full.dump")


async def test_verification_restores_and_reports_differences_from_the_manifest(
    cluster: Cluster, tmp_path: Path
) -> None:
    settings = cluster.settings("small")
    await bootstrap(settings)
    cluster.sql(SMALL, user="small_owner", database="small")
    manifest = await back_up(settings, tmp_path / "small.dump")
    claimed = replace(manifest.tables["public.protected"], rows=3, policies=["other for *"])
    wrong = replace(manifest, tables={**manifest.tables, "public.protected": claimed})

    right = await verify_backup(settings, tmp_path / "small.dump", manifest)
    differences = await verify_backup(settings, tmp_path / "small.dump", wrong)

    assert right == ["public.bare has rows of tenants, and row-level security is not forced on it"]
    assert differences == [
        *right,
        "public.protected has 2 rows, and had 3",
        "public.protected has the policies ['hide_all for *'], and had ['other for *']",
    ]
    assert cluster.sql("SELECT count(*) FROM pg_database WHERE datname LIKE 'thea_verify%'") == [(0,)]


async def test_the_manifest_and_the_archive_are_of_one_snapshot(cluster: Cluster, tmp_path: Path) -> None:
    """A row is inserted during the backup, after the count and before pg_dump reads."""
    settings = cluster.settings("moving")
    await bootstrap(settings)
    cluster.sql("CREATE TABLE kept AS SELECT 1 AS n", user="moving_owner", database="moving")
    insert = "INSERT INTO kept VALUES (2)"
    psql = f"PGUSER=postgres PGPASSWORD='{cluster.admin_url.password}' {programs()}/psql -q -c '{insert}'"
    (tmp_path / "pg_dump").write_text(f'#!/bin/sh\n[ $1 = --version ] || {psql}\nexec {programs()}/pg_dump "$@"\n')
    (tmp_path / "pg_dump").chmod(0o755)

    manifest = await back_up(settings, tmp_path / "moving.dump", programs=tmp_path)

    assert cluster.sql("SELECT count(*) FROM kept", database="moving") == [(2,)]
    assert manifest.tables["public.kept"].rows == 1
    assert await verify_backup(settings, tmp_path / "moving.dump", manifest) == []


@pytest.mark.parametrize("user", ["full_app", "full_owner"])
async def test_a_role_under_row_level_security_cannot_back_up(
    cluster: Cluster, backup: Manifest, tmp_path: Path, user: str
) -> None:
    settings = cluster.settings("full", DATABASE_BACKUP_URL=cluster.url(user, "full"))

    with pytest.raises(ConfigurationError, match=f"{user} must be a superuser or have BYPASSRLS"):
        await back_up(settings, tmp_path / "bound.dump")
    assert not list(tmp_path.iterdir())  # noqa: ASYNC240 - nothing else runs here


async def test_a_backup_that_changed_is_not_restored(cluster: Cluster, backup: Manifest, tmp_path: Path) -> None:
    (tmp_path / "cut.dump").write_bytes(b"PGDMP and no more")
    (tmp_path / "cut.dump.json").write_text(backup.as_json())

    with pytest.raises(ConfigurationError, match="its SHA-256 differs"):
        await restore(cluster.settings("elsewhere"), tmp_path / "cut.dump")


async def test_a_failure_leaves_no_file_and_reports_no_data(cluster: Cluster, tmp_path: Path) -> None:
    """A file that is no archive, and a pg_dump that fails: the database stays empty, and no partial file stays."""
    await bootstrap(cluster.settings("hollow"))
    (tmp_path / "no.dump").write_bytes(b"nothing of the kind")

    with pytest.raises(DatabaseError, match=r"pg_restore 18 ended with 1: .*did not find|input file"):
        await restore(cluster.settings("hollow"), tmp_path / "no.dump")
    tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    assert cluster.sql(tables, database="hollow") == [(0,)]

    (tmp_path / "pg_dump").write_text(
        "#!/bin/sh\n"
        '[ "$1" = --version ] && echo "pg_dump (PostgreSQL) 18.6" && exit\n'
        f'echo "$@" >{tmp_path}/arguments; env >{tmp_path}/environment\n'
        'echo "pg_dump: error: query failed: ERROR:  invalid input syntax: secret-of-a-user" >&2; exit 1\n'
    )
    (tmp_path / "pg_dump").chmod(0o755)
    with pytest.raises(DatabaseError, match="the error is withheld") as failed:
        await back_up(cluster.settings("hollow"), tmp_path / "half.dump", programs=tmp_path)
    assert "secret-of-a-user" not in str(failed.value)
    assert not list(tmp_path.glob("*half*"))  # noqa: ASYNC240 - nothing else runs here
    assert "c4n4ry" not in (tmp_path / "arguments").read_text()
    assert f"PGPASSWORD={CANARY}hollow_backup" in (tmp_path / "environment").read_text()


async def test_an_older_program_is_rejected(cluster: Cluster, backup: Manifest, tmp_path: Path) -> None:
    (tmp_path / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)'\n")
    (tmp_path / "pg_dump").chmod(0o755)

    with pytest.raises(ConfigurationError, match=r"pg_dump must be of PostgreSQL 18 or later.*pg_dump is of 15"):
        await back_up(cluster.settings("full"), tmp_path / "old.dump", programs=tmp_path)
    with pytest.raises(ConfigurationError, match="no such program was found in"):
        find_program("pg_dump", at_least=15, folder=tmp_path / "nowhere", target=ELSEWHERE)


async def test_the_program_nearest_to_the_servers_version_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 99.1'\n")
    (tmp_path / "pg_dump").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    local = Target(hosts=(Host("127.0.0.1"),), database="thea", user="thea_backup", ssl_mode="disable")

    assert find_program("pg_dump", at_least=18, folder=None, target=local).major == 18
    assert find_program("pg_dump", at_least=19, folder=None, target=local).major == 99


async def test_an_existing_file_is_not_overwritten(cluster: Cluster, backup: Manifest, folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="must not exist"):
        await back_up(cluster.settings("full"), folder / "full.dump")


ELSEWHERE = Target(hosts=(Host("db.example"),), database="thea", user="thea_backup", ssl_mode="require")


@pytest.mark.skipif(sys.platform == "win32", reason="the wheel's programs are looked for by their path")
def test_the_programs_of_the_wheel_are_not_used_with_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    local = Target(hosts=(Host("127.0.0.1"),), database="thea", user="thea_backup", ssl_mode="disable")

    assert find_program("pg_dump", at_least=18, folder=None, target=local).major == 18
    with pytest.raises(ConfigurationError, match="install the client of PostgreSQL 18"):
        find_program("pg_dump", at_least=18, folder=None, target=ELSEWHERE)


def test_errors_of_a_program_are_reported_without_data() -> None:
    errors = (
        "pg_restore: from TOC entry 3456; 0 16400 TABLE DATA users owner\n"
        'pg_restore: error: COPY failed for table "users": ERROR:  invalid input syntax for type uuid: "somebody"\n'
        'CONTEXT:  COPY users, line 1: "somebody"\n'
        "pg_restore: error: could not execute query: ERROR:  permission denied for schema public\n"
        'Command was: CREATE "x"'
    )

    assert _without_data(errors) == (
        "pg_restore: from TOC entry 3456; 0 16400 TABLE DATA users owner; "
        "pg_restore: error: could not execute query: ERROR:  permission denied for schema public"
    )


def test_every_kind_of_difference_is_described() -> None:
    table = Table(rows=1, row_security=True, forced=True, policies=["p for *"])
    bare = Table(rows=2, row_security=False, forced=False, policies=[])

    assert compare({"a": table, "gone": table}, {"a": bare, "new": table}) == [
        "a has 2 rows, and had 1",
        "a has the policies [], and had ['p for *']",
        "a: row-level security is off, and was forced",
        "gone is missing",
        "new was not in the backup",
    ]


def test_an_invalid_manifest_is_rejected(tmp_path: Path) -> None:
    assert read_manifest(tmp_path / "x") is None
    for text in ("", "[]", "{}", json.dumps({"tables": {"a": {"rows": 1}}})):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ConfigurationError, match="must be the manifest of a backup"):
            read_manifest(tmp_path / "x")
