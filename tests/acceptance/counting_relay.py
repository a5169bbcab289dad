"""A relay between an engine and its server that reads the messages of the client and counts round trips.

A client of PostgreSQL waits for the server after one of three messages: Query (`Q`), Sync (`S`) and Flush (`H`). The
driver sends the next message only after the answer, so that each of the three is one round trip. Messages before them
(Parse, Bind, Describe, Execute) are sent in the same round trip. The first message of a connection has no letter; it
is counted in `starts`.
https://www.postgresql.org/docs/18/protocol-message-formats.html
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import URL

SOCKET = ".s.PGSQL.5432"
_WAITED_FOR = (b"Q", b"S", b"H")


@dataclass
class Relay:
    """A relay that listens on a Unix socket in its folder.

    Attributes:
        sent: The letters of the round trips, in order; clear the list before the work to measure.
        starts: The number of opened connections.
        passed: The number of round trips so far, starts included.
        cut_before: The number of the round trip before which the connection is cut.
    """

    folder: Path
    server: Path
    sent: list[str] = field(default_factory=list)
    starts: int = 0
    passed: int = 0
    cut_before: int | None = None

    def lead_to(self, database: URL) -> URL:
        """Return the URL of a database through the relay, with a pool of one connection."""
        return database.set(query={"host": str(self.folder), "pool_max": "1"})

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection in both directions until one side closes it."""
        try:
            onward = await asyncio.open_unix_connection(str(self.server / SOCKET))
        except OSError:
            writer.close()
            return
        back = asyncio.create_task(_carry_back(onward[0], writer))
        try:
            message = await self._read(reader, is_start=True)
            while message:
                onward[1].write(message)
                await onward[1].drain()
                message = await self._read(reader, is_start=False)
        except (OSError, asyncio.IncompleteReadError):
            pass  # one side has closed the connection
        finally:
            back.cancel()
            for each in (onward[1], writer):
                each.close()
                with suppress(OSError):
                    await each.wait_closed()

    async def _read(self, reader: asyncio.StreamReader, *, is_start: bool) -> bytes:
        """Return one message of the client; an empty one cuts the connection."""
        letter = b"" if is_start else await reader.readexactly(1)
        length = await reader.readexactly(4)
        body = await reader.readexactly(int.from_bytes(length) - 4)
        if not is_start and letter not in _WAITED_FOR:
            return letter + length + body
        if is_start:
            self.starts += 1
        else:
            self.sent.append(letter.decode())
        self.passed += 1
        return b"" if self.passed == self.cut_before else letter + length + body


async def _carry_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def relaying(server: str | Path) -> AsyncIterator[Relay]:
    """Relay to the server whose socket is in this folder; all connections are closed at the end."""
    carried: set[asyncio.Task[None]] = set()
    with tempfile.TemporaryDirectory(prefix="thea-w-") as name:
        relay = Relay(Path(name), Path(server))

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            carried.add(asyncio.create_task(relay.carry(reader, writer)))

        listening = await asyncio.start_unix_server(accept, str(relay.folder / SOCKET))
        try:
            yield relay
        finally:
            listening.close()
            for task in carried:
                task.cancel()
            await asyncio.gather(*carried, return_exceptions=True)
