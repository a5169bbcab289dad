"""TLS contexts: what each mode checks."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import certifi
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from src.database.connect.tls import create_ssl_context
from src.database.errors import ConfigurationError
from src.database.target import SslMode

CA = Path(certifi.where())


@pytest.mark.parametrize(
    ("mode", "ca", "checks_chain", "checks_host"),
    [
        ("allow", CA, False, False),
        ("prefer", CA, False, False),
        ("require", None, False, False),
        ("require", CA, True, False),
        ("verify-ca", CA, True, False),
        ("verify-full", None, True, True),
        ("verify-full", CA, True, True),
    ],
)
def test_each_mode_checks_the_same_as_libpq(
    mode: SslMode, ca: Path | None, checks_chain: bool, checks_host: bool
) -> None:
    context = create_ssl_context(mode, ca=ca)

    assert (context.verify_mode == ssl.CERT_REQUIRED) is checks_chain
    assert context.check_hostname is checks_host
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("ca", [None, Path("system")])
def test_verify_ca_requires_the_file_of_a_ca(ca: Path | None) -> None:
    """Anyone can get a certificate of a public CA."""
    with pytest.raises(ConfigurationError, match="must name a file if sslmode is verify-ca"):
        create_ssl_context("verify-ca", ca=ca)


def test_a_context_is_cached_until_a_file_changes(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(CA.read_bytes())
    first = create_ssl_context("verify-full", ca=ca)
    assert create_ssl_context("verify-full", ca=ca) is first

    os.utime(ca, ns=(1, 1))
    assert create_ssl_context("verify-full", ca=ca) is not first


def test_an_encrypted_key_is_refused_without_a_prompt(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    private = ec.generate_private_key(ec.SECP256R1())
    encryption = serialization.BestAvailableEncryption(b"c4n4ry")
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key.write_bytes(private.private_bytes(pem, form, encryption))
    cert.write_bytes(CA.read_bytes())

    with pytest.raises(ConfigurationError, match="without a passphrase"):
        create_ssl_context("require", cert=cert, key=key)


@pytest.mark.parametrize("ca", [Path("/nowhere.pem"), Path(__file__)])
def test_refuses_a_ca_file_of_another_format(ca: Path) -> None:
    with pytest.raises(ConfigurationError, match="must be a readable PEM file"):
        create_ssl_context("verify-full", ca=ca)
