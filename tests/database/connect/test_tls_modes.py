"""TLS over the wire: each mode with each certificate and each answer, compared with libpq."""

from __future__ import annotations

import asyncio
import ssl
import traceback
from pathlib import Path

import pytest
import trustme

from src.database.errors import ConfigurationError, ConnectionFailed, TlsFailed
from src.database.target import Host, SslMode, Target
from tests.conftest import SOCKETS
from tests.connecting import connect
from tests.database.connect.certificates import Certificates
from tests.database.connect.tls_proxy import Answer, TlsProxy, running

CANARY = "c4n4ry-p4ss"
BACKEND = f"{SOCKETS}/.s.PGSQL.5432"


MODES: tuple[SslMode, ...] = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
PLAIN, TLS, NO, ERROR = "plaintext", "TLS", "TLS refused", "no connection"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def target(proxy: TlsProxy, mode: SslMode, **more: object) -> Target:
    given = {"hosts": (Host("127.0.0.1", proxy.port),), "connect_timeout": 5, **more}
    return Target(database="postgres", user="thea_app", password=CANARY, ssl_mode=mode, **given)  # type: ignore[arg-type]


async def outcome(at: Target, proxy: TlsProxy) -> str:
    """Connect and run a query; return the outcome."""
    try:
        connection = await connect(at)
    except ConnectionFailed as error:
        if CANARY in "".join(traceback.format_exception(error)):
            return "an error contains the password"
        return NO if isinstance(error, TlsFailed) else ERROR
    try:
        assert await connection.fetchval("SELECT 42") == 42
    finally:
        await connection.close()
    return TLS if proxy.was_encrypted[-1] else PLAIN


# What the server has          : disable, allow, prefer, require (with a CA: the chain), verify-ca, verify-full
TABLE = {
    "right CA": (PLAIN, PLAIN, TLS, TLS, TLS, TLS),
    "wrong CA": (PLAIN, PLAIN, TLS, NO, NO, NO),
    "wrong host": (PLAIN, PLAIN, TLS, TLS, TLS, NO),
    "expired": (PLAIN, PLAIN, TLS, NO, NO, NO),
    "no TLS": (PLAIN, PLAIN, PLAIN, NO, NO, NO),
    "a man in the middle who answers N": (PLAIN, PLAIN, PLAIN, NO, NO, NO),
    "an error for an answer": (PLAIN, PLAIN, ERROR, ERROR, ERROR, ERROR),
}


@pytest.mark.parametrize(("server", "mode", "expected"), [
    (server, mode, row[column]) for server, row in TABLE.items() for column, mode in enumerate(MODES)
])  # fmt: skip
async def test_each_mode_accepts_the_same_as_libpq(
    certificates: Certificates, server: str, mode: SslMode, expected: str
) -> None:
    context = certificates.contexts.get(server)
    answer: Answer = "S" if context else "error" if server.startswith("an error") else "N"
    with running(TlsProxy(BACKEND, context, answer)) as proxy:
        assert await outcome(target(proxy, mode, ssl_ca=certificates.ca_file), proxy) == expected


@pytest.mark.parametrize("server", ["right CA", "wrong CA", "wrong host", "expired"])
async def test_require_without_a_ca_encrypts_and_checks_nothing(certificates: Certificates, server: str) -> None:
    with running(TlsProxy(BACKEND, certificates.contexts[server])) as proxy:
        assert await outcome(target(proxy, "require"), proxy) == TLS


async def test_verify_full_without_a_ca_trusts_the_systems_cas(certificates: Certificates) -> None:
    with running(TlsProxy(BACKEND, certificates.contexts["right CA"])) as proxy:
        assert await outcome(target(proxy, "verify-full"), proxy) == NO


async def test_allow_continues_with_tls_if_plaintext_is_rejected(certificates: Certificates) -> None:
    with running(TlsProxy(BACKEND, certificates.contexts["expired"], takes_plaintext=False)) as proxy:
        assert await outcome(target(proxy, "allow"), proxy) == TLS


async def test_prefer_continues_in_plaintext_if_tls_is_rejected(certificates: Certificates) -> None:
    with running(TlsProxy(BACKEND, certificates.contexts["right CA"], takes_tls=False)) as proxy:
        assert await outcome(target(proxy, "prefer"), proxy) == PLAIN


@pytest.mark.parametrize("mode", ["require", "verify-full"])
async def test_no_other_mode_continues_in_plaintext(certificates: Certificates, mode: SslMode) -> None:
    proxy = TlsProxy(BACKEND, certificates.contexts["right CA"], takes_tls=False)
    with running(proxy), pytest.raises(ConnectionFailed, match="refused the user or the password"):
        await connect(target(proxy, mode, ssl_ca=certificates.ca_file))
    assert proxy.was_encrypted == []


async def test_a_server_that_does_not_answer_the_request_for_tls_times_out(certificates: Certificates) -> None:
    proxy = TlsProxy(BACKEND, None, "silence")
    with running(proxy), pytest.raises(ConnectionFailed, match="did not answer in time"):
        await connect(target(proxy, "require", connect_timeout=0.3))


async def test_the_certificate_of_the_client_is_sent(certificates: Certificates) -> None:
    more = {"ssl_cert": certificates.client_cert, "ssl_key": certificates.client_key}
    with running(TlsProxy(BACKEND, certificates.contexts["right CA"])) as proxy:
        assert await outcome(target(proxy, "verify-full", ssl_ca=certificates.ca_file, **more), proxy) == TLS
        assert await outcome(target(proxy, "verify-full", ssl_ca=certificates.ca_file), proxy) == TLS

    certificate, nothing = proxy.client_certificates
    assert "certified" in str(certificate)
    assert not nothing


async def test_tls_below_1_2_is_refused(certificates: Certificates) -> None:
    context = certificates.context(certificates.ca.issue_cert("127.0.0.1"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with running(TlsProxy(BACKEND, context)) as proxy:
        assert await outcome(target(proxy, "require"), proxy) == NO


async def test_a_renewed_ca_is_used_without_a_restart(certificates: Certificates, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(ca)
    with running(TlsProxy(BACKEND, certificates.contexts["right CA"])) as proxy:
        at = target(proxy, "verify-full", ssl_ca=ca)
        assert await outcome(at, proxy) == NO
        await asyncio.sleep(0.01)
        ca.write_bytes(certificates.ca_file.read_bytes())
        assert await outcome(at, proxy) == TLS


async def test_a_missing_file_is_named(certificates: Certificates) -> None:
    proxy = TlsProxy(BACKEND, certificates.contexts["right CA"])
    with running(proxy), pytest.raises(ConfigurationError, match=r"a readable PEM file, got '/nowhere\.pem'"):
        await connect(target(proxy, "verify-full", ssl_ca=Path("/nowhere.pem")))
