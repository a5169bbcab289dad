"""The run-book of point-in-time recovery, from archiving to promotion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from src.database.embedded.process import programs
from src.database.embedded.process import run as run_program
from tests.acceptance.replication import Node, _copy_template
from tests.acceptance.runbooks import blocks, folder_of_server, perform, query, quick_folder, settle, skip_unless

RUNBOOK = "point-in-time-recovery"
ADD = (
    "WITH t AS (INSERT INTO tenants (id, slug, name) VALUES (gen_random_uuid(), '{slug}', 'x') RETURNING id)"
    " INSERT INTO users (tenant_id, id, display_name) SELECT id, gen_random_uuid(), '{slug}' FROM t"
)
NAMES = "SELECT display_name FROM users ORDER BY 1"


@pytest.fixture(autouse=True)
def _can_be_done(*, is_long: bool) -> None:
    skip_unless(programs() / "pg_basebackup", is_long=is_long)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


def test_recovers_the_instant_before_a_mistake(open_folder: Path) -> None:
    steps = blocks(RUNBOOK)
    archive, check = steps["Once: archive the WAL"]
    stop, recover = steps["Recover"]
    check, promote = steps["Check, then promote"]
    node = Node(open_folder / "node")
    _copy_template(node)
    settle(node.data, node.folder)
    places: dict[str, str | Path] = {
        "PGDATA": node.data,
        "ARCHIVE": folder_of_server(open_folder, "archive"),
        "BASE": folder_of_server(open_folder, "disk") / "base",
        "RECOVERED": node.folder / "recovered",
        "PGHOST": node.folder,
    }
    output = folder_of_server(open_folder, "shell")

    def run(block: str, **variables: str) -> str:
        return perform(block, folder=output, variables={**places, **variables})

    with ExitStack() as stack:
        for data in (node.data, places["RECOVERED"]):
            stack.callback(run_program, "pg_ctl", "stop", "-D", str(data), "-m", "immediate", capture=False)
        run('pg_ctl start -w -D "$PGDATA" -l "$PGDATA/../log"')
        run(archive)
        query(node.folder, ADD.format(slug="before-the-backup"))
        run(steps["Every night: a base backup"][0])
        run(steps["Every night: a base backup"][0])  # the next night
        query(node.folder, ADD.format(slug="after-the-backup"))
        [(target,)] = query(node.folder, "SELECT clock_timestamp()::text")
        query(node.folder, "TRUNCATE events; DELETE FROM users")  # the mistake, in one transaction
        query(node.folder, ADD.format(slug="after-the-mistake"))
        assert run(check).count(" row") == 2
        run(stop)

        run(recover, TARGET=target)
        assert run(check).split("\n")[2].split("|")[0].strip() == "t"
        assert query(node.folder, NAMES) == [("after-the-backup",), ("before-the-backup",)]
        with pytest.raises(psycopg.errors.LockNotAvailable):
            query(node.folder, "SET lock_timeout = '50ms'; SELECT FROM events")
        run(promote)

        assert query(node.folder, "SELECT count(*) FROM events") == [(0,)]
        query(node.folder, ADD.format(slug="after-the-recovery"))
        assert len(query(node.folder, NAMES)) == 3
        assert query(node.folder, "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)") == [("00000002",)]
        assert query(node.folder, "SHOW restore_command") == [("",)]
        forced = (
            "SELECT bool_and(relforcerowsecurity) FROM pg_class WHERE oid IN ('users'::regclass, 'notes'::regclass)"
        )
        assert query(node.folder, forced) == [(True,)]
        assert query(node.folder, f"SET ROLE thea_app; {NAMES}") == []
