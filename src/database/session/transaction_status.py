"""The outcome of a transaction: its number, which comes with the tenant's binding, and its status, queried later."""

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
"""How long an outcome is looked for: the server may be starting again, or still be about to commit."""
POLL_SECONDS: Final = 0.1

# What a number is of: the database cluster, and its life. A number that the server gave and had not yet written down
# when it crashed, or when another took over, is given again, to somebody else. After a crash the statistics begin anew,
# after a promotion the timeline does; after an orderly restart neither, and no number is given twice.
_CLUSTER: Final = "(SELECT system_identifier::text FROM pg_control_system())"
_LIFE: Final = (
    "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
    " || '/' || (SELECT COALESCE(extract(epoch FROM stats_reset)::text, '') FROM pg_stat_wal)"
)
_OWN: Final = ("pg_current_xact_id()::text", _CLUSTER, _LIFE)
_PROBE: Final = f"SELECT {_CLUSTER}, {_LIFE}"
_IS_DISTRIBUTED: Final = "EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')"
_SERVER: Final = text(f"SELECT {_CLUSTER} AS cluster, {_LIFE} AS life, {_IS_DISTRIBUTED} AS is_distributed")
# The driver takes no text for a parameter of type xid8.
_STATUS: Final = text("SELECT pg_xact_status(CAST(CAST(:number AS text) AS xid8))")
# Who waits for a client that is gone is ended; who is about to commit is waited for. The list of sessions has the lower
# 32 bits of a number.
_END_WHO_WAITS: Final = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND usename = current_user AND state <> 'active'"
    "   AND backend_xid::text = (CAST(CAST(:number AS text) AS numeric) % 4294967296)::text"
)
_NOT_YET_GIVEN: Final = "22023"


class Outcome(Enum):
    """The outcome of a transaction whose COMMIT had no answer, as far as it is known."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Number:
    """A transaction's number, and of which server, in which of its lives."""

    number: str
    cluster: str
    life: str


class NumberedBinding(TenantBinding):
    """Binds a transaction to its tenant, and reads its number in the same round trip."""

    _has_numbers = False

    @cached_property
    def _numbering(self) -> TextClause:
        return self._make_statement(*_OWN)

    async def prepare(self, connection: asyncpg.Connection[Any]) -> bool:
        """Check the schema, and whether the server reports what identifies a number: some providers' servers do not."""
        is_migrated = await super().prepare(connection)
        try:
            self._has_numbers = bool(await connection.fetchrow(_PROBE))
        except asyncpg.PostgresError:
            self._has_numbers = False
        return is_migrated

    def bind(self, connection: Connection, tenant_id: UUID | None) -> Number | None:
        """Bind the connection's transaction, and return its number, if the server has numbers."""
        if not (connection.engine in self._ready or self._is_ready(connection)):
            return None
        statement = self._numbering if self._has_numbers else self._statement
        row = connection.execute(statement, {"tenant_id": tenant_id, **self._limits}).one()
        return Number(*row[-len(_OWN) :]) if self._has_numbers else None


class _NumberedTenantSession(TenantSession):
    """The synchronous half of :class:`NumberedSession`."""

    is_complete = False


class NumberedSession(AsyncSession):
    """A session of one transaction, whose number it knows, and which is committed by who opened it alone."""

    sync_session_class = _NumberedTenantSession
    sync_session: _NumberedTenantSession

    @property
    def number(self) -> Number | None:
        """The transaction's number; None where it has not begun, or the server does not tell."""
        number = self.sync_session.bound_with
        return number if isinstance(number, Number) else None

    async def commit_unit(self) -> None:
        """Commit all of it."""
        self.sync_session.is_complete = True
        await self.commit()


@event.listens_for(_NumberedTenantSession, "before_commit")
def _keep_it_whole(session: _NumberedTenantSession) -> None:
    if not session.is_complete and not session.in_nested_transaction():
        raise DatabaseError(
            "the unit of run_transaction must not commit: what it committed would be done again with the rest",
            hint="leave the commit to run_transaction; `async with session.begin_nested():` is a savepoint",
        )


async def find_outcome(engine: AsyncEngine, number: Number | None) -> Outcome:
    """Ask the server what became of a transaction, for as long as it takes to know, 30 s at most."""
    if number is None:
        return Outcome.UNKNOWN
    try:
        async with asyncio.timeout(FIND_SECONDS):
            while (outcome := await _ask(engine, number)) is None:  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        return Outcome.UNKNOWN
    return outcome


async def _ask(engine: AsyncEngine, number: Number) -> Outcome | None:
    """Return what the server says; None where it cannot be reached or the transaction is not over."""
    parameters = {"number": number.number}
    try:
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            server = (await connection.execute(_SERVER)).one()
            is_same = server.life == number.life
            if server.cluster != number.cluster:
                return Outcome.UNKNOWN
            try:
                status = await connection.scalar(_STATUS, parameters)
            except DatabaseError as error:
                if error.sqlstate != _NOT_YET_GIVEN:
                    raise
                status = "not yet given"
            if status == "in progress" and is_same:
                await connection.execute(_END_WHO_WAITS, parameters)
                return None
    except DatabaseError:  # it may be starting, or not be promoted yet
        return None
    return _judge(status, is_same=is_same, is_distributed=server.is_distributed)


def _judge(status: str | None, *, is_same: bool, is_distributed: bool) -> Outcome:
    """Return the outcome that a status means.

    In another life the number of what is committed may be somebody else's. What is not committed under it is certain:
    had it been, then the number would have been written down with it. On Citus it is the workers that commit.
    """
    if status == "committed":
        return Outcome.COMMITTED if is_same else Outcome.UNKNOWN
    if status is None or is_distributed:
        return Outcome.UNKNOWN
    return Outcome.ABORTED
