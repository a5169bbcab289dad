"""A time limit that many calls share: one timer serves all of them."""

from __future__ import annotations

import asyncio
from types import TracebackType


class TimeLimit:
    """Limits how long calls wait for the server.

    The driver's own limit adds a timer to the event loop for each statement and cancels it afterwards; that takes a
    tenth of the client's time of a short call. All calls have the same limit, so their deadlines come in the order in
    which the calls began, and one timer for the oldest call is enough.

    Attributes:
        seconds: The limit of each call that begins from now on; None is no limit.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = seconds
        self._running: dict[LimitedCall, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def apply(self) -> LimitedCall:
        """Return a context manager; its block raises TimeoutError if it is not complete within the limit."""
        return LimitedCall(self)

    def begin(self, call: LimitedCall) -> None:
        """Limit the current task's block from now on."""
        if self.seconds is None:
            return
        loop = asyncio.get_running_loop()
        call.deadline = loop.time() + self.seconds
        self._running[call] = None
        if self._timer is None:
            self._timer = loop.call_at(call.deadline, self._end_overdue)

    def end(self, call: LimitedCall) -> None:
        """End the limit of a block."""
        self._running.pop(call, None)

    def _end_overdue(self) -> None:
        """Cancel the tasks of overdue blocks, and set the timer for the next deadline."""
        self._timer = None
        loop = asyncio.get_running_loop()
        for call in list(self._running):
            if call.deadline > loop.time():
                self._timer = loop.call_at(call.deadline, self._end_overdue)
                return
            self.end(call)
            call.expire()


class LimitedCall:
    """A block with a time limit, as `asyncio.timeout` has it: its task is cancelled, and the block raises TimeoutError.

    A cancellation from elsewhere at the same time stays a cancellation.
    """

    __slots__ = ("_cancellations", "_has_expired", "_limit", "_task", "deadline")

    def __init__(self, limit: TimeLimit) -> None:
        self._limit = limit
        self._task: asyncio.Task[object] | None = None
        self._cancellations = 0
        self._has_expired = False
        self.deadline = 0.0

    def expire(self) -> None:
        """Cancel the block's task."""
        self._has_expired = True
        if self._task is not None:
            self._task.cancel()

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._cancellations = 0 if self._task is None else self._task.cancelling()
        self._limit.begin(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._limit.end(self)
        if not self._has_expired or self._task is None:
            return
        is_ours = self._task.uncancel() <= self._cancellations
        if is_ours and kind is asyncio.CancelledError:
            raise TimeoutError from error
