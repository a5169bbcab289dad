"""A TLS proxy in front of a server without TLS: PostgreSQL's negotiation, and each way in which it can fail."""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from tests.database.listening import serving

SSL_REQUEST = bytes.fromhex("0000000804d2162f")  # https://www.postgresql.org/docs/18/protocol-message-formats.html
PG_HBA_REFUSAL = b"SFATAL\0VFATAL\0C28000\0Mno pg_hba.conf entry\0\0"

Answer = Literal["S", "N", "error", "silence"]
ANSWERS = {"S": b"S", "N": b"N", "error": b"E\0\0\0\x08oops"}


@dataclass
class TlsProxy:
    """A proxy with configured answers; it records which connections were encrypted, and the client's certificate."""

    backend: str
    context: ssl.SSLContext | None
    answer: Answer = "S"
    takes_plaintext: bool = True
    takes_tls: bool = True
    port: int = 0
    was_encrypted: list[bool] = field(default_factory=list)
    client_certificates: list[object] = field(default_factory=list)

    def serve(self, client: socket.socket) -> None:
        with suppress(OSError), ExitStack() as stack:  # an ssl.SSLError is an OSError too
            first = client.recv(8, socket.MSG_WAITALL)
            is_encrypted = False
            if first == SSL_REQUEST:
                if self.answer == "silence":
                    client.recv(1)
                    return
                client.sendall(ANSWERS[self.answer])
                if self.answer == "S":
                    assert self.context is not None
                    client = stack.enter_context(self.context.wrap_socket(client, server_side=True))
                    is_encrypted = True
                    self.client_certificates.append(client.getpeercert())
                first = client.recv(8)
            if not (self.takes_tls if is_encrypted else self.takes_plaintext):
                client.sendall(b"E" + (len(PG_HBA_REFUSAL) + 4).to_bytes(4, "big") + PG_HBA_REFUSAL)
            elif first:
                self.was_encrypted.append(is_encrypted)
                self._relay(first, client)
            client.close()

    def _relay(self, first: bytes, client: socket.socket) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(self.backend)
            server.sendall(first)
            while True:
                has_more = isinstance(client, ssl.SSLSocket) and client.pending()
                for ready in [client] if has_more else select.select([client, server], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    (server if ready is client else client).sendall(data)


@contextmanager
def running(proxy: TlsProxy) -> Iterator[TlsProxy]:
    """Serve on a free loopback port."""
    with serving(proxy.serve) as proxy.port:
        yield proxy
