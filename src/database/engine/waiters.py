"""Callers that wait for a connection of a pool, in the order of their arrival."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class Waiters(Generic[ItemT]):
    """A queue of callers that wait for an item.

    An item is handed to one caller. `asyncio.Condition` wakes a caller that then has to take the item: another caller
    that runs before it can take the item first, and under load some callers wait until their timeout.
    """

    def __init__(self) -> None:
        self._futures: deque[asyncio.Future[ItemT]] = deque()

    def __len__(self) -> int:
        """Return the number of callers that wait."""
        # A copy: a scrape of metrics may call this in another thread while the event loop changes the queue.
        return sum(not future.done() for future in list(self._futures))

    def hand_over(self, item: ItemT) -> bool:
        """Hand an item to the caller that has waited longest; return False if no caller waits."""
        while self._futures:
            if not (future := self._futures.popleft()).done():
                future.set_result(item)
                return True
        return False

    async def wait(self, seconds: float | None, *, put_back: Callable[[ItemT], object]) -> ItemT:
        """Wait for an item.

        Args:
            seconds: The time limit; None means no limit.
            put_back: Called with an item that was handed over when the timeout or a cancellation had already reached
                this task, and its `await` raises: without it the item would be lost.

        Raises:
            TimeoutError: The time ran out.
        """
        future: asyncio.Future[ItemT] = asyncio.get_running_loop().create_future()
        self._futures.append(future)
        try:
            async with asyncio.timeout(seconds):
                return await future
        except BaseException:
            if future.done() and not future.cancelled():
                put_back(future.result())
            else:
                with suppress(ValueError):  # `hand_over` may have removed it
                    self._futures.remove(future)
            raise
