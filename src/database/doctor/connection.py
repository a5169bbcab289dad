"""One asyncpg connection for a command, and its encryption.

The connection takes the engine's routes, and skips the engine's checks of the role: the commands report those faults.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import asyncpg

from src.config import Settings
from src.config.profiles import Purpose
from src.database.connect import command_connection
from src.database.session import named_provider, reach_target
from src.database.target import Target

COMMAND_TIMEOUT_SECONDS: Final = 10.0
CLOSE_TIMEOUT_SECONDS: Final = 2.0
BEHIND_POOLER: Final = ("application", "reading")
"""The purposes whose connections DATABASE_PGBOUNCER is about; the others connect to the server itself."""


@dataclass(frozen=True, slots=True)
class Reached:
    """An open connection and its target."""

    connection: asyncpg.Connection[Any]
    target: Target


@asynccontextmanager
async def reach(settings: Settings, purpose: Purpose = "application") -> AsyncIterator[Reached]:
    """Open a connection to the target of a purpose, and close it after the block.

    The embedded server is started if the settings name no other target.

    Raises:
        ConfigurationError: The settings name no usable target.
        ConnectionFailed: There is no connection; a subclass names the reason.
    """
    target = await reach_target(settings, purpose)
    # PgBouncer rejects search_path as a startup parameter, and with SET it would leak to the pooler's other clients.
    connecting = command_connection(
        replace(target, search_path=None) if settings.DATABASE_PGBOUNCER and purpose in BEHIND_POOLER else target,
        server_settings={},
        command_timeout=COMMAND_TIMEOUT_SECONDS,
        close_seconds=CLOSE_TIMEOUT_SECONDS,
        password=named_provider(target, settings),
    )
    async with connecting as connection:
        yield Reached(connection, target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    """The encryption of a connection. Without TLS all attributes but `kind` are None.

    Args:
        kind: TLS, or the transport without TLS.
        version: The TLS version, such as TLSv1.3.
        cipher: The cipher suite.
        peer: The names in the server's certificate; None if the certificate was not verified, as it proves nothing.
        issuer: The issuer of the certificate.
        expires: The end of the certificate's validity, as OpenSSL prints it.
    """

    kind: Literal["TLS", "Unix socket", "plaintext"]
    version: str | None = None
    cipher: str | None = None
    peer: str | None = None
    issuer: str | None = None
    expires: str | None = None

    def __str__(self) -> str:
        if self.version is None:
            return self.kind
        peer = (
            f"peer {self.peer}, issued by {self.issuer}, expires {self.expires}" if self.peer else "peer not verified"
        )
        return f"{self.version}, {self.cipher}, {peer}"


def encryption_of(connection: asyncpg.Connection[Any], target: Target) -> Encryption:
    """Return the encryption that the connection has, which can differ from what the settings request."""
    tls = connection.transport.get_extra_info("ssl_object")
    if tls is None:
        return Encryption(kind="Unix socket" if target.is_socket else "plaintext")
    certificate = tls.getpeercert() or {}  # empty if it was not verified
    cipher = tls.cipher()
    return Encryption(
        kind="TLS",
        version=tls.version(),
        cipher=cipher and cipher[0],
        peer=_names(certificate),
        issuer=_common_name(certificate.get("issuer", ())),
        expires=certificate.get("notAfter"),
    )


def _names(certificate: dict[str, Any]) -> str | None:
    names = [name for _, name in certificate.get("subjectAltName", ())]
    return ", ".join(names) or _common_name(certificate.get("subject", ()))


def _common_name(parts: tuple[tuple[tuple[str, str], ...], ...]) -> str | None:
    """Return the common name of a subject or issuer, or all of its attributes if it has none."""
    named = {kind: value for part in parts for kind, value in part}
    return named.get("commonName") or ", ".join(named.values()) or None
