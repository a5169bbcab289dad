"""A relay before the test's server that can fall silent, as a network does: connections stay open, nothing comes."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Event, Thread

from tests.conftest import SOCKETS


class Relay:
    """Passes on what comes, both ways, until `fall_silent`; it takes new connections then too, and says nothing."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self._is_silent = Event()

    def fall_silent(self) -> None:
        self._is_silent.set()

    def accept(self, listener: socket.socket) -> None:
        with ExitStack() as stack:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                self.connections += 1
                thread = Thread(target=self._pass_on, args=[client])
                thread.start()
                stack.callback(thread.join)
                stack.callback(_hang_up, client)

    def _pass_on(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.socket(socket.AF_UNIX) as server:
            server.connect(f"{SOCKETS}/.s.PGSQL.5432")
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    if not self._is_silent.is_set():
                        (server if ready is client else client).sendall(data)


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def relaying() -> Iterator[Relay]:
    """Serve on a free loopback port."""
    relay = Relay()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay.port = listener.getsockname()[1]
        thread = Thread(target=relay.accept, args=[listener])
        thread.start()
        try:
            yield relay
        finally:
            _hang_up(listener)
            thread.join()
