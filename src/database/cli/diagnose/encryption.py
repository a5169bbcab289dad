"""How a connection of the driver's is encrypted, and who is at its other end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import asyncpg

from src.database.target import Target

__all__ = ["Encryption", "encryption_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    """TLS as it is; without it all but the first are None."""

    kind: Literal["TLS", "Unix socket", "plaintext"]
    version: str | None = None
    cipher: str | None = None
    peer: str | None = None
    """Whom the certificate names. None where it was not verified: it would prove nothing."""
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
    """Look at the connection itself, not at what was asked for."""
    # The driver has no public way to its transport.
    tls = connection._transport.get_extra_info("ssl_object")  # noqa: SLF001
    if tls is None:
        return Encryption(kind="Unix socket" if target.is_socket else "plaintext")
    certificate = tls.getpeercert() or {}
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
    """Return the common name of a subject or issuer, or all that it has in place of one."""
    named = {kind: value for part in parts for kind, value in part}
    return named.get("commonName") or ", ".join(named.values()) or None
