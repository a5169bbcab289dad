"""The profiles: the target of each environment, and the parameters for other drivers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL

from src.config import EnvironmentConfig, Settings
from src.config.profiles import DatabaseConfig, complete, named_target
from src.database.errors import ConfigurationError
from src.database.target import SshGateway, Target

CANARY = "c4n4ry-p4ss"
VM = {"DB_VM_HOST": "localhost", "DB_VM_USER": "dev_user", "DB_VM_PASSWORD": "dev_password"}
STAGING = {"DB_STAGING_HOST": "staging-db.internal", "DB_STAGING_USER": "staging_user", "DB_STAGING_PASSWORD": CANARY}
PROD = {"DB_PROD_HOST": "prod-db.example.com", "DB_PROD_USER": "prod_user", "DB_PROD_PASSWORD": CANARY}


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL")


def config(environment: str, **variables: Any) -> EnvironmentConfig:
    return EnvironmentConfig(Settings(ENVIRONMENT=environment, **variables))


def target_of(environment: str, **variables: Any) -> Target:
    target = config(environment, **variables).target
    assert target is not None
    return target


def test_development_is_the_virtual_machine() -> None:
    assert config("development", **VM).get_database_config() == {
        "host": "localhost",
        "port": 5432,
        "database": "iact_dev",
        "user": "dev_user",
        "password": "dev_password",
        "use_vm": True,
    }


def test_staging_is_encrypted() -> None:
    assert config("staging", **STAGING).get_database_config() == {
        "host": "staging-db.internal",
        "port": 5432,
        "database": "iact_staging",
        "user": "staging_user",
        "password": CANARY,
        "use_vm": False,
        "ssl_mode": "require",
    }


def test_production_has_the_ca_too() -> None:
    assert config("production", **PROD, DB_PROD_SSL_CA="/etc/ssl/ca.pem").get_database_config() == {
        "host": "prod-db.example.com",
        "port": 5432,
        "database": "iact_production",
        "user": "prod_user",
        "password": CANARY,
        "use_vm": False,
        "ssl_mode": "require",
        "ssl_ca": "/etc/ssl/ca.pem",
    }


@pytest.mark.parametrize("variable", ["DATABASE_SSL_CA", "DATABASE_SSL_CERT"])
def test_a_ca_without_tls_is_refused(variable: str) -> None:
    more = {"DATABASE_SSL_KEY": "/key.pem"} if variable.endswith("CERT") else {}
    with pytest.raises(ConfigurationError, match="DATABASE_SSL_MODE must be set if a CA or a certificate is set"):
        target_of("development", **VM, **{variable: "/a.pem"}, **more)

    target_of("development", **VM, **{variable: "/a.pem"}, **more, DATABASE_SSL_MODE="require")
    target_of("development", **{**VM, "DB_VM_HOST": "/run"}, **{variable: "/a.pem"}, **more)


def test_the_url_comes_before_the_profile() -> None:
    url = f"postgresql://u:{CANARY}@[::1]:6543/d?sslmode=verify-full"
    made = config("production", DATABASE_URL=url, DB_PROD_SSL_CA="/ca.pem", **PROD).get_database_config()

    assert (made["host"], made["port"], made["database"]) == ("::1", 6543, "d")
    assert (made["ssl_mode"], made["ssl_ca"], made["use_vm"]) == ("verify-full", "/ca.pem", False)


def test_the_text_of_a_config_masks_the_password() -> None:
    made = config("staging", **STAGING).get_database_config()

    assert CANARY not in f"{made} {made!r} {config('staging', **STAGING)!r}"
    assert isinstance(made, DatabaseConfig)
    assert "'password': '***'" in repr(made)


def test_other_drivers_cannot_use_the_embedded_server(tmp_path: Path) -> None:
    bare = config("development", DATABASE_EMBEDDED_DIR=tmp_path)

    assert bare.target is None
    assert not bare.use_vm
    with pytest.raises(ConfigurationError, match="the embedded server may not run: this method does not start it"):
        bare.get_database_config()


def test_the_environment_test_has_no_profile() -> None:
    assert config("test", **VM).target is None


@pytest.mark.parametrize(
    ("environment", "variables", "message"),
    [
        ("staging", {}, "DB_STAGING_HOST and DB_STAGING_USER"),
        ("staging", {"DB_STAGING_HOST": "h"}, "or set DB_STAGING_USER"),
        ("production", {}, "DB_PROD_HOST and DB_PROD_USER"),
        ("development", {"DB_VM_PASSWORD": CANARY}, "or set DB_VM_USER"),
        ("development", {**VM, "DB_VM_PORT": "0"}, "DB_VM_PORT must be a port, 1 to 65535, got '0'"),
        ("development", {**VM, "DB_SSH_TUNNEL": "true"}, "DB_SSH_HOST must be set if DB_SSH_TUNNEL=true"),
        ("development", {**VM, "DATABASE_SSL_CERT": "/c"}, "DATABASE_SSL_CERT and DATABASE_SSL_KEY must be set"),
        ("development", {**VM, "DATABASE_STATEMENT_TIMEOUT": "-1"}, "DATABASE_STATEMENT_TIMEOUT must be whole milli"),
    ],
)
def test_a_missing_variable_is_named(environment: str, variables: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        config(environment, **variables)

    assert message in str(caught.value)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("host", ["a b", "ho%st", "a:b:c"])
def test_the_host_of_a_profile_is_checked_like_that_of_a_url(host: str) -> None:
    with pytest.raises(ConfigurationError, match=f"DB_VM_HOST must be a host name, an address or .*, got '{host}'"):
        config("development", **{**VM, "DB_VM_HOST": host})


def test_get_database_config_returns_the_parameters(superuser: psycopg.Connection, cloned_database: URL) -> None:
    url = cloned_database.update_query_dict({"application_name": "other", "connect_timeout": "3"})
    with psycopg.connect(**config("test", DATABASE_URL=url).get_connect_arguments()) as connection:
        row = connection.execute("SELECT current_user, current_setting('application_name')").fetchone()

    assert row == ("thea_app", "other")


def test_get_connect_arguments_returns_libpqs_names() -> None:
    given = {"DATABASE_SSL_CERT": "/c", "DATABASE_SSL_KEY": "/k", "DB_PROD_SSL_CA": "/ca", **PROD}

    assert config("production", **given).get_connect_arguments() == {
        "host": "prod-db.example.com",
        "port": "5432",
        "dbname": "iact_production",
        "user": "prod_user",
        "password": CANARY,
        "passfile": "/nonexistent",
        "sslmode": "require",
        "sslrootcert": "/ca",
        "sslcert": "/c",
        "sslkey": "/k",
        "gssencmode": "disable",
        "client_encoding": "UTF8",
        "application_name": "thea-database",
        "connect_timeout": "10",
        "options": "",
    }


def test_other_drivers_cannot_use_the_tunnel() -> None:
    with pytest.raises(ConfigurationError, match="DB_SSH_TUNNEL is set: this method opens no tunnel"):
        config("development", **VM, DB_SSH_TUNNEL=True, DB_SSH_HOST="gate").get_connect_arguments()


def test_the_gateway_has_the_values_of_the_settings() -> None:
    given = {"DB_SSH_TUNNEL": True, "DB_SSH_HOST": "192.168.1.100", "DB_SSH_PORT": 22, "DB_SSH_USER": "vagrant"}

    assert target_of("development", **VM, **given).ssh == SshGateway(host="192.168.1.100", user="vagrant")
    trusting = target_of("development", **VM, **given, DB_SSH_KNOWN_HOSTS="none").ssh
    assert trusting is not None
    assert trusting.known_hosts == "none"


def test_a_tunnel_to_cloud_sql_is_refused() -> None:
    given = {"DB_SSH_TUNNEL": True, "DB_SSH_HOST": "gate"}
    with pytest.raises(ConfigurationError, match="DB_SSH_TUNNEL must be false"):
        target_of("development", DATABASE_URL="postgresql://u@/d?host=/cloudsql/p:r:i", **given)


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
@pytest.mark.parametrize(("environment", "profile"), [("staging", STAGING), ("production", PROD)])
def test_modes_that_permit_plaintext_are_refused_in_production(
    environment: str, profile: dict[str, str], mode: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"must be require, verify-ca or .*={environment}, got '{mode}'"):
        target_of(environment, **profile, DATABASE_SSL_MODE=mode)


@pytest.mark.parametrize("host", ["/var/run/postgresql", "/cloudsql/p:r:i"])
def test_a_socket_needs_no_tls(host: str) -> None:
    url = f"postgresql://u@/d?host={host}&sslmode=disable"

    assert target_of("production", DATABASE_URL=url).ssl_mode == "disable"


def test_a_socket_beside_a_network_host_still_requires_tls() -> None:
    url = "postgresql://u@/d?host=/var/run/postgresql,db.example&sslmode=disable"
    with pytest.raises(ConfigurationError, match="which permits plaintext"):
        target_of("production", DATABASE_URL=url)


def test_each_purpose_has_its_target() -> None:
    given = Settings(
        ENVIRONMENT="test",
        DATABASE_URL="postgresql://app@a/d",
        DATABASE_MIGRATION_URL="postgresql://owner@b/d",
        DATABASE_REPLICA_URL="postgresql://app@c/d",
    )
    found = {purpose: named_target(given, purpose) for purpose in ("application", "migrations", "reading")}

    assert {purpose: target and target.host for purpose, target in found.items()} == {
        "application": "a",
        "migrations": "b",
        "reading": "c",
    }


def test_behind_pgbouncer_migrations_need_the_server_itself() -> None:
    given = Settings(ENVIRONMENT="test", DATABASE_URL="postgresql://app@a/d", DATABASE_PGBOUNCER=True)
    with pytest.raises(ConfigurationError, match="DATABASE_MIGRATION_URL must be set if DATABASE_PGBOUNCER=true"):
        named_target(given, "migrations")


def test_values_of_the_url_take_precedence_over_settings() -> None:
    url = "postgresql://u@h/d?statement_timeout=0&lock_timeout=7&connect_timeout=3&application_name=agent"
    given = Settings(ENVIRONMENT="test", DATABASE_URL=url)
    named = named_target(given)
    assert named is not None
    target = complete(named, given)

    assert (target.statement_timeout, target.lock_timeout) == (0, 7)
    assert (target.connect_timeout, target.application_name) == (3, "agent")
