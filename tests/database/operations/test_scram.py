"""SCRAM verifiers equal those that PostgreSQL stores."""

from __future__ import annotations

import base64

import pytest

from src.database.operations import scram

# RFC 7677, section 3: the password `pencil`; the keys follow from its client proof and server signature.
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")


def test_equals_the_example_of_the_rfc() -> None:
    verifier = scram._verifier("pencil", SALT, 4096)

    assert verifier == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="
        ":wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )


@pytest.mark.parametrize(
    "password", ["p", "o'k%\\ \t", "contraseña-ñandú", "\u00ad\u2168", "\u0660\u0661", "\x07", "a" * 500]
)
def test_a_verifier_matches_only_its_password(password: str) -> None:
    verifier = scram.create_verifier(password)

    assert scram.is_verifier_of(verifier, password)
    assert not scram.is_verifier_of(verifier, f"{password}x")
    assert verifier != scram.create_verifier(password)  # a salt of its own
    assert password not in verifier or len(password) == 1


@pytest.mark.parametrize("stored", ["", "md5" + "0" * 32, "SCRAM-SHA-256$4096:eA==$eA==", "plain"])
def test_other_texts_are_no_verifiers(stored: str) -> None:
    assert not scram.is_verifier_of(stored, "plain")


def test_normalizes_as_the_server_does() -> None:
    assert scram._prepare("I\u00adX") == b"IX"  # RFC 4013, section 3
    assert scram._prepare("\u00aa") == b"a"
    assert scram._prepare("\u2168") == b"IX"
    assert scram._prepare("a\u00a0b") == b"a b"
    assert scram._prepare("\x07") == b"\x07"  # refused, hence as it is
    assert scram._prepare("\u06271") == "\u06271".encode()
