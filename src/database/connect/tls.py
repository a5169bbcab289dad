"""TLS contexts, with libpq's meaning of each mode: https://www.postgresql.org/docs/18/libpq-ssl.html."""

from __future__ import annotations

import ssl
from functools import lru_cache
from pathlib import Path
from typing import Final

from src.database.errors import ConfigurationError
from src.database.target import SslMode

SYSTEM: Final = "system"
"""libpq's name for the system's CAs, in place of a file."""


class _Context(ssl.SSLContext):
    """A context that can check another name than the host of the connection: a tunnel ends on 127.0.0.1."""

    server_name: str | None = None

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return super().wrap_bio(incoming, outgoing, server_side, self.server_name or server_hostname, session)


def create_ssl_context(
    mode: SslMode,
    *,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
    server_name: str | None = None,
) -> ssl.SSLContext:
    """Return the context of a mode, with TLS 1.2 or later. It is cached until one of its files changes.

    `allow`, `prefer` and `require` encrypt and check nothing; `require` with a CA verifies the chain, as `verify-ca`
    does; `verify-full` also checks the host's name, with the system's CAs if no CA is given.

    Args:
        mode: Any mode except `disable`, which has no context.
        ca: The PEM file of the CA, or ``system``.
        cert: The PEM file of the client's certificate.
        key: The PEM file of the certificate's key, without a passphrase.
        server_name: The name to check, if it is not the host of the connection.

    Raises:
        ConfigurationError: A file cannot be read, or `verify-ca` has no CA.
    """
    # A part of the cache's key. A context costs milliseconds with the system's CAs, and each connection needs one.
    stamps = tuple(_stamp(path) for path in (ca, cert, key))
    return _create(mode, ca, cert, key, server_name, stamps)


@lru_cache(maxsize=64)
def _create(
    mode: SslMode, ca: Path | None, cert: Path | None, key: Path | None, server_name: str | None, _stamps: object
) -> ssl.SSLContext:
    # Not create_default_context: since Python 3.13 it sets VERIFY_X509_STRICT, which libpq does not, and which rejects
    # the private CAs of many companies.
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.server_name = server_name
    verifies = mode in {"verify-ca", "verify-full"} or (mode == "require" and ca is not None)
    # In this order: Python refuses CERT_NONE while check_hostname is on, as it is in a new context of this protocol.
    context.check_hostname = mode == "verify-full"
    context.verify_mode = ssl.CERT_REQUIRED if verifies else ssl.CERT_NONE
    if verifies:
        _load_ca(context, mode, ca)
    if cert is not None:
        _load_certificate(context, cert, key)
    return context


def _load_ca(context: ssl.SSLContext, mode: SslMode, ca: Path | None) -> None:
    if ca is None or str(ca) == SYSTEM:
        if mode != "verify-full":  # a public CA issues certificates to anyone: only the name identifies the server
            raise ConfigurationError(
                f"DATABASE_SSL_CA, or sslrootcert in the URL, must name a file if sslmode is {mode},"
                f" got {'nothing' if ca is None else 'system'}",
                hint="name the CA's file, or use verify-full, which trusts the system's CAs",
            )
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return
    try:
        context.load_verify_locations(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"DATABASE_SSL_CA, or sslrootcert in the URL, must be a readable PEM file, got {str(ca)!r}"
        ) from error


def _load_certificate(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    try:
        # Without an argument, Python would prompt for the passphrase of an encrypted key at the terminal.
        context.load_cert_chain(cert, key, password="")
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            "DATABASE_SSL_CERT and DATABASE_SSL_KEY, or sslcert and sslkey in the URL, must be readable PEM files of a"
            f" certificate and its key without a passphrase, got {str(cert)!r} and {str(key)!r}"
        ) from error


def _stamp(path: Path | None) -> tuple[int, int] | None:
    """Return the time and size of a file: certificates are renewed while a service runs."""
    try:
        state = path.stat() if path is not None else None
    except OSError:
        return None
    return state and (state.st_mtime_ns, state.st_size)
