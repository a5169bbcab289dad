"""thea-db doctor: each problem is reported with its remedy, and checks that depend on it are skipped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database.check_result import CheckResult
from src.database.doctor.examination import examine
from src.database.embedded import SUPERUSER, EmbeddedServer
from tests import other_migrations
from tests.acceptance.command import CANARY, run
from tests.conftest import SOCKETS, url_of
from tests.database.connect.tls_proxy import TlsProxy


def doctor(url: URL | str, *, processes: int = 1, **settings: Any) -> dict[str, CheckResult]:
    findings = asyncio.run(
        examine(Settings(**{"ENVIRONMENT": "test", "DATABASE_URL": url, **settings}), processes=processes)
    )
    assert CANARY not in repr(findings)
    return findings


def problems(findings: dict[str, CheckResult]) -> dict[str, str]:
    return {name: found.status for name, found in findings.items() if found.status in {"warning", "failed"}}


@pytest.fixture(autouse=True)
def bootstrapped(shared_database: str) -> Iterator[None]:
    """The shared database with the privileges that `bootstrap` leaves; a new one grants TEMPORARY to PUBLIC."""
    name = shared_database
    with psycopg.connect(host=SOCKETS, user=SUPERUSER, dbname=name, autocommit=True) as connection:
        connection.execute(f"REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC")
        yield
        connection.execute(f"GRANT TEMPORARY ON DATABASE {name} TO PUBLIC")


def test_reports_no_problem_of_a_correct_database(shared_database: str) -> None:
    findings = doctor(url_of(shared_database))

    assert problems(findings) == {}
    assert findings["revision"].status == findings["rights"].status == findings["clock"].status == "ok"


def test_compares_the_packaged_zone_data_with_the_servers(shared_database: str) -> None:
    found = doctor(url_of(shared_database))["time zones"]

    assert found.status == "ok"
    for name in ("CET", "EET", "MET", "WET"):  # the server reads them as fixed abbreviations
        assert f" {name}," in found.found or f" {name};" in found.found


def test_an_unknown_host() -> None:
    findings = doctor(f"postgresql://u:{CANARY}@db.invalid/d")

    assert problems(findings) == {"name resolution": "failed"}
    assert findings["port"] == CheckResult("skipped", "see the check `name resolution`")
    assert findings["rights"] == CheckResult("skipped", "see the check `name resolution`")


def test_a_closed_port() -> None:
    findings = doctor(f"postgresql://u:{CANARY}@127.0.0.1:1/d")

    assert problems(findings) == {"port": "failed"}
    assert "start the server" in str(findings["port"].remedy)
    assert findings["server"] == CheckResult("skipped", "see the check `port`")


def test_one_of_two_hosts_is_enough(shared_database: str) -> None:
    findings = doctor(f"postgresql://thea_app@/{shared_database}?host=/nowhere,{SOCKETS}")

    assert problems(findings) == {"port": "warning"}


def test_a_silent_server(silent_port: int) -> None:
    findings = doctor(f"postgresql://u:{CANARY}@127.0.0.1:{silent_port}/d", DATABASE_CONNECT_TIMEOUT=0.2)

    assert problems(findings) == {"server": "failed"}
    assert "did not answer in time" in findings["server"].found


def test_a_wrong_password(secret_url: str) -> None:
    findings = doctor(secret_url)

    assert problems(findings) == {"password": "failed"}
    assert findings["TLS"].status == "ok"
    assert findings["database"] == CheckResult("skipped", "see the check `password`")
    assert "check the user and the password" in str(findings["password"].remedy)


@pytest.mark.parametrize("login", [f"nobody_yet:{CANARY}", "nobody_yet"])
def test_a_server_without_our_roles_is_referred_to_bootstrap(password_server: EmbeddedServer, login: str) -> None:
    """The server sends the same error for an unknown role and a wrong password."""
    findings = doctor(f"postgresql://{login}@127.0.0.1:{password_server.target().port}/thea")

    assert problems(findings) == {"password": "failed"}
    assert "`thea-db bootstrap`" in str(findings["password"].remedy)


def test_a_search_path_without_a_schema_is_reported_with_its_reset(
    cloned_database: URL, superuser: psycopg.Connection
) -> None:
    superuser.execute(f"REVOKE TEMPORARY ON DATABASE {cloned_database.database} FROM PUBLIC")
    superuser.execute(f"ALTER DATABASE {cloned_database.database} SET search_path = missing")
    owner = cloned_database.set(username="thea_owner")

    findings = doctor(cloned_database, DATABASE_MIGRATION_URL=owner)

    assert problems(findings) == {"session defaults": "failed", "migrations": "failed"}
    assert "CREATE SCHEMA" in str(findings["migrations"].remedy)
    remedy = str(findings["session defaults"].remedy)
    superuser.execute(remedy.partition("or: ")[2])
    assert doctor(cloned_database)["session defaults"].status == "ok"


def test_the_missing_schema_of_the_setting_is_created_by_upgrade(cloned_database: URL) -> None:
    owner = cloned_database.set(username="thea_owner")

    findings = doctor(cloned_database, DATABASE_MIGRATION_URL=owner, DATABASE_SCHEMA="shop")

    for name in ("session defaults", "migrations"):
        assert findings[name].status == "failed"
        assert str(findings[name].remedy).startswith("run `thea-db upgrade`, which creates the schema")
    assert 'GRANT USAGE ON SCHEMA "shop" TO thea_app;' in str(findings["session defaults"].remedy)


def test_no_password(password_server: EmbeddedServer) -> None:
    findings = doctor(f"postgresql://thea_app@127.0.0.1:{password_server.target().port}/thea")

    assert problems(findings) == {"password": "failed"}
    assert "no password is set" in str(findings["password"].remedy)


def test_a_password_from_a_provider(password_server: EmbeddedServer) -> None:
    findings = doctor(password_server.target().url)

    assert findings["password"] == CheckResult("ok", "accepted (scram-sha-256)")
    assert problems(findings) == {"revision": "failed"}
    assert findings["revision"].remedy == "thea-db upgrade"


def test_the_remedy_of_an_unknown_role_is_not_trust() -> None:
    findings = doctor(f"postgresql://nobody:{CANARY}@/thea?host={SOCKETS}")

    assert problems(findings) == {"password": "failed"}
    assert "the role does not exist" in findings["password"].found
    assert "`thea-db bootstrap` creates the roles" in str(findings["password"].remedy)
    assert "trust" not in str(findings["password"].remedy)


def test_a_server_without_tls(secret_url: str) -> None:
    assert problems(doctor(secret_url, DATABASE_SSL_MODE="require")) == {"TLS": "failed"}


def test_a_certificate_of_another_host(tls_server: TlsProxy) -> None:
    findings = doctor(f"postgresql://u:{CANARY}@127.0.0.1:{tls_server.port}/d?sslmode=verify-full")

    assert problems(findings) == {"TLS": "failed"}
    assert "certificate" in findings["TLS"].found


def test_a_missing_ca_file(tls_server: TlsProxy) -> None:
    url = f"postgresql://u:{CANARY}@127.0.0.1:{tls_server.port}/d?sslmode=verify-full&sslrootcert=/nowhere.pem"

    assert problems(doctor(url)) == {"TLS": "failed"}


@pytest.mark.slow
def test_a_server_that_trusts_network_connections(shared_database: str, tls_server: TlsProxy) -> None:
    """The proxy connects to a Unix socket, where the server requires no password."""
    url = f"postgresql://thea_app:{CANARY}@127.0.0.1:{tls_server.port}/{shared_database}"

    assert problems(doctor(url)) == {"password": "warning"}
    assert problems(doctor(url, ENVIRONMENT="staging")) == {"password": "failed", "TLS": "warning"}


def test_a_missing_database() -> None:
    findings = doctor(f"postgresql://thea_app:{CANARY}@/nothing?host={SOCKETS}")

    assert problems(findings) == {"database": "failed"}
    assert "check the database's name" in str(findings["database"].remedy)
    assert "thea-db bootstrap" in str(findings["database"].remedy)


def test_a_role_without_row_level_security(shared_database: str) -> None:
    url = url_of(shared_database, "postgres")

    assert problems(doctor(url)) == {"role": "warning"}
    remedy = str(doctor(url)["role"].remedy)
    assert "ALTER ROLE" not in remedy, "a server whose only superuser loses the attribute cannot get it back"
    assert "thea-db bootstrap" in remedy
    assert problems(doctor(url, ENVIRONMENT="production")) == {"role": "failed"}


def test_a_role_that_owns_the_tables(shared_database: str) -> None:
    assert problems(doctor(url_of(shared_database, "thea_owner"))) == {"role": "warning"}


def test_a_role_that_can_create_tables(cloned_database: URL, superuser: psycopg.Connection) -> None:
    findings = doctor(cloned_database)

    assert problems(findings) == {"creation": "warning"}
    assert findings["creation"].found.startswith("thea_app has TEMPORARY on the database:")

    name = str(cloned_database.database)
    superuser.execute("CREATE ROLE creators; GRANT creators TO thea_app")
    try:
        superuser.execute(f"GRANT CREATE ON DATABASE {name} TO creators")
        superuser.execute("GRANT CREATE ON SCHEMA public TO creators")
        findings = doctor(cloned_database)
    finally:
        superuser.execute("DROP OWNED BY creators; DROP ROLE creators")

    assert "TEMPORARY, CREATE on the database and CREATE on the schema public" in findings["creation"].found
    remedy = str(findings["creation"].remedy)
    assert f'REVOKE TEMPORARY, CREATE ON DATABASE "{name}" FROM PUBLIC, "thea_app";' in remedy
    assert "grant it first to each role that needs it" in remedy
    superuser.execute(remedy.partition(": ")[2])
    assert doctor(cloned_database)["creation"].status == "ok"


def test_a_database_of_other_migrations_keeps_what_it_grants(
    cloned_database: URL, superuser: psycopg.Connection
) -> None:
    superuser.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO PUBLIC")
    other_migrations.make(superuser)

    assert doctor(cloned_database)["creation"].found == "the database is not thea-database's: see the check `revision`"


def test_the_remedy_of_missing_privileges_grants_only_these(
    cloned_database: URL, superuser: psycopg.Connection
) -> None:
    """It grants neither writes to thea_alembic_version nor rights on tables of others."""
    superuser.execute("CREATE TABLE invoices (id int); REVOKE DELETE, SELECT ON notes FROM thea_app")
    superuser.execute(
        "REVOKE ALL ON invoices FROM thea_app; REVOKE INSERT, DELETE ON thea_alembic_version FROM thea_app"
    )

    remedy = str(doctor(cloned_database)["rights"].remedy)
    superuser.execute(remedy.partition(": ")[2])

    rights = (
        "SELECT has_table_privilege('thea_app', 'notes', 'SELECT'), has_table_privilege('thea_app', 'notes', 'DELETE'),"
    )
    rights += " has_table_privilege('thea_app', 'thea_alembic_version', 'INSERT'),"
    rights += " has_table_privilege('thea_app', 'invoices', 'SELECT')"
    assert superuser.execute(rights).fetchone() == (True, True, False, False)
    assert doctor(cloned_database)["rights"].status == "ok"


@pytest.mark.parametrize("where", ["DATABASE {database}", "ROLE thea_app IN DATABASE {database}"])
def test_the_remedy_of_a_read_only_default_changes_nothing_for_others(
    cloned_database: URL, superuser: psycopg.Connection, where: str
) -> None:
    name = str(cloned_database.database)
    superuser.execute(f"ALTER {where.format(database=name)} SET default_transaction_read_only = on")

    remedy = str(doctor(cloned_database)["writable"].remedy)
    with psycopg.connect(host=SOCKETS, user=SUPERUSER, dbname="postgres", autocommit=True) as administrator:
        administrator.execute(remedy.partition("administrator: ")[2])

    assert doctor(cloned_database)["writable"].status == "ok"
    kept = "SELECT setconfig FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase WHERE datname = %s AND"
    others = superuser.execute(f"{kept} setrole = 0", (name,)).fetchall()
    assert others == ([(["default_transaction_read_only=on"],)] if where.startswith("DATABASE") else [])


def test_a_role_for_backups_is_not_made_writable(cloned_database: URL, superuser: psycopg.Connection) -> None:
    name = str(cloned_database.database)
    superuser.execute("CREATE ROLE saver LOGIN BYPASSRLS")
    try:
        superuser.execute(
            f"ALTER ROLE saver SET default_transaction_read_only = on; GRANT CONNECT ON DATABASE {name} TO saver"
        )
        remedy = str(doctor(cloned_database.set(username="saver"))["writable"].remedy)
    finally:
        superuser.execute("DROP OWNED BY saver; DROP ROLE saver")

    assert "ALTER" not in remedy
    assert "name the application's role in DATABASE_URL" in remedy


def test_pools_that_exceed_the_server(shared_database: str) -> None:
    findings = doctor(f"{url_of(shared_database)}&pool_max=50", processes=3)

    assert problems(findings) == {"connections": "failed"}


def test_the_pgbouncer_setting_without_pgbouncer(shared_database: str) -> None:
    url = url_of(shared_database)

    assert problems(doctor(url, DATABASE_PGBOUNCER=True)) == {"pooler": "warning"}


def test_a_replica_that_is_no_standby_and_an_owner_without_privileges(shared_database: str) -> None:
    url = url_of(shared_database)

    findings = doctor(url, DATABASE_REPLICA_URL=url, DATABASE_MIGRATION_URL=url)

    assert problems(findings) == {"replica": "warning", "migrations": "failed"}


def test_problems_of_the_database(cloned_database: URL, superuser: psycopg.Connection) -> None:
    """An unknown revision, a missing privilege, another collation, a read-only default."""
    superuser.execute(f"REVOKE TEMPORARY ON DATABASE {cloned_database.database} FROM PUBLIC")
    superuser.execute("UPDATE thea_alembic_version SET version_num = 'e0a17d850507'")
    superuser.execute("GRANT SELECT ON thea_alembic_version TO thea_app")
    superuser.execute("REVOKE DELETE ON notes FROM thea_app")
    superuser.execute("UPDATE pg_database SET datcollversion = '0' WHERE datname = current_database()")
    superuser.execute(f"ALTER DATABASE {cloned_database.database} SET default_transaction_read_only = on")

    findings = doctor(cloned_database)

    assert problems(findings) == {
        "writable": "failed",
        "collation": "warning",
        "revision": "failed",
        "rights": "failed",
    }
    assert "delete neither migrations" in str(findings["revision"].remedy)
    assert "REFRESH COLLATION VERSION" in str(findings["collation"].remedy)
    assert "notes (DELETE)" in findings["rights"].found


def test_an_unreadable_revision(cloned_database: URL, superuser: psycopg.Connection) -> None:
    superuser.execute(f"REVOKE TEMPORARY ON DATABASE {cloned_database.database} FROM PUBLIC")
    superuser.execute("REVOKE ALL ON thea_alembic_version FROM thea_app")

    assert problems(doctor(cloned_database)) == {"revision": "warning"}


def test_a_misspelled_setting_in_the_process_environment_is_a_warning(
    shared_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_POOLSIZE", CANARY)

    findings = doctor(url_of(shared_database))

    assert problems(findings) == {"settings": "warning"}
    assert "DATABASE_POOLSIZE in the environment is not a setting" in findings["settings"].found
    assert "did you mean DATABASE_POOL_SIZE?" in findings["settings"].found


def test_unreadable_settings_stop_only_the_checks_that_need_them(
    tmp_path: Path,
) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "__init__.py").touch()
    (tmp_path / ".env.test").write_bytes(b"# \xff\n")

    done = run("doctor", "--json", folder=tmp_path, ENVIRONMENT="prod")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}

    assert done.returncode == 2
    assert checks["settings"]["found"].startswith("ENVIRONMENT must be one of")
    assert checks["src/__init__.py"]["status"] == "warning"
    assert checks["localhost"]["status"] == "skipped"
    assert checks["server"]["found"] == "see the check `settings`"


@pytest.mark.parametrize(
    ("variables", "code", "words"),
    [
        ({"ENVIRONMENT": "prod"}, 2, "ENVIRONMENT must be one of"),
        (
            {"DATABASE_URL": f"postgresql://u:{CANARY}@127.0.0.1:1/d"},
            1,
            "127.0.0.1:1 refuses connections",
        ),
    ],
)
def test_the_command_prints_lines_and_no_secret(
    tmp_path: Path, variables: dict[str, str], code: int, words: str
) -> None:
    done = run("doctor", folder=tmp_path, **variables)

    assert done.returncode == code
    assert words in done.stdout
    assert "remedy: " in done.stdout
    assert CANARY not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
