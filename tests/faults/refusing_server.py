"""A server that requests a plaintext password and quotes it in the error."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["refusing_server"]

_SSL_REQUEST = 80877103
_WANTS_PASSWORD = b"R" + struct.pack("!ii", 8, 3)


@asynccontextmanager
async def refusing_server() -> AsyncIterator[int]:
    """Run the server, and yield its port."""
    server = await asyncio.start_server(_refuse, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await _startup(reader) == _SSL_REQUEST:
            writer.write(b"N")
        writer.write(_WANTS_PASSWORD)
        await reader.readexactly(1)
        (length,) = struct.unpack("!i", await reader.readexactly(4))
        password = (await reader.readexactly(length - 4)).rstrip(b"\0")
        fields = b"SFATAL\0VFATAL\0C28P01\0Mpassword " + password + b" is wrong\0D" + password + b"\0\0"
        writer.write(b"E" + struct.pack("!i", len(fields) + 4) + fields)
        await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _startup(reader: asyncio.StreamReader) -> int:
    (length,) = struct.unpack("!i", await reader.readexactly(4))
    body = await reader.readexactly(length - 4)
    (code,) = struct.unpack("!i", body[:4])
    return int(code)
