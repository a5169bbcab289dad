"""thea-db activity: the sessions of the database, what they wait for, and which session blocks which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import asyncpg

from src.config import Settings
from src.database.cli.output import print_json, print_rows, print_warning
from src.database.cli.running import run_coroutine
from src.database.doctor.connection import reach

_HIDDEN: Final = "hidden"
_HEADER: Final = ("pid", "application", "user", "state", "for", "transaction", "waits for", "blocks")

# pg_stat_activity shows null instead of the columns that the role may not see, and a notice instead of the statement.
# `is_visible` repeats the server's own condition, so that a hidden value can be told from an empty one. Every role may
# read pg_locks, which has the waiting sessions. Only for these is pg_blocking_pids called: it needs exclusive access to
# the lock manager for a short time.
_SESSIONS: Final = """
SELECT pid, application_name AS application, coalesce(usename, '') AS "user", is_visible, state,
       extract(epoch FROM clock_timestamp() - state_change)::float8 AS seconds,
       extract(epoch FROM clock_timestamp() - xact_start)::float8 AS transaction_seconds,
       coalesce(clock_timestamp() - xact_start > make_interval(secs => $2), false) AS is_long,
       nullif(concat_ws(': ', wait_event_type, wait_event), '') AS wait_event,
       mode || ' on ' || coalesce(relation::regclass::text, locktype) AS lock,
       CASE WHEN mode IS NULL THEN '{}' ELSE ARRAY(SELECT DISTINCT unnest(pg_blocking_pids(pid))) END AS blocked_by,
       CASE WHEN $1 AND is_visible THEN query END AS query
  FROM pg_catalog.pg_stat_activity
 CROSS JOIN LATERAL (SELECT pg_has_role('pg_read_all_stats', 'USAGE') OR pg_has_role(usesysid, 'USAGE')
                      AS is_visible) AS visibility
  LEFT JOIN (SELECT DISTINCT ON (pid) pid, mode, relation, locktype FROM pg_catalog.pg_locks WHERE NOT granted
              ORDER BY pid) AS waiting USING (pid)
 WHERE datname = current_database() AND usesysid IS NOT NULL AND pid <> pg_backend_pid() AND leader_pid IS NULL
 ORDER BY xact_start, pid
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One connection to the database. An attribute that the role may not see is None.

    Args:
        pid: The process id of the server process.
        application: The application name; this package sets `<service>/<environment>/<pool>/<process>`.
        user: The role of the session.
        is_visible: False if the role may see only the attributes above and the locks.
        state: The state as the server reports it, such as active, idle, idle in transaction.
        seconds: The time since the state changed.
        transaction_seconds: The age of the transaction.
        is_long: True if the transaction is older than the limit.
        wait_event: The wait event as the server reports it.
        lock: The mode and the object of the lock that the session waits for.
        blocked_by: The processes that hold the lock or precede the session in its queue; 0 is a prepared transaction.
        blocks: The processes that wait for the session.
        query: The current statement, or the last one of an idle session; None if statements were not requested.
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
    """The sessions of a database, as far as the role may see them; the command's own session is left out."""

    database: str
    user: str
    sessions: tuple[Session, ...] = ()

    @property
    def hidden(self) -> int:
        """The number of sessions whose details the role may not see."""
        return sum(not session.is_visible for session in self.sessions)


def run_activity(settings: Settings, *, queries: bool, long_after_seconds: float, as_json: bool) -> None:
    """Print the sessions; see `sessions_of` for the arguments.

    Raises:
        ConnectionFailed: The database cannot be reached.
    """
    activity = run_coroutine(sessions_of(settings, queries=queries, long_after_seconds=long_after_seconds))
    if as_json:
        print_json({**asdict(activity), "hidden": activity.hidden})
    else:
        _print(activity, queries=queries)


async def sessions_of(settings: Settings, *, queries: bool, long_after_seconds: float) -> Activity:
    """Return the sessions, from the server's statistics and locks; no table is read.

    Args:
        settings: The settings.
        queries: Return the statements too, as far as the role may see them.
        long_after_seconds: The age from which a transaction is marked as long.

    Raises:
        ConnectionFailed: The database cannot be reached.
    """
    async with reach(settings) as reached:
        rows = await reached.connection.fetch(_SESSIONS, queries, long_after_seconds)
        database, user = await reached.connection.fetchrow("SELECT current_database()::text, current_user::text")
    return Activity(database=database, user=user, sessions=tuple(_session(row, rows) for row in rows))


def _session(row: asyncpg.Record, rows: Sequence[asyncpg.Record]) -> Session:
    blocks = tuple(other["pid"] for other in rows if row["pid"] in other["blocked_by"])
    return Session(**{**row, "blocked_by": tuple(row["blocked_by"])}, blocks=blocks)


def _print(activity: Activity, *, queries: bool) -> None:
    rows = [_row(session) for session in activity.sessions]
    title = f"{len(rows)} other session(s) of {activity.database}"
    under = [session.query or "" for session in activity.sessions] if queries else None
    print_rows(title, _HEADER if rows else (), rows, under=under)
    if activity.hidden:
        print_warning(
            f"{activity.hidden} session(s) belong to other roles, and {activity.user} may not see their details; to see"
            " them, name a member of pg_read_all_stats in DATABASE_URL for this command only"
        )
    if long := [str(session.pid) for session in activity.sessions if session.is_long]:
        print_warning(f"long transactions hold locks and prevent vacuum from removing rows: pid {', '.join(long)}")


def _row(session: Session) -> tuple[str, ...]:
    waits = session.wait_event or ""
    if session.lock is not None:
        waits = f"{session.lock}, held by {', '.join(map(str, session.blocked_by)) or 'no session any more'}"
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
