"""run_transaction: a unit of work, run again where that heals; a COMMIT without an answer is cleared up."""

from __future__ import annotations

import asyncio
import inspect
import math
import random
import time
from collections.abc import Awaitable, Callable
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
from src.database.session.scopes import engine
from src.database.session.session import AsyncSession
from src.database.session.transaction_status import NumberedBinding, NumberedSession, Outcome, find_outcome

Isolation = Literal["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
ResultT = TypeVar("ResultT")

RETRY_SECONDS: Final = 30.0
"""More than a server takes to restart."""
MOST_RETRIES: Final = 1000
FIRST_DELAY_SECONDS: Final = 0.05
LONGEST_DELAY_SECONDS: Final = 1.0
_HEALED_BY_REPEATING: Final = (ConnectionFailed, DeadlockError, SchemaChangedError, SerializationError)
_HEALED_BY_NOBODY: Final = (AuthenticationFailed, DatabaseMissing, PoolExhausted, TlsFailed)
"""Connections that a second attempt would not get either, or that it should not queue up for again."""


@dataclass(frozen=True, slots=True)
class Retry:
    """One attempt that failed, and is followed by another."""

    number: int
    """1 is the first repetition."""
    error: DatabaseError
    delay: float
    """Seconds until the next attempt."""


async def run_transaction(
    fn: Callable[[AsyncSession], Awaitable[ResultT]],
    *,
    retry_seconds: float = RETRY_SECONDS,
    retries: int | None = None,
    isolation: Isolation | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 - it bounds attempts and pauses together, and says what it cut short
    idempotent: bool = False,
    on_retry: Callable[[Retry], object] | None = None,
) -> ResultT:
    """Run a unit of work in a transaction, and commit it; the whole unit again where that heals what went wrong.

    That is a serialization failure, a deadlock, a schema that changed under a prepared statement, and a connection that
    was lost before COMMIT was sent; nothing else. Between attempts it waits for a random part of a pause that doubles.
    Where the connection is lost after COMMIT was sent, the server is asked what became of it.

    Whatever the unit does beside the database is repeated too. It must not commit, and has to use the session that it
    is given: each attempt has a fresh one.

    Args:
        fn: The unit: takes a session as `get_db` gives, and returns what is handed on when it is committed.
        retry_seconds: No repetition begins later than this many seconds after the first failure. 0: none begins.
        retries: The most repetitions, 0 to 1000; None: only the time is limited.
        isolation: In place of the server's default, which is READ COMMITTED as a rule.
        timeout: Seconds for all of it, pauses included; None is without end.
        idempotent: The unit may be repeated though it was committed, since it writes under keys of its own, as messages
            are written: it is, where the outcome of its COMMIT cannot be found out.
        on_retry: Called before each pause.

    Raises:
        CommitOutcomeUnknown: COMMIT was sent, and what became of it cannot be found out.
        QueryTimeout: It was not done in time, or the server ended the transaction at a time limit of its own, such as
            `idle_in_transaction_session_timeout`; nothing of it is committed.
        DatabaseError: What the last attempt failed with; a note says how many there were.
        TypeError: The unit is no function: what was called already cannot be repeated.
        ValueError: An option is none of what its name says.
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
            f"the transaction was not done within its {timeout:g} s, in {unit.attempts} attempts",
            hint="a longer `timeout`, a shorter unit, or fewer who want the same rows at once",
        ) from error


@dataclass(slots=True)
class _Unit(Generic[ResultT]):
    """One call of `run_transaction`.

    Attributes:
        options: The execution options of each attempt.
        ends: When no attempt may begin any more, in seconds of the monotonic clock.
        retries_end: The same for repetitions; None before the first failure, since a long unit is repeated too.
        attempts: How many have begun.
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
        """Attempt it until it is done, or nothing more can be done."""
        while True:
            self.attempts += 1
            self.uncertain = None
            try:
                return await self._attempt()
            except DatabaseError as error:
                if not self._may_repeat(error):
                    self._note_attempts(error)
                    raise
                await self._pause(error)

    async def _attempt(self) -> ResultT:
        options: dict[str, Any] = {"binding": binding_of(NumberedBinding), "execution_options": self.options}
        session = NumberedSession(bind=engine, expire_on_commit=False, **options)
        async with session:  # its exit is shielded, and rolls back what is not committed
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
            await self._clear_up(session, self.uncertain)
        return result

    async def _clear_up(self, session: NumberedSession, uncertain: CommitOutcomeUnknown) -> None:
        """Return where it turns out to be committed, raise ConnectionFailed where it is not."""
        try:
            outcome = await find_outcome(engine, session.number)
        except asyncio.CancelledError as error:
            error.__cause__ = uncertain
            raise
        get_logger(__name__).warning("uncertain_commit", outcome=outcome.value, attempt=self.attempts)
        if outcome is Outcome.UNKNOWN:
            raise uncertain
        self.uncertain = None
        if outcome is Outcome.ABORTED:
            raise ConnectionFailed("the connection was lost before the server had committed") from uncertain

    def _may_repeat(self, error: DatabaseError) -> bool:
        if self.retries is not None and self.attempts > self.retries:
            return False
        if error is self.uncertain:
            return self.idempotent
        return isinstance(error, _HEALED_BY_REPEATING) and not isinstance(error, _HEALED_BY_NOBODY)

    async def _pause(self, error: DatabaseError) -> None:
        """Wait for a random time below a limit that doubles, so that those who met do not meet again.

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
            fn.close()  # it would warn that nobody awaited it
        raise TypeError(
            f"fn must be an async function that takes a session, got {type(fn).__name__}:"
            " pass the function itself, or functools.partial of it; what is called already cannot be repeated"
        )
    if isinstance(retry_seconds, bool) or not retry_seconds >= 0:
        raise ValueError(f"retry_seconds must be seconds, 0 or more, got {retry_seconds!r}")
    if retries is not None and (type(retries) is not int or not 0 <= retries <= MOST_RETRIES):
        raise ValueError(f"retries must be a whole number from 0 to {MOST_RETRIES}, or None, got {retries!r}")
    if isolation is not None and isolation not in get_args(Isolation):
        raise ValueError(f"isolation must be one of {', '.join(get_args(Isolation))}, got {isolation!r}")
    if timeout is not None and (isinstance(timeout, bool) or not timeout > 0):
        raise ValueError(f"timeout must be seconds, above 0, or None, got {timeout!r}")
