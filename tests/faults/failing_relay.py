"""A relay that fails: answers are withheld, arrive byte by byte, or stop in the middle."""

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
    """The fault of all connections, open and new ones."""

    BLACK_HOLE = "no data passes in either direction"
    HALF_OPEN = "the server's side is closed without notice; new connections are closed immediately"
    SLOW_LORIS = "answers arrive byte by byte"
    MID_ANSWER = "only the first bytes of an answer arrive"


class FailingRelay:
    """A relay that passes on data in both directions until a fault is applied."""

    def __init__(self) -> None:
        self.port = 0
        self._fault: Fault | None = None

    def apply_fault(self, fault: Fault) -> None:
        self._fault = fault

    def lead_to(self, database: URL) -> URL:
        """Return the URL of a database through the relay."""
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
            _read_until_closed(client)
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
            _read_until_closed(client)


def _read_until_closed(client: socket.socket) -> None:
    """Read and discard data until the client closes the connection."""
    while client.recv(65536):
        pass
    raise ConnectionResetError


@contextmanager
def failing_relay() -> Iterator[FailingRelay]:
    """Run a relay on a free loopback port."""
    relay = FailingRelay()
    with serving(relay.serve) as relay.port:
        yield relay
