"""The outcome of an uncertain COMMIT: a transaction's number is read with its binding, its status queried later."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, Final
from uuid import UUID

import asyncpg
from sqlalchemy import Connection, TextClause, event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from src.database.errors import DatabaseError
from src.database.session.binding import TenantBinding
from src.database.session.session import AsyncSession, TenantSession

FIND_SECONDS: Final = 30.0
"""How long the outcome is queried: the server may be restarting, or may not have committed yet."""
POLL_SECONDS: Final = 0.1

# A number identifies a transaction only together with the database cluster and an incarnation of it. If the server
# crashes, or a standby is promoted, before the WAL has a number that was assigned, then the server assigns that number
# again, to another transaction. A crash resets the statistics, a promotion changes the timeline; an orderly restart
# does neither, and no number is assigned twice.
_CLUSTER: Final = "(SELECT system_identifier::text FROM pg_control_system())"
_INCARNATION: Final = (
    "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
    " || '/' || (SELECT COALESCE(extract(epoch FROM stats_reset)::text, '') FROM pg_stat_wal)"
)
_OWN: Final = ("pg_current_xact_id()::text", _CLUSTER, _INCARNATION)
_PROBE: Final = f"SELECT {_CLUSTER}, {_INCARNATION}"
_IS_DISTRIBUTED: Final = "EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')"
_SERVER: Final = text(
    f"SELECT {_CLUSTER} AS cluster, {_INCARNATION} AS incarnation, {_IS_DISTRIBUTED} AS is_distributed"
)
# The inner cast makes the parameter a text: the driver accepts no text for a parameter of type xid8.
_STATUS: Final = text("SELECT pg_xact_status(CAST(CAST(:number AS text) AS xid8))")
# A session that waits for its lost client never commits: it is terminated. A session that is active may be committing:
# it is waited for. pg_stat_activity has the lower 32 bits of a number.
_TERMINATE_IDLE: Final = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND usename = current_user AND state <> 'active'"
    "   AND backend_xid::text = (CAST(CAST(:number AS text) AS numeric) % 4294967296)::text"
)
_IN_THE_FUTURE: Final = "22023"
"""The SQLSTATE of pg_xact_status for a number that the server has not assigned yet."""


class CommitOutcome(Enum):
    """The outcome of a transaction whose COMMIT was not answered."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class TransactionNumber:
    """The number of a transaction, with the database cluster and its incarnation."""

    number: str
    cluster: str
    incarnation: str


class NumberedBinding(TenantBinding):
    """Binds a transaction to its tenant, and reads its number in the same round trip.

    The number is read before the caller's first statement. If the number came only with the answer to COMMIT, it would
    be lost with that answer.
    """

    _has_numbers = False

    @cached_property
    def _numbering(self) -> TextClause:
        return self._create_statement(*_OWN)

    async def prepare(self, connection: asyncpg.Connection[Any]) -> bool:
        """Check the schema, and whether the role may read the cluster and its incarnation: some providers forbid it."""
        is_migrated = await super().prepare(connection)
        try:
            self._has_numbers = bool(await connection.fetchrow(_PROBE))
        except asyncpg.PostgresError:
            self._has_numbers = False
        return is_migrated

    def bind(self, connection: Connection, tenant_id: UUID | None) -> TransactionNumber | None:
        """Bind the connection's transaction, and return its number; None if the server does not report one."""
        if not (connection.engine in self._checked or self._check(connection)):
            return None
        statement = self._numbering if self._has_numbers else self._statement
        row = connection.execute(statement, {"tenant_id": tenant_id, **self._limits}).one()
        return TransactionNumber(*row[-len(_OWN) :]) if self._has_numbers else None


class _NumberedTenantSession(TenantSession):
    """The synchronous half of :class:`NumberedSession`."""

    is_complete = False


class NumberedSession(AsyncSession):
    """A session of one transaction with a number; only `commit_unit` commits it."""

    sync_session_class = _NumberedTenantSession
    sync_session: _NumberedTenantSession

    @property
    def number(self) -> TransactionNumber | None:
        """The number of the transaction; None if it has not begun, or the server does not report one."""
        number = self.sync_session.bound_with
        return number if isinstance(number, TransactionNumber) else None

    async def commit_unit(self) -> None:
        """Commit the unit of work."""
        self.sync_session.is_complete = True
        await self.commit()


@event.listens_for(_NumberedTenantSession, "before_commit")
def _refuse_commit_in_unit(session: _NumberedTenantSession) -> None:
    if not session.is_complete and not session.in_nested_transaction():
        raise commit_refused()


def commit_refused() -> DatabaseError:
    """Return the error for a unit of work that calls commit itself."""
    return DatabaseError(
        "the unit of run_transaction must not commit: a retry would repeat the committed part",
        hint="leave the commit to run_transaction; `async with session.begin_nested():` is a savepoint",
    )


async def find_outcome(engine: AsyncEngine, number: TransactionNumber | None) -> CommitOutcome:
    """Query the outcome of a transaction until it is known, for at most 30 s."""
    if number is None:
        return CommitOutcome.UNKNOWN
    try:
        async with asyncio.timeout(FIND_SECONDS):
            while (outcome := await _query_outcome(engine, number)) is None:  # noqa: ASYNC110 - PostgreSQL sends no event
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        return CommitOutcome.UNKNOWN
    return outcome


async def _query_outcome(engine: AsyncEngine, number: TransactionNumber) -> CommitOutcome | None:
    """Return the outcome; None if the server cannot be reached or the transaction has not ended."""
    parameters = {"number": number.number}
    try:
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            server = (await connection.execute(_SERVER)).one()
            is_same = server.incarnation == number.incarnation
            if server.cluster != number.cluster:
                return CommitOutcome.UNKNOWN
            try:
                status = await connection.scalar(_STATUS, parameters)
            except DatabaseError as error:
                if error.sqlstate != _IN_THE_FUTURE:
                    raise
                status = "in the future"
            if status == "in progress" and is_same:
                await connection.execute(_TERMINATE_IDLE, parameters)
                return None
    except DatabaseError:  # the server may be starting, or not be promoted yet
        return None
    return _outcome_of(status, is_same=is_same, is_distributed=server.is_distributed)


def _outcome_of(status: str | None, *, is_same: bool, is_distributed: bool) -> CommitOutcome:
    """Return the outcome that a status proves.

    In another incarnation a committed number may belong to another transaction. A number that is not committed proves
    an abort: a commit would have written the number to the WAL. On Citus the workers commit, and the status of the
    coordinator proves nothing but a commit.
    """
    if status == "committed":
        return CommitOutcome.COMMITTED if is_same else CommitOutcome.UNKNOWN
    if status is None or is_distributed:
        return CommitOutcome.UNKNOWN
    return CommitOutcome.ABORTED
