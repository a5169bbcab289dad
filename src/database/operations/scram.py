"""SCRAM-SHA-256 verifiers, computed by the client: the server never receives a password that it could log."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import stringprep
import unicodedata
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Final

ITERATIONS: Final = 4096
"""The default of PostgreSQL's scram_iterations."""
SALT_BYTES: Final = 16

_VERIFIER: Final = re.compile(r"SCRAM-SHA-256\$(?P<iterations>\d{1,9}):(?P<salt>[\w+/=]+)\$(?P<keys>[\w+/=]+:[\w+/=]+)")

# The tables of characters that RFC 4013, section 2.3 prohibits.
_PROHIBITED: Final[tuple[Callable[[str], bool], ...]] = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


def create_verifier(password: str) -> str:
    """Create the verifier of a password in the form that PostgreSQL stores (RFC 5802, RFC 7677), with a random salt."""
    return _verifier(password, secrets.token_bytes(SALT_BYTES), ITERATIONS)


def is_verifier_of(stored: str, password: str) -> bool:
    """Return True if a stored verifier belongs to this password; False for a hash of another kind too, such as MD5."""
    match = _VERIFIER.fullmatch(stored)
    if match is None:
        return False
    verifier = _verifier(password, b64decode(match["salt"]), int(match["iterations"]))
    return hmac.compare_digest(verifier, stored)


def _verifier(password: str, salt: bytes, iterations: int) -> str:
    salted = hashlib.pbkdf2_hmac("sha256", _prepare(password), salt, iterations)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    return f"SCRAM-SHA-256${iterations}:{_text(salt)}${_text(stored_key)}:{_text(server_key)}"


def _prepare(password: str) -> bytes:
    """Normalize a password by SASLprep (RFC 4013).

    A password that SASLprep prohibits is used unchanged, as pg_saslprep() in the server and in libpq does: otherwise
    the server would accept a login only from this package.
    """
    mapped = "".join(
        " " if stringprep.in_table_c12(letter) else letter for letter in password if not stringprep.in_table_b1(letter)
    )
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if (
        not prepared
        or any(is_in(letter) for letter in prepared for is_in in _PROHIBITED)
        or _mixes_directions(prepared)
    ):
        return password.encode()
    return prepared.encode()


def _mixes_directions(text: str) -> bool:
    """Return True if right-to-left characters break RFC 3454, section 6."""
    if not any(map(stringprep.in_table_d1, text)):
        return False
    return (
        any(map(stringprep.in_table_d2, text))
        or not stringprep.in_table_d1(text[0])
        or not stringprep.in_table_d1(text[-1])
    )


def _text(raw: bytes) -> str:
    return b64encode(raw).decode()
