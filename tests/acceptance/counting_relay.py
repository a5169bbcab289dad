"""A relay between an engine and its server that reads the client's half of the protocol along, and counts.

A client of PostgreSQL waits for the server after one of three messages: Query (`Q`), Sync (`S`) and Flush (`H`). The
driver sends the next message only once the answer is there, so each of the three is one round trip; what it sends
ahead of them (Parse, Bind, Describe, Execute) travels in the same one. The first message of a connection, its start,
has no letter; it is a trip too, of `starts`.
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
    """One that listens on a Unix socket in its folder.

    Attributes:
        sent: The letters of what was waited for, in order; clear it and look what a piece of work costs.
        starts: How many connections were opened.
        passed: The round trips so far, the starts among them.
        cut_before: The one of those, by its number, before which its connection is cut: the server never sees it.
    """

    folder: Path
    server: Path
    sent: list[str] = field(default_factory=list)
    starts: int = 0
    passed: int = 0
    cut_before: int | None = None

    def lead_to(self, database: URL) -> URL:
        """Return the URL of a database with the relay on the way, and a pool of one connection."""
        return database.set(query={"host": str(self.folder), "pool_max": "1"})

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection, both ways, until either side ends it."""
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
            pass  # one side is gone
        finally:
            back.cancel()
            for each in (onward[1], writer):
                each.close()
                with suppress(OSError):
                    await each.wait_closed()

    async def _read(self, reader: asyncio.StreamReader, *, is_start: bool) -> bytes:
        """Read one message of the client's; an empty one cuts the connection."""
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
    """Relay to the server whose socket is in this folder; at the end every connection is closed."""
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
