"""The run-book of a major upgrade, from the system's PostgreSQL to the embedded one."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database.embedded import APP_ROLE, DATABASE, OWNER_ROLE, SUPERUSER
from src.database.embedded.process import programs
from src.database.migrate import upgrade
from tests.acceptance.runbooks import blocks, folder_of_server, perform, query, quick_folder, settle, skip_unless

SYSTEM = min(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/nowhere"))
RUNBOOK = "upgrade-postgresql"
PLENTY = (
    "INSERT INTO tenants (id, slug, name) SELECT gen_random_uuid(), 't' || n, 'Ñandú' FROM generate_series(1, 3) AS n;"
    "INSERT INTO users (tenant_id, id, display_name)"
    " SELECT id, gen_random_uuid(), 'Ñ' || n FROM tenants, generate_series(1, 500) AS n"
)
FACTS = (
    "SELECT (SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM users AS t),"
    " (SELECT count(*) FROM pg_policies), (SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'),"
    " (SELECT bool_and(convalidated) FROM pg_constraint),"
    " (SELECT rolpassword FROM pg_authid WHERE rolname = 'thea_app'),"
    " (SELECT bool_and(relforcerowsecurity) FROM pg_class WHERE oid IN ('users'::regclass, 'notes'::regclass)),"
    " has_table_privilege('thea_app', 'users', 'INSERT')"
)
START = '"$BIN/pg_ctl" start -w -D "$DATA" -l "$DATA/../log"'
STOP = '"$BIN/pg_ctl" stop -w -D "$DATA"'


@pytest.fixture(autouse=True)
def _can_be_done(*, is_long: bool) -> None:
    skip_unless(SYSTEM / "initdb", programs() / "pg_upgrade", is_long=is_long)


class Machine:
    """The programs of both versions, and a folder for each server."""

    def __init__(self, folder: Path) -> None:
        self.shell = folder_of_server(folder, "shell")
        self.old = folder_of_server(folder, "old")
        self.new = folder_of_server(folder, "new")
        self.variables: dict[str, str | Path] = {
            "OLD_BIN": SYSTEM,
            "NEW_BIN": programs(),
            "OLD_HOST": self.old,
            "NEW_HOST": self.new,
            "OLD_DATA": self.old / "data",
            "NEW_DATA": self.new / "data",
            "DUMP": self.shell / "dump",
            "DATABASE": DATABASE,
        }

    def run(self, block: str) -> str:
        return perform(block, folder=self.shell, variables=self.variables)

    def server(self, command: str, where: Path) -> None:
        binaries = SYSTEM if where == self.old else programs()
        perform(command, folder=self.shell, variables={"BIN": binaries, "DATA": where / "data"})

    def make(self, where: Path, *options: str) -> None:
        self.server(
            f'"$BIN/initdb" -D "$DATA" -U {SUPERUSER} -E UTF8 --locale=C.UTF-8 --no-sync {" ".join(options)}', where
        )
        settle(where / "data", where)


@pytest.fixture
def machine() -> Iterator[Machine]:
    """An old server with a migrated database, rows of three tenants and roles with passwords and limits."""
    with quick_folder() as folder, ExitStack() as stack:
        machine = Machine(folder)
        for where in (machine.old, machine.new):
            stack.callback(_end, where / "data")
        _make_old(machine)
        yield machine


def _make_old(machine: Machine) -> None:
    machine.make(machine.old)
    machine.server(START, machine.old)
    for statement in (
        f"CREATE ROLE {OWNER_ROLE} LOGIN PASSWORD 'x'",
        f"CREATE ROLE {APP_ROLE} LOGIN PASSWORD 'y'",
        f"ALTER ROLE {APP_ROLE} SET statement_timeout = '7s'",
        f"CREATE DATABASE {DATABASE} OWNER {OWNER_ROLE}",
    ):
        query(machine.old, statement, "postgres")
    query(
        machine.old,
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER_ROLE} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {APP_ROLE}",
    )
    url = URL.create("postgresql", OWNER_ROLE, database=DATABASE, query={"host": str(machine.old)})
    thread = Thread(target=lambda: asyncio.run(upgrade(Settings(ENVIRONMENT="test", DATABASE_URL=url))))
    thread.start()
    thread.join()
    query(machine.old, PLENTY)


def _end(data: Path) -> None:
    if (data / "postmaster.pid").exists():
        subprocess.run(["kill", "-QUIT", (data / "postmaster.pid").read_text().split()[0]], check=False)  # noqa: S607


def test_dump_and_restore_copies_everything(machine: Machine) -> None:
    steps = blocks(RUNBOOK)
    stop_writing, dump_and_restore = steps["Dump and restore"]
    open_again, compare = steps["Afterwards"]
    before = query(machine.old, FACTS)
    machine.make(machine.new)
    machine.server(START, machine.new)

    machine.run(stop_writing)
    with pytest.raises(Exception, match="read-only transaction"):
        query(machine.old, "DELETE FROM users")
    machine.run(dump_and_restore)
    machine.run(open_again)
    machine.run(compare)

    assert query(machine.new, FACTS) == before
    assert query(machine.new, "SELECT count(*) FROM pg_stats WHERE tablename = 'users'") > [(0,)]
    assert query(machine.new, "SET ROLE thea_app; SELECT count(*) FROM users") == [(0,)]
    assert query(machine.new, "SELECT setconfig FROM pg_db_role_setting") == [(["statement_timeout=7s"],)]
    query(machine.new, "DELETE FROM users")
    assert query(machine.old, "SELECT count(*) FROM users") == [(1500,)]


def test_pg_upgrade_keeps_everything(machine: Machine) -> None:
    steps = blocks(RUNBOOK)
    in_place, collations = steps["In place: pg_upgrade"]
    before = query(machine.old, FACTS)
    machine.make(machine.new, "--no-data-checksums")
    machine.server(STOP, machine.old)

    machine.run(in_place)
    machine.server(START, machine.new)
    machine.run(steps["Afterwards"][0])
    machine.run(collations)

    assert query(machine.new, FACTS) == before
    assert query(machine.new, "SET ROLE thea_app; SELECT count(*) FROM users") == [(0,)]
