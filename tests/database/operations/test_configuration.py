"""The configuration files of db/ on servers: every setting is in force, and unwanted logins are rejected."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.config import Settings
from src.database.embedded.process import programs
from src.database.errors import ConfigurationError
from src.database.operations import back_up, bootstrap, verify_backup
from tests.database.operations.configured import DB, PASSWORDS, SYSTEM, Configured, configured_server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the image is Linux's")
SETTING = re.compile(r"^(\w+) = ", re.MULTILINE)


@pytest.fixture(scope="module")
def newest() -> Iterator[Configured]:
    """The PostgreSQL 18 of the wheel after the init script, without TLS."""
    with configured_server(system=False) as server:
        server.run_init()
        yield server


@pytest.fixture(scope="module")
def with_tls() -> Iterator[Configured]:
    """The server of the system after the init script, without the settings of PostgreSQL 18."""
    if not (SYSTEM / "initdb").exists():
        pytest.skip("no system PostgreSQL in /usr/lib/postgresql")
    with configured_server(system=True) as server:
        server.run_init()
        yield server


def settings_of(server: Configured) -> Settings:
    """Return the settings of an operator on the machine of the server, over the socket."""
    host = f"?host={server.folder}&port={server.port}"
    return Settings(
        ENVIRONMENT="test",
        DATABASE_URL=f"postgresql://thea_app@/thea{host}",
        DATABASE_MIGRATION_URL=f"postgresql://thea_owner@/thea{host}",
        DATABASE_BACKUP_URL=f"postgresql://thea_backup:{PASSWORDS['backup']}@/thea{host}",
        DATABASE_ADMIN_URL=f"postgresql://postgres@/postgres{host}",
    )


def rules() -> list[list[str]]:
    return [line.split() for line in (DB / "pg_hba.conf").read_text().splitlines() if line and line[0] != "#"]


def check_every_setting_is_in_force(server: Configured) -> None:
    written = set(SETTING.findall(server.configuration.read_text()))
    query = (
        "SELECT name FROM pg_file_settings WHERE error IS NULL OR name IN ('listen_addresses', 'port', 'ssl', 'fsync')"
    )
    taken = set(server.psql("user=postgres dbname=postgres", query).splitlines())

    assert len(written) > 50
    assert written - taken == set(), server.log
    assert server.psql("user=postgres dbname=postgres", "SHOW shared_buffers") == "1GB"
    hba = "SELECT count(*), count(error) FILTER (WHERE error NOT LIKE 'hostssl record cannot%') FROM pg_hba_file_rules"
    assert server.psql("user=postgres dbname=postgres", hba) == f"{len(rules())}|0"


def test_every_setting_is_in_force_on_18(newest: Configured) -> None:
    check_every_setting_is_in_force(newest)


@pytest.mark.slow
def test_every_setting_is_in_force_on_the_system_server(with_tls: Configured) -> None:
    check_every_setting_is_in_force(with_tls)


@pytest.mark.slow
def test_postgres_itself_reads_the_file(newest: Configured) -> None:
    read = newest.run("postgres", "-D", "data", "-c", f"config_file={newest.configuration}", "-C", "max_wal_size")

    assert read == "2048"


def check_roles(server: Configured, way: str) -> None:
    """Check that each role logs in only with its password."""
    for name, role in {"owner": "thea_owner", "app": "thea_app", "backup": "thea_backup"}.items():
        conninfo = f"{way} user={role} dbname=thea"
        assert server.psql(conninfo, password=PASSWORDS[name]) == role
        output = server.psql(conninfo, password=PASSWORDS["app" if name != "app" else "owner"], check=False)
        assert "password authentication failed" in output
    assert "no password supplied" in server.psql(conninfo, check=False)


def test_each_role_logs_in_over_the_socket_only_with_its_password(newest: Configured) -> None:
    check_roles(newest, "")


def test_each_role_logs_in_over_tls_only_with_its_password(with_tls: Configured) -> None:
    check_roles(with_tls, f"host=127.0.0.1 sslmode=verify-full sslrootcert={with_tls.ca}")


def test_plaintext_from_outside_is_rejected(with_tls: Configured, newest: Configured) -> None:
    for server in (with_tls, newest):
        output = server.psql(
            "host=127.0.0.1 sslmode=disable user=thea_app dbname=thea", password=PASSWORDS["app"], check=False
        )
        assert "pg_hba.conf rejects connection" in output


@pytest.mark.slow
def test_the_superuser_and_replication_are_rejected_from_outside(with_tls: Configured) -> None:
    with_tls.psql("user=postgres dbname=postgres", "ALTER ROLE postgres PASSWORD 'known'")
    for mode in ("require", "disable"):
        output = with_tls.psql(
            f"host=127.0.0.1 sslmode={mode} user=postgres dbname=thea", password="known", check=False
        )
        assert "pg_hba.conf rejects connection" in output
    output = with_tls.psql(
        "host=127.0.0.1 sslmode=require user=thea_owner replication=true", password=PASSWORDS["owner"], check=False
    )
    assert "pg_hba.conf rejects replication connection" in output


@pytest.mark.slow
def test_a_user_cannot_log_in_as_another_role_over_the_socket(newest: Configured) -> None:
    assert newest.psql("user=postgres dbname=postgres") == "postgres"  # by the system's word
    newest.psql("user=postgres dbname=postgres", "CREATE ROLE other LOGIN SUPERUSER")

    assert "no password supplied" in newest.psql("user=other dbname=postgres", check=False)


def test_no_line_of_pg_hba_trusts() -> None:
    assert {rule[-1] for rule in rules()} == {"peer", "scram-sha-256", "reject"}
    assert not [rule for rule in rules() if rule[0] != "local" and rule[-1] == "peer"]
    assert rules()[-1] == ["host", "all", "all", "all", "reject"]


@pytest.mark.parametrize("which", ["newest", pytest.param("with_tls", marks=pytest.mark.slow)])
async def test_the_init_script_can_be_repeated_and_equals_bootstrap(which: str, request: pytest.FixtureRequest) -> None:
    server: Configured = request.getfixturevalue(which)

    again = server.run_init()

    assert again == ""
    done = await bootstrap(settings_of(server))
    assert (done.changed, done.refused) == ([], [])
    assert "c4n4ry" not in server.log
    assert "PASSWORD 'SCRAM-SHA-256$4096:" in server.log  # \password's own


def test_the_init_script_rejects_an_empty_password(newest: Configured) -> None:
    secret = newest.folder / "secrets" / "app_password"
    kept = secret.read_text()
    secret.write_text("\n")

    try:
        with pytest.raises(AssertionError, match="app_password is empty"):
            newest.run_init()
    finally:
        secret.write_text(kept)


@pytest.mark.slow
async def test_the_system_server_is_backed_up_by_its_own_programs(with_tls: Configured, tmp_path: Path) -> None:
    """pg_restore from 17 on sets a parameter that older servers reject."""
    settings, archive = settings_of(with_tls), tmp_path / "systems.dump"
    with_tls.psql("user=postgres dbname=thea", "SET ROLE thea_owner; CREATE TABLE kept AS SELECT 1 AS n")

    manifest = await back_up(settings, archive)

    assert manifest.program_version == manifest.server_version
    assert await verify_backup(settings, archive, manifest) == []
    if manifest.server_version < 17:
        with pytest.raises(ConfigurationError, match="pg_restore 18 sets transaction_timeout"):
            await verify_backup(settings, archive, manifest, programs=programs())
