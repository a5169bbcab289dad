"""Helpers for tests of the tunnel: they wait for events, and count what is left of a tunnel."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from src.database.connect.ssh import SshTunnel
from tests.database.connect.gateway import Gateway


def silence(gateway: Gateway) -> None:
    """Stop the gateway from reading, as if its machine had disappeared."""
    for connection in gateway.connections:
        assert connection._transport is not None
        connection._transport.pause_reading()


async def dropped(tunnel: SshTunnel) -> None:
    """Wait until this side has noticed: a connection in that one turn of the event loop gets no answer."""
    connection = tunnel._connection
    assert connection is not None
    await until(connection.is_closed)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(2):
        while not is_so():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.005)


def count_watched() -> int:
    """Return the number of sockets that the event loop serves, listeners included."""
    loop: Any = asyncio.get_running_loop()
    return len(loop._selector.get_map())


def names_in(folder: Path | str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def mode_of(folder: str) -> int:
    return stat.S_IMODE(Path(folder).stat().st_mode)


@contextmanager
def elsewhere() -> Iterator[Callable[[Coroutine[Any, Any, None]], None]]:
    """Run an event loop in another thread; yield a function that runs a coroutine there."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        yield lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(timeout=5)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
