"""A relay before the test's server that goes lame: answers stay out, come a byte at a time, or stop in the middle."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum

from sqlalchemy import URL

from tests.conftest import SOCKETS
from tests.database.listening import serving

SECONDS_A_BYTE = 0.05
BYTES_OF_AN_ANSWER = 7


class Fault(Enum):
    """What becomes of all connections, those that are open and those to come."""

    BLACK_HOLE = "nothing comes through, either way"
    HALF_OPEN = "the server's end is gone and the client does not know; who connects anew is hung up on"
    SLOW_LORIS = "answers come a byte at a time"
    MID_ANSWER = "the first bytes of an answer come, and no more"


class LameRelay:
    """Passes on what comes, both ways, until a fault befalls it."""

    def __init__(self) -> None:
        self.port = 0
        self._fault: Fault | None = None

    def befall(self, fault: Fault) -> None:
        self._fault = fault

    def lead_to(self, database: URL) -> URL:
        """Return the URL of a database with the relay on the way."""
        return database.set(query={"host": "127.0.0.1", "port": str(self.port)})

    def serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.socket(socket.AF_UNIX) as server:
            if self._fault is Fault.HALF_OPEN:
                return
            server.connect(f"{SOCKETS}/.s.PGSQL.5432")
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    (self._ask if ready is client else self._answer)(client, server, data)

    def _ask(self, client: socket.socket, server: socket.socket, data: bytes) -> None:
        if self._fault is Fault.HALF_OPEN:
            server.close()
        if self._fault in {Fault.HALF_OPEN, Fault.BLACK_HOLE}:
            _hear_out(client)
        server.sendall(data)

    def _answer(self, client: socket.socket, server: socket.socket, data: bytes) -> None:
        if self._fault is None:
            client.sendall(data)
        elif self._fault is Fault.SLOW_LORIS:
            for byte in data:
                client.sendall(bytes([byte]))
                time.sleep(SECONDS_A_BYTE)
        else:
            client.sendall(data[:BYTES_OF_AN_ANSWER] if self._fault is Fault.MID_ANSWER else b"")
            _hear_out(client)


def _hear_out(client: socket.socket) -> None:
    """Take what comes and do nothing about it until the client hangs up."""
    while client.recv(65536):
        pass
    raise ConnectionResetError


@contextmanager
def lame_relaying() -> Iterator[LameRelay]:
    """Serve on a free loopback port."""
    relay = LameRelay()
    with serving(relay.serve) as relay.port:
        yield relay
