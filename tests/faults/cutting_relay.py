"""A relay that cuts a connection before or after COMMIT, or withholds the answer.

The relay reads the client's half of the protocol: a simple Query is the letter Q, a length, and the text.
https://www.postgresql.org/docs/18/protocol-message-formats.html
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sqlalchemy import URL

SOCKET = ".s.PGSQL.5432"
COMMIT = re.compile(rb"^COMMIT")
SYNC = re.compile(rb"^SYNC")
Cut = Literal["after", "before", "never sent on"]
"""Where to cut: after the server has answered, before it gets the message, or only on the side of the client."""


@dataclass
class CuttingRelay:
    """A relay that listens on a Unix socket in its folder.

    Attributes:
        cuts: How many of the next messages that match are cut.
        how: Where to cut.
        of: The text of a Query or Parse message to cut, or BIND.
        made: The number of connections that were cut.
        when_cut: Called for each cut.
    """

    folder: Path
    server: Path
    cuts: int = 0
    how: Cut = "after"
    of: re.Pattern[bytes] = COMMIT
    made: int = 0
    when_cut: Callable[[], object] | None = None
    _kept: list[asyncio.StreamWriter] = field(default_factory=list)

    def lead_to(self, database: URL, **parameters: str) -> URL:
        """Return the URL of a database through the relay."""
        return database.set(query={"host": str(self.folder), **parameters})

    def cut(self, count: int, how: Cut = "after", of: bytes = b"^COMMIT") -> None:
        self.cuts, self.how, self.of = count, how, re.compile(of)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection in both directions until one side closes it."""
        try:
            server_reader, server = await asyncio.open_unix_connection(str(self.server / SOCKET))
        except OSError:
            writer.close()
            return
        carrier = _Back(server_reader, writer)
        back = asyncio.create_task(carrier.run())
        keeps_server = False
        try:
            server.write(await _read_message(reader, is_start=True))
            while True:
                message = await _read_message(reader, is_start=False)
                if not self._is_to_cut(message):
                    server.write(message)
                    await server.drain()
                    continue
                if self.how == "after":
                    carrier.is_deaf = True
                    server.write(message)
                    await carrier.has_answered.wait()
                keeps_server = self.how == "never sent on"
                return
        except (OSError, asyncio.IncompleteReadError):
            pass  # one side has closed the connection
        finally:
            back.cancel()
            if keeps_server:
                self._kept.append(server)
                await _close(writer)
            else:
                await _close(server, writer)

    def _is_to_cut(self, message: bytes) -> bool:
        if not self.cuts or not self.of.match(_text(message)):
            return False
        if message[:1] == b"B":  # the server answers at the Sync that follows
            self.of = SYNC
            return False
        self.cuts -= 1
        self.made += 1
        if self.when_cut is not None:
            self.when_cut()
        return True

    async def close_withheld(self) -> None:
        """Close the connections that are still open on the side of the server."""
        await _close(*self._kept)
        self._kept.clear()


class _Back:
    """The direction from the server to the client; once `deaf`, it discards what the server sends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.is_deaf = False
        self.has_answered = asyncio.Event()

    async def run(self) -> None:
        with suppress(OSError):
            while chunk := await self._reader.read(65536):
                if self.is_deaf:
                    self.has_answered.set()
                    continue
                self._writer.write(chunk)
                await self._writer.drain()
        self.has_answered.set()
        if not self.is_deaf:
            self._writer.close()


def _text(message: bytes) -> bytes:
    match message[:1]:
        case b"Q":
            return message[5:]
        case b"P":
            return message[5:].partition(b"\0")[2]
        case b"B":
            return b"BIND"
        case b"S":
            return b"SYNC"
    return b""


async def _read_message(reader: asyncio.StreamReader, *, is_start: bool) -> bytes:
    letter = b"" if is_start else await reader.readexactly(1)
    length = await reader.readexactly(4)
    return letter + length + await reader.readexactly(int.from_bytes(length) - 4)


async def _close(*writers: asyncio.StreamWriter) -> None:
    for each in writers:
        each.close()
        with suppress(OSError):
            await each.wait_closed()


@asynccontextmanager
async def cutting(server: str | Path) -> AsyncIterator[CuttingRelay]:
    """Relay to the server whose socket is in this folder; all connections are closed at the end."""
    carried: set[asyncio.Task[None]] = set()
    with tempfile.TemporaryDirectory(prefix="thea-c-") as name:
        relay = CuttingRelay(Path(name), Path(server))

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(relay.carry(reader, writer))
            carried.add(task)
            task.add_done_callback(carried.discard)

        listening = await asyncio.start_unix_server(accept, str(relay.folder / SOCKET))
        try:
            yield relay
        finally:
            listening.close()
            await relay.close_withheld()
            for task in (tasks := list(carried)):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
