"""A relay before the test's server that can fall silent as a network can: connections stay open without data."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event

from tests.conftest import SOCKETS
from tests.database.listening import serving

_READY_FOR_QUERY = b"Z\0\0\0\5I"


class MuteRelay:
    """A relay in both directions until `fall_silent`; afterwards it accepts connections and sends nothing."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.is_silent_after_login = False
        self._is_silent = Event()

    def fall_silent(self) -> None:
        self._is_silent.set()

    def serve(self, client: socket.socket) -> None:
        self.connections += 1
        with suppress(OSError), client, socket.socket(socket.AF_UNIX) as server:
            server.connect(f"{SOCKETS}/.s.PGSQL.5432")
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    if not self._is_silent.is_set():
                        (server if ready is client else client).sendall(data)
                    if self.is_silent_after_login and data.endswith(_READY_FOR_QUERY):
                        self.fall_silent()


@contextmanager
def relaying() -> Iterator[MuteRelay]:
    """Serve on a free loopback port."""
    relay = MuteRelay()
    with serving(relay.serve) as relay.port:
        yield relay
