"""TLS with a PostgreSQL that is built with OpenSSL, if the machine has one."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import asyncpg
import psycopg
import pytest

from src.config import Settings
from src.database import create_engine
from src.database.connect import Driver, asyncpg_arguments, psycopg_arguments
from src.database.doctor.examination import examine
from src.database.embedded.files import free_port
from src.database.errors import AuthenticationFailed, ConfigurationError, TlsFailed
from src.database.target import Host, Target
from tests.connecting import connect
from tests.database.connect.certificates import Certificates

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=Path("/nowhere/initdb")).parent
HBA = "local all all trust\nhostssl all certified 127.0.0.1/32 cert\nhostssl all all 127.0.0.1/32 trust\n"

pytestmark = pytest.mark.skipif(
    not (PROGRAMS / "initdb").exists() or sys.platform == "win32", reason="no system PostgreSQL in /usr/lib/postgresql"
)


def run(program: str, *arguments: str) -> None:
    """Run one of its programs; as root, as the user that the system's package created."""
    identity: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    subprocess.run(
        [PROGRAMS / program, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=tempfile.gettempdir(), **identity
    )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(certificates: Certificates) -> Iterator[Target]:
    """A server that accepts only TLS over TCP; the role `certified` needs a certificate of the CA."""
    folder = Path(tempfile.mkdtemp(prefix="thea-tls-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    data, port = folder / "data", free_port()
    run("initdb", "-D", str(data), "-U", "postgres", "--auth=trust", "--no-sync", "--no-instructions")
    leaf = certificates.ca.issue_cert("localhost", "127.0.0.1")
    leaf.cert_chain_pems[0].write_to_path(data / "server.crt")
    leaf.private_key_pem.write_to_path(data / "server.key")
    certificates.ca.cert_pem.write_to_path(data / "ca.crt")
    (data / "pg_hba.conf").write_text(HBA)
    (data / "server.key").chmod(0o600)
    if os.geteuid() == 0:
        for name in ("server.crt", "server.key", "ca.crt"):
            shutil.chown(data / name, "postgres", "postgres")
    flags = f"-p {port} -k {folder} -c ssl=on -c ssl_ca_file=ca.crt -c listen_addresses=127.0.0.1 -c fsync=off"
    run("pg_ctl", "-D", str(data), "-w", "-l", str(folder / "log"), "-o", flags, "start")
    try:
        run("psql", "-q", "-h", str(folder), "-p", str(port), "-U", "postgres", "-c", "CREATE ROLE certified LOGIN")
        run("psql", "-q", "-h", str(folder), "-p", str(port), "-U", "postgres", "-c", "CREATE ROLE app LOGIN")
        yield Target(hosts=(Host("127.0.0.1", port),), database="postgres", user="app", ssl_ca=certificates.ca_file)
    finally:
        run("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)


def url(server: Target, user: str, **parameters: str) -> str:
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    return f"postgresql://{user}@{server.hosts[0]}/postgres?{query}"


async def encryption(server: Target, **parameters: str) -> tuple[bool, str]:
    """Connect with an engine of production; return the version of TLS that the server reports."""
    user = parameters.pop("user", "app")
    engine = create_engine(Settings(ENVIRONMENT="production", DATABASE_URL=url(server, user, **parameters)))
    try:
        async with engine.connect() as connection:
            question = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            row = (await connection.exec_driver_sql(question)).one()
            return row.ssl, row.version
    finally:
        await engine.dispose()
        await asyncio.sleep(0.05)  # after a refused login, the transport ends TLS in the background


async def test_production_is_encrypted_by_default(server: Target) -> None:
    assert await encryption(server) == (True, "TLSv1.3")


async def test_verify_full_accepts_the_right_server(server: Target, certificates: Certificates) -> None:
    assert await encryption(server, sslmode="verify-full", sslrootcert=str(certificates.ca_file)) == (True, "TLSv1.3")


@pytest.mark.slow
@pytest.mark.parametrize("driver", get_args(Driver))
@pytest.mark.parametrize("user", ["app", "certified"])
async def test_drivers_of_other_libraries_are_as_strict(
    driver: Driver, user: str, server: Target, certificates: Certificates
) -> None:
    trusted = replace(server, user=user, ssl_mode="verify-full")
    if user == "certified":
        certificates.client_key.chmod(0o600)  # libpq refuses a key that others can read
        trusted = replace(trusted, ssl_cert=certificates.client_cert, ssl_key=certificates.client_key)

    assert await version_of_tls(driver, trusted) == "TLSv1.3"
    with pytest.raises((ssl.SSLError, psycopg.OperationalError), match="certificate"):
        await version_of_tls(driver, replace(trusted, ssl_ca=None))


async def version_of_tls(driver: Driver, target: Target) -> object:
    """Return the version of TLS that the server reports to a driver."""
    question = "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    if driver == "psycopg":
        async with await psycopg.AsyncConnection.connect(**psycopg_arguments(target, target.hosts)) as opened:
            row = await (await opened.execute(question)).fetchone()
            return row and row[0]
    connection = await asyncpg.connect(**asyncpg_arguments(target, target.hosts))
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


async def test_verify_full_refuses_a_server_of_an_unknown_ca(server: Target) -> None:
    with pytest.raises(TlsFailed, match=r"local issuer certificate|self.signed"):
        await encryption(server, sslmode="verify-full")


async def test_a_client_logs_in_with_its_certificate(server: Target, certificates: Certificates) -> None:
    client_files = {"sslcert": str(certificates.client_cert), "sslkey": str(certificates.client_key)}

    assert await encryption(server, user="certified", **client_files) == (True, "TLSv1.3")
    with pytest.raises(AuthenticationFailed):
        await encryption(server, user="certified")


async def test_plaintext_is_rejected_by_the_server_and_refused_by_the_settings(server: Target) -> None:
    with pytest.raises(AuthenticationFailed):
        await connect(server)
    with pytest.raises(ConfigurationError, match="which permits plaintext"):
        await encryption(server, sslmode="prefer")


async def test_20_concurrent_connections_are_all_encrypted(server: Target) -> None:
    assert set(await asyncio.gather(*(encryption(server) for _ in range(20)))) == {(True, "TLSv1.3")}


async def test_plaintext_that_pg_hba_conf_refuses_suggests_tls(server: Target) -> None:
    with pytest.raises(AuthenticationFailed, match=r"pg_hba\.conf does not allow") as caught:
        await connect(server)

    assert str(caught.value.hint).startswith("connect with TLS: sslmode=require")


async def test_tls_that_pg_hba_conf_refuses_suggests_a_line_or_a_certificate(server: Target) -> None:
    with pytest.raises(AuthenticationFailed, match=r"certified") as caught:
        await encryption(server, user="certified")

    assert "DATABASE_SSL_CERT" in str(caught.value.hint)


async def test_a_role_that_does_not_exist_is_referred_to_bootstrap(server: Target) -> None:
    with pytest.raises(AuthenticationFailed, match="the role does not exist") as caught:
        await encryption(server, user="nobody_yet")

    assert "`thea-db bootstrap`" in str(caught.value.hint)


async def test_the_doctor_repeats_the_remedy_for_plaintext(server: Target) -> None:
    findings = await examine(Settings(ENVIRONMENT="test", DATABASE_URL=url(server, "app")))

    assert str(findings["password"].remedy).startswith("connect with TLS: sslmode=require")
