"""TLS contexts: what each mode checks."""

from __future__ import annotations

import ssl
from pathlib import Path

import certifi
import pytest

from src.database.connect.tls import create_ssl_context
from src.database.errors import ConfigurationError
from src.database.target import SslMode

CA = Path(certifi.where())


@pytest.mark.parametrize(
    ("mode", "ca", "checks_chain", "checks_host"),
    [
        ("require", None, False, False),
        ("require", CA, True, False),
        ("verify-ca", None, True, False),
        ("verify-ca", CA, True, False),
        ("verify-full", None, True, True),
        ("verify-full", CA, True, True),
    ],
)
def test_each_mode_checks_what_libpqs_does(
    mode: SslMode, ca: Path | None, checks_chain: bool, checks_host: bool
) -> None:
    context = create_ssl_context(mode, ca=ca)

    assert context
    assert (context.verify_mode == ssl.CERT_REQUIRED) is checks_chain
    assert context.check_hostname is checks_host
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_disable_is_no_context() -> None:
    assert create_ssl_context("disable", ca=None) is False


@pytest.mark.parametrize("ca", [Path("/nowhere.pem"), Path(__file__)])
def test_refuses_a_ca_that_is_none(ca: Path) -> None:
    with pytest.raises(ConfigurationError, match="must be a readable PEM file"):
        create_ssl_context("verify-full", ca=ca)
