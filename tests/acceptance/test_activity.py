"""thea-db activity: sessions, which session blocks which, and what is hidden."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database.cli.activity import Activity, run_activity, sessions_of
from src.database.embedded import APP_ROLE, SUPERUSER

CANARY = "c4n4ry-c0nt3nt"
LOCK = "LOCK TABLE notes IN SHARE ROW EXCLUSIVE MODE"


@contextmanager
def session(url: URL, application: str, user: str = APP_ROLE) -> Iterator[psycopg.Connection]:
    host = str(url.query["host"])
    with psycopg.connect(host=host, dbname=url.database, user=user, application_name=application) as connection:
        yield connection
        connection.rollback()


@contextmanager
def blocked(url: URL, superuser: psycopg.Connection) -> Iterator[tuple[int, int]]:
    """Open a session that waits for a lock of another session; yield the two pids, the holder's first."""
    with session(url, "agent/test/default/7") as holder, session(url, "worker/test/queue/8") as waiting:
        holder.execute(LOCK)
        thread = Thread(target=waiting.execute, args=[LOCK])
        thread.start()
        try:
            deadline = time.monotonic() + 10
            while not superuser.execute("SELECT pg_blocking_pids(%s)", (waiting.info.backend_pid,)).fetchone()[0]:  # type: ignore[index] # it has one row
                assert time.monotonic() < deadline, "no session waits"
                time.sleep(0.01)
            yield holder.info.backend_pid, waiting.info.backend_pid
        finally:
            holder.rollback()
            thread.join()


def activity_of(url: URL, *, queries: bool = False, long_after_seconds: float = 60) -> Activity:
    settings = Settings(ENVIRONMENT="test", DATABASE_URL=url)
    return asyncio.run(sessions_of(settings, queries=queries, long_after_seconds=long_after_seconds))


def printed(url: URL, capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    asked = {"queries": False, "long_after_seconds": 60, "as_json": False, **options}
    run_activity(Settings(ENVIRONMENT="test", DATABASE_URL=url), **asked)
    return capsys.readouterr().out


def test_reports_which_session_blocks_which_and_the_kind_of_lock(
    cloned_database: URL, superuser: psycopg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    with blocked(cloned_database, superuser) as (holder, waiting):
        sessions = {one.pid: one for one in activity_of(cloned_database).sessions}
        lines = {line.split()[0]: line for line in printed(cloned_database, capsys).splitlines() if line.strip()}

    assert (sessions[holder].blocks, sessions[waiting].blocked_by) == ((waiting,), (holder,))
    assert sessions[waiting].lock == "ShareRowExclusiveLock on notes"
    assert (sessions[holder].application, sessions[holder].user) == ("agent/test/default/7", APP_ROLE)
    assert (sessions[holder].state, sessions[waiting].state) == ("idle in transaction", "active")
    assert f"ShareRowExclusiveLock on notes, held by {holder}" in lines[str(waiting)]
    assert lines[str(holder)].rstrip().endswith(str(waiting))


def test_statements_are_hidden_by_default(cloned_database: URL, capsys: pytest.CaptureFixture[str]) -> None:
    with session(cloned_database, "agent") as busy:
        busy.execute(f"SELECT '{CANARY}\x1b[2J'")

        assert CANARY not in printed(cloned_database, capsys) + printed(cloned_database, capsys, as_json=True)
        asked = printed(cloned_database, capsys, queries=True)
        assert CANARY in asked
        assert "\x1b" not in asked, "a statement must not control the terminal"
        assert CANARY in printed(cloned_database, capsys, queries=True, as_json=True)


def test_hidden_activity_is_reported_as_hidden(cloned_database: URL, capsys: pytest.CaptureFixture[str]) -> None:
    with session(cloned_database, "backup", SUPERUSER) as other:
        other.execute(f"SELECT '{CANARY}'")
        pid = other.info.backend_pid
        ours = {one.pid: one for one in activity_of(cloned_database, queries=True, long_after_seconds=0).sessions}[pid]
        output = printed(cloned_database, capsys)
        everything = activity_of(cloned_database.set(username=SUPERUSER), queries=True)

    assert (ours.application, ours.user, ours.is_visible) == ("backup", SUPERUSER, False)
    assert (ours.state, ours.seconds, ours.query, ours.is_long) == (None, None, None, False)
    assert "hidden" in output
    assert "a member of pg_read_all_stats" in output
    assert "GRANT" not in output, "the application's role must not read what other services send"
    assert everything.hidden == 0
    assert CANARY in str({one.pid: one for one in everything.sessions}[pid].query)


def test_long_transactions_are_marked(cloned_database: URL, capsys: pytest.CaptureFixture[str]) -> None:
    with session(cloned_database, "agent") as idle:
        idle.execute("SELECT 1")
        pid = idle.info.backend_pid
        document = json.loads(printed(cloned_database, capsys, long_after_seconds=0, as_json=True))
        [of_ours] = [one for one in document["sessions"] if one["pid"] == pid]
        output = printed(cloned_database, capsys, long_after_seconds=0)
        young = printed(cloned_database, capsys, long_after_seconds=3600)

    assert (of_ours["is_long"], of_ours["transaction_seconds"] > 0, of_ours["query"]) == (True, True, None)
    assert "s, long" in output
    assert f"long transactions hold locks and prevent vacuum from removing rows: pid {pid}" in output
    assert "long" not in young


def test_sessions_of_other_databases_and_its_own_are_excluded(cloned_database: URL) -> None:
    with session(cloned_database.set(database="postgres"), "elsewhere"):
        applications = {one.application for one in activity_of(cloned_database).sessions}

    assert not {name for name in applications if name == "elsewhere" or name.endswith("thea-db")}
