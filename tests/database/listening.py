"""Serve a loopback port in threads, so that a relay does not depend on the test's event loop."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Thread


@contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve each connection in a thread of its own, and yield the port; all connections are closed at the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=_accept, args=[listener, serve])
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            _close(listener)
            thread.join()


def _accept(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    with ExitStack() as stack:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            stack.callback(client.close)
            thread = Thread(target=serve, args=[client])
            thread.start()
            stack.callback(thread.join)
            stack.callback(_close, client)


def _close(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
