"""run_transaction: run a unit of work, retry it after temporary errors, and find the outcome of an uncertain COMMIT."""

from __future__ import annotations

import asyncio
import inspect
import math
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar, get_args

from src.config import get_logger
from src.database.errors import (
    AuthenticationFailed,
    CommitOutcomeUnknown,
    ConnectionFailed,
    DatabaseError,
    DatabaseMissing,
    DeadlockError,
    PoolExhausted,
    QueryTimeout,
    SchemaChangedError,
    SerializationError,
    TlsFailed,
)
from src.database.observability import count_retry
from src.database.session.engines import binding_of
from src.database.session.replacement import replaced_sessions
from src.database.session.scopes import engine
from src.database.session.session import AsyncSession
from src.database.session.transaction_status import CommitOutcome, NumberedBinding, NumberedSession, find_outcome

Isolation = Literal["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
ResultT = TypeVar("ResultT")

RETRY_SECONDS: Final = 30.0
"""Longer than a restart of the server takes."""
MOST_RETRIES: Final = 1000
FIRST_DELAY_SECONDS: Final = 0.05
LONGEST_DELAY_SECONDS: Final = 1.0
_RETRYABLE: Final = (ConnectionFailed, DeadlockError, SchemaChangedError, SerializationError)
_NOT_RETRYABLE: Final = (AuthenticationFailed, DatabaseMissing, PoolExhausted, TlsFailed)
"""Kinds of ConnectionFailed: a retry would fail again, or would join the queue of an exhausted pool again."""


@dataclass(frozen=True, slots=True)
class Retry:
    """A failed attempt that another one follows.

    Attributes:
        number: 1 for the first retry.
        error: The error of the failed attempt.
        delay: Seconds until the next attempt.
    """

    number: int
    error: DatabaseError
    delay: float


async def run_transaction(
    fn: Callable[[AsyncSession], Awaitable[ResultT]],
    *,
    retry_seconds: float = RETRY_SECONDS,
    retries: int | None = None,
    isolation: Isolation | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 - it limits attempts and pauses together, and its error has the reason
    idempotent: bool = False,
    on_retry: Callable[[Retry], object] | None = None,
) -> ResultT:
    """Run a unit of work in a transaction and commit it; run the whole unit again after a temporary error.

    Temporary errors are a serialization failure, a deadlock, a schema that changed under a prepared statement, and a
    connection that could not be opened or was lost before COMMIT was sent. A full pool, a wrong password, a missing
    database and a TLS failure are not temporary. Between attempts there is a random pause, whose limit doubles. If the
    connection is lost after COMMIT was sent, the server is queried for the outcome of the transaction.

    The unit must not commit, and must use the session that it gets: each attempt has a new one. What the unit does
    besides, such as sending a message, is repeated with it.

    Example:
        async def rename(session):
            await UserRepository(session).update(user.id, display_name="Ada Lovelace")

        await run_transaction(rename)

    Args:
        fn: The unit of work: takes a session like that of `get_db`.
        retry_seconds: No retry begins later than this many seconds after the first failure; 0 disables retries.
        retries: The most retries, 0 to 1000; None limits only the time.
        isolation: The isolation level; None means the server's default, usually READ COMMITTED.
        timeout: Seconds for all attempts and pauses; None means no limit.
        idempotent: The unit has the same effect when it is committed twice, because it writes under keys of its own. It
            is then also run again if the outcome of its COMMIT cannot be found out.
        on_retry: Called before each pause.

    Returns:
        The result of the committed attempt.

    Raises:
        CommitOutcomeUnknown: COMMIT was sent, and its outcome cannot be found out.
        QueryTimeout: The time ran out, or the server ended the transaction at a limit of its own, such as
            `idle_in_transaction_session_timeout`. Nothing is committed.
        DatabaseError: The error of the last attempt, with a note on the number of attempts.
        TypeError: `fn` is not a function; a coroutine cannot be run again.
        ValueError: An option has an invalid value.
    """
    _check(fn, retry_seconds=retry_seconds, retries=retries, isolation=isolation, timeout=timeout)
    options = {} if isolation is None else {"isolation_level": isolation}
    ends = math.inf if timeout is None else time.monotonic() + timeout
    unit = _Unit(fn, options, retry_seconds, retries, idempotent, on_retry, ends)
    try:
        async with asyncio.timeout(timeout) as limit:
            return await unit.run()
    except TimeoutError as error:
        if not limit.expired():
            raise
        if unit.uncertain is not None:
            raise unit.uncertain from error
        raise QueryTimeout(
            f"the transaction was not committed within {timeout:g} s, in {unit.attempts} attempts",
            hint="raise `timeout`, shorten the unit, or let fewer tasks change the same rows at the same time",
        ) from error


@dataclass(slots=True)
class _Unit(Generic[ResultT]):
    """The state of one call of `run_transaction`.

    Attributes:
        options: The execution options of each attempt.
        ends: The end of `timeout`, in seconds of the monotonic clock.
        retries_end: The end of `retry_seconds`, which begin with the first failure: a long unit is retried too.
        attempts: The number of attempts that have begun.
        uncertain: The error of the current attempt's COMMIT if its outcome is not known.
    """

    fn: Callable[[AsyncSession], Awaitable[ResultT]]
    options: dict[str, Any]
    retry_seconds: float
    retries: int | None
    idempotent: bool
    on_retry: Callable[[Retry], object] | None
    ends: float
    retries_end: float | None = None
    attempts: int = 0
    uncertain: CommitOutcomeUnknown | None = None

    async def run(self) -> ResultT:
        """Attempt the unit until it is committed, or no retry is left."""
        while True:
            self.attempts += 1
            self.uncertain = None
            try:
                return await self._attempt()
            except DatabaseError as error:
                if not self._may_retry(error):
                    self._note_attempts(error)
                    raise
                await self._pause(error)

    async def _attempt(self) -> ResultT:
        if (replaced := replaced_sessions()) is not None:
            async with asynccontextmanager(replaced.unit)() as session_of_test:
                session_of_test.info["attempt"] = self.attempts
                return await self.fn(session_of_test)
        options: dict[str, Any] = {"binding": binding_of(NumberedBinding), "execution_options": self.options}
        session = NumberedSession(bind=engine, expire_on_commit=False, **options)
        async with session:  # its exit is shielded from cancellation, and rolls back an open transaction
            session.info["attempt"] = self.attempts
            result = await self.fn(session)
            try:
                await session.commit_unit()
            except CommitOutcomeUnknown as error:
                self.uncertain = error
            except asyncio.CancelledError as error:
                if isinstance(error.__cause__, CommitOutcomeUnknown):
                    self.uncertain = error.__cause__
                raise
        if self.uncertain is not None:
            await self._resolve(session, self.uncertain)
        return result

    async def _resolve(self, session: NumberedSession, uncertain: CommitOutcomeUnknown) -> None:
        """Query the outcome of an uncertain COMMIT, and return if the transaction is committed.

        Raises:
            ConnectionFailed: The transaction is aborted.
            CommitOutcomeUnknown: The outcome cannot be found out.
        """
        try:
            outcome = await find_outcome(engine, session.number)
        except asyncio.CancelledError as error:
            error.__cause__ = uncertain
            raise
        get_logger(__name__).warning("uncertain_commit", outcome=outcome.value, attempt=self.attempts)
        if outcome is CommitOutcome.UNKNOWN:
            raise uncertain
        self.uncertain = None
        if outcome is CommitOutcome.ABORTED:
            raise ConnectionFailed("the connection was lost before the server committed the transaction") from uncertain

    def _may_retry(self, error: DatabaseError) -> bool:
        if self.retries is not None and self.attempts > self.retries:
            return False
        if error is self.uncertain:
            return self.idempotent
        return isinstance(error, _RETRYABLE) and not isinstance(error, _NOT_RETRYABLE)

    async def _pause(self, error: DatabaseError) -> None:
        """Wait for a random time below a limit that doubles, so that conflicting transactions do not conflict again.

        "Full jitter" of https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        """
        longest = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** min(self.attempts - 1, 10))
        delay = random.uniform(0, longest)  # noqa: S311 - spreads load, guards nothing
        now = time.monotonic()
        if self.retries_end is None:
            self.retries_end = now + self.retry_seconds
        if now + delay >= min(self.retries_end, self.ends):
            self._note_attempts(error)
            raise error
        reason = type(error).__name__
        get_logger(__name__).info("transaction_retried", reason=reason, number=self.attempts, delay=round(delay, 3))
        count_retry(reason)
        if self.on_retry is not None:
            self.on_retry(Retry(self.attempts, error, delay))
        await asyncio.sleep(delay)

    def _note_attempts(self, error: DatabaseError) -> None:
        if self.attempts > 1:
            error.add_note(f"after {self.attempts} attempts of the transaction")


def _check(
    fn: object, *, retry_seconds: float, retries: int | None, isolation: str | None, timeout: float | None
) -> None:
    if not callable(fn):
        if inspect.iscoroutine(fn):
            fn.close()  # else Python warns that it was never awaited
        raise TypeError(
            f"fn must be an async function that takes a session, got {type(fn).__name__}:"
            " pass the function itself, or a functools.partial of it; a coroutine cannot be run again"
        )
    if isinstance(retry_seconds, bool) or not retry_seconds >= 0:
        raise ValueError(f"retry_seconds must be seconds, 0 or more, got {retry_seconds!r}")
    if retries is not None and (type(retries) is not int or not 0 <= retries <= MOST_RETRIES):
        raise ValueError(f"retries must be a whole number from 0 to {MOST_RETRIES}, or None, got {retries!r}")
    if isolation is not None and isolation not in get_args(Isolation):
        raise ValueError(f"isolation must be one of {', '.join(get_args(Isolation))}, got {isolation!r}")
    if timeout is not None and (isinstance(timeout, bool) or not timeout > 0):
        raise ValueError(f"timeout must be seconds, above 0, or None, got {timeout!r}")
