"""thea-db activity: the database's sessions, what they wait for, and which session blocks which."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from src.config import Settings
from src.database.cli.connection import reach
from src.database.cli.output import print_json, print_rows, print_warning

_HIDDEN: Final = "hidden"
_HEADER: Final = ("pid", "application", "user", "state", "for", "transaction", "waits for", "blocks")

# The columns of another role's session that may not be seen are null; the server's own condition tells them from empty
# ones. Blocked sessions are found in pg_locks, which every role may read.
_SESSIONS: Final = """
SELECT pid, application_name AS application, usename AS "user",
       pg_has_role('pg_read_all_stats', 'USAGE') OR pg_has_role(usesysid, 'USAGE') AS is_visible, state,
       extract(epoch FROM clock_timestamp() - state_change)::float8 AS seconds,
       extract(epoch FROM clock_timestamp() - xact_start)::float8 AS transaction_seconds,
       nullif(concat_ws(': ', wait_event_type, wait_event), '') AS wait_event,
       mode || ' on ' || coalesce(relation::regclass::text, locktype) AS lock,
       CASE WHEN mode IS NULL THEN '{}' ELSE pg_blocking_pids(pid) END AS blocked_by,
       CASE WHEN $1 THEN query END AS query
  FROM pg_catalog.pg_stat_activity
  LEFT JOIN (SELECT DISTINCT ON (pid) pid, mode, relation, locktype FROM pg_catalog.pg_locks WHERE NOT granted
              ORDER BY pid) AS waiting USING (pid)
 WHERE datname = current_database() AND usesysid IS NOT NULL AND pid <> pg_backend_pid() AND leader_pid IS NULL
 ORDER BY xact_start, pid
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One connection to the database; an attribute that the role may not see is None.

    Args:
        pid: The server's process.
        application: Its application name: ``<service>/<environment>/<pool>/<process>`` for one of this package.
        user: Its role.
        is_visible: Whether the role may see more than these three and the locks.
        state: The state in the server's words: active, idle, idle in transaction.
        seconds: How long it has been in this state.
        transaction_seconds: The age of its transaction.
        is_long: Whether the transaction is older than the limit.
        wait_event: What it waits for, in the server's words.
        lock: The mode and the object of the lock that it waits for.
        blocked_by: The processes that have the lock, or wait for it before this one; 0 is a prepared transaction.
        blocks: The processes that wait for this one.
        query: Its statement, or its last one if it is idle; only if it was requested.
    """

    pid: int
    application: str
    user: str
    is_visible: bool
    state: str | None = None
    seconds: float | None = None
    transaction_seconds: float | None = None
    is_long: bool = False
    wait_event: str | None = None
    lock: str | None = None
    blocked_by: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    query: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """The sessions of a database, as far as a role may see them."""

    database: str
    user: str
    sessions: tuple[Session, ...] = ()

    @property
    def hidden(self) -> int:
        """The number of sessions whose details the role may not see."""
        return sum(not session.is_visible for session in self.sessions)


def run_activity(settings: Settings, *, queries: bool, long_after_seconds: float, as_json: bool) -> None:
    """Print the sessions.

    Args:
        settings: The settings.
        queries: Print the statements too, as far as the role may see them.
        long_after_seconds: The age from which a transaction is marked.
        as_json: Print one JSON document.

    Raises:
        ConnectionFailed: The database cannot be reached.
    """
    activity = asyncio.run(sessions_of(settings, queries=queries, long_after_seconds=long_after_seconds))
    if as_json:
        print_json({**asdict(activity), "hidden": activity.hidden})
    else:
        _print(activity, queries=queries)


async def sessions_of(settings: Settings, *, queries: bool, long_after_seconds: float) -> Activity:
    """Read the sessions from the server's statistics and locks; no table is read.

    Raises:
        ConnectionFailed: The database cannot be reached.
    """
    async with reach(settings) as reached:
        rows = await reached.connection.fetch(_SESSIONS, queries)
        database, user = await reached.connection.fetchrow("SELECT current_database()::text, current_user::text")
    return Activity(
        database=database, user=user, sessions=tuple(_session(row, rows, long_after_seconds) for row in rows)
    )


def _session(row: Any, rows: Sequence[Any], long_after_seconds: float) -> Session:
    age = row["transaction_seconds"]
    seen = {name: row[name] for name in ("seconds", "transaction_seconds", "state", "wait_event", "query")}
    return Session(
        pid=row["pid"],
        application=row["application"] or "",
        user=row["user"] or "",
        is_visible=row["is_visible"],
        is_long=age is not None and age > long_after_seconds,
        lock=row["lock"],
        blocked_by=tuple(dict.fromkeys(row["blocked_by"])),
        blocks=tuple(other["pid"] for other in rows if row["pid"] in other["blocked_by"]),
        **(seen if row["is_visible"] else {}),  # in place of its statement there is a word on rights
    )


def _print(activity: Activity, *, queries: bool) -> None:
    rows = [_row(session) for session in activity.sessions]
    title = f"{len(rows)} session(s) of {activity.database} beside this one"
    under = [session.query or "" for session in activity.sessions] if queries else None
    print_rows(title, _HEADER if rows else (), rows, under=under)
    if activity.hidden:
        print_warning(
            f"{activity.hidden} session(s) are other roles': what they do is hidden from {activity.user}; name an"
            " operator's role, a member of pg_read_all_stats, in DATABASE_URL for this command alone"
        )
    if long := [str(session.pid) for session in activity.sessions if session.is_long]:
        print_warning(f"long transactions keep rows from being vacuumed, and locks: pid {', '.join(long)}")


def _row(session: Session) -> tuple[str, ...]:
    waits = session.wait_event or ""
    if session.lock is not None:
        waits = f"{session.lock}, held by {', '.join(map(str, session.blocked_by)) or 'nobody any more'}"
    age = _seconds(session, session.transaction_seconds)
    return (
        str(session.pid),
        session.application,
        session.user,
        (session.state or "") if session.is_visible else _HIDDEN,
        _seconds(session, session.seconds),
        f"{age}, long" if session.is_long else age,
        waits or ("" if session.is_visible else _HIDDEN),
        ", ".join(map(str, session.blocks)),
    )


def _seconds(session: Session, seconds: float | None) -> str:
    if not session.is_visible:
        return _HIDDEN
    return "" if seconds is None else f"{seconds:.1f} s"
