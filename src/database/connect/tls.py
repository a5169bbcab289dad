"""TLS contexts, with libpq's meaning of each mode: https://www.postgresql.org/docs/18/libpq-ssl.html."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Literal

from src.database.errors import ConfigurationError
from src.database.target import SslMode

__all__ = ["create_ssl_context"]


def create_ssl_context(mode: SslMode, *, ca: Path | None) -> ssl.SSLContext | Literal[False]:
    """Return the context of a mode, TLS 1.2 at least, or False for `disable`.

    `require` encrypts and checks nothing, unless there is a CA: then it verifies the chain, as `verify-ca` does.
    `verify-full` checks the host's name too. The system's CAs serve where the two are given none.

    Raises:
        ConfigurationError: The CA file cannot be read.
    """
    if mode == "disable":
        return False
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"DATABASE_SSL_CA, or sslrootcert in the URL, must be a readable PEM file, got {str(ca)!r}"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = mode == "verify-full"
    if mode == "require" and ca is None:
        context.verify_mode = ssl.CERT_NONE
    return context
