"""Settings: all faults are reported together, no text has a secret, files have an order of precedence."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import ValidationError
from sqlalchemy import URL
from structlog.testing import capture_logs

from src.config import Settings, get_settings
from src.config.constants import DEFAULT_TENANT_ID
from src.database.errors import ConfigurationError
from src.database.session import forget_settings, resolve_target
from src.database.target import hosts_of

ROOT = Path(__file__).parents[2]
CANARY = "c4n4ry-p4ss"
URL_WITH_CANARY = f"postgresql://thea:{CANARY}@db.example/thea"

Load = Callable[..., Settings]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """Load the settings in an empty folder, from these files and variables only."""

    def load(files: dict[str, str] | None = None, **variables: str) -> Settings:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("ENVIRONMENT", raising=False)
        monkeypatch.delenv("DATABASE_URL", raising=False)
        for name, text in (files or {}).items():
            (tmp_path / name).write_text(text)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        forget_settings()
        try:
            return get_settings()
        finally:
            forget_settings()

    return load


def test_every_setting_has_a_default_in_development(load: Load) -> None:
    settings = load()

    assert settings.ENVIRONMENT == "development"
    assert settings.DATABASE_URL is None
    assert (settings.DATABASE_POOL_SIZE, settings.DATABASE_MAX_OVERFLOW) == (5, 10)
    assert (settings.DATABASE_POOL_RECYCLE, settings.DATABASE_POOL_TIMEOUT) == (3600, 30)
    assert not settings.DATABASE_ECHO
    assert settings.DATABASE_DEFAULT_TENANT == DEFAULT_TENANT_ID


def test_production_has_no_default_tenant_and_can_choose_one(load: Load) -> None:
    chosen = UUID("0197c0de-0000-7000-8000-000000000000")

    assert load(ENVIRONMENT="production", DATABASE_URL=URL_WITH_CANARY).DATABASE_DEFAULT_TENANT is None
    assert chosen == load(DATABASE_DEFAULT_TENANT=str(chosen)).DATABASE_DEFAULT_TENANT


def test_settings_are_frozen(load: Load) -> None:
    settings = load()

    with pytest.raises(ValidationError):
        settings.DATABASE_ECHO = True  # type: ignore[misc] # what is tested


def test_the_env_file_of_a_service_is_read_unchanged(load: Load) -> None:
    settings = load(
        {
            ".env": """
# Connection URL (SIN PASSWORD - trust mode desarrollo)
DATABASE_URL=postgresql+asyncpg://postgres@127.0.0.1:5432/thea_ia

DATABASE_POOL_SIZE=5 # Connections in pool
DATABASE_MAX_OVERFLOW=10 # Max extra connections
DATABASE_POOL_RECYCLE=3600 # Recycle connections after 1h
DATABASE_POOL_TIMEOUT=30 # Timeout getting connection (seconds)

DATABASE_ECHO=False # Log all SQL (True solo en debug)

DATABASE_SSL_MODE=disable # disable (dev) / require (prod)
DATABASE_SSL_CA= # Path to CA certificate
"""
        }
    )

    assert settings.DATABASE_URL is not None
    assert settings.DATABASE_URL.render_as_string() == "postgresql+asyncpg://postgres@127.0.0.1:5432/thea_ia"
    assert settings.DATABASE_SSL_MODE == "disable"
    assert settings.DATABASE_SSL_CA is None


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_every_scheme_means_asyncpg(load: Load, scheme: str) -> None:
    url = load(DATABASE_URL=f"{scheme}://u:p%40ss@h/d").DATABASE_URL

    assert isinstance(url, URL)
    assert url.drivername == "postgresql+asyncpg"
    assert url.password == "p@ss"


def test_a_password_in_the_query_is_masked_too(load: Load) -> None:
    url = load(DATABASE_URL=f"postgresql://u@h/d?password={CANARY}").DATABASE_URL

    assert url is not None
    assert url.password == CANARY
    assert CANARY not in str(url)


def test_later_files_override_earlier_ones_and_the_environment_overrides_files(load: Load) -> None:
    files = {
        ".env": "ENVIRONMENT=staging\nDATABASE_URL=postgresql://a@h/a\nDATABASE_POOL_SIZE=1\nDATABASE_MAX_OVERFLOW=1",
        ".env.staging": "DATABASE_URL=postgresql://b@h/b\nDATABASE_POOL_SIZE=2",
        ".env.production": "DATABASE_POOL_SIZE=99",
    }

    settings = load(files, DATABASE_POOL_SIZE="3")

    assert settings.ENVIRONMENT == "staging"
    assert settings.DATABASE_URL is not None
    assert settings.DATABASE_URL.database == "b"
    assert (settings.DATABASE_POOL_SIZE, settings.DATABASE_MAX_OVERFLOW) == (3, 1)


def test_the_file_of_an_environment_must_not_set_another_one(load: Load) -> None:
    with pytest.raises(ConfigurationError, match=re.escape("ENVIRONMENT in .env.staging must be staging")):
        load({".env.staging": "ENVIRONMENT=production"}, ENVIRONMENT="staging")


def test_env_file_names_the_only_file(load: Load, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("DATABASE_POOL_SIZE=7")

    assert load({".env": "DATABASE_MAX_OVERFLOW=99"}, ENV_FILE="mine").DATABASE_POOL_SIZE == 7
    assert load(ENV_FILE="mine").DATABASE_MAX_OVERFLOW == 10


def test_refuses_an_env_file_that_does_not_exist(load: Load) -> None:
    with pytest.raises(ConfigurationError, match="ENV_FILE must name a file that exists, got 'nowhere'"):
        load(ENV_FILE="nowhere")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ENVIRONMENT": "prod"}, "ENVIRONMENT must be one of development, test, staging, production, got 'prod'"),
        ({"DATABASE_POOL_SIZE": "ten"}, "DATABASE_POOL_SIZE must be a whole number from 1 to 1000, got 'ten'"),
        ({"DATABASE_POOL_SIZE": "0"}, "DATABASE_POOL_SIZE must be a whole number from 1 to 1000, got '0'"),
        ({"DATABASE_ECHO": "perhaps"}, "DATABASE_ECHO must be true or false, got 'perhaps'"),
        ({"DATABASE_DEFAULT_TENANT": "acme"}, "DATABASE_DEFAULT_TENANT must be a UUID, got 'acme'"),
        ({"ENVIRONMENT": "production"}, "DATABASE_URL must be set if ENVIRONMENT=production, to a URL like"),
        ({"ENVIRONMENT": "staging"}, "DATABASE_URL must be set if ENVIRONMENT=staging, to a URL like"),
        ({"DATABASE_URL": "mysql://u:p@h/d"}, "the scheme must be one of postgres://, postgresql://"),
        ({"DATABASE_URL": "postgresql://u:p@h"}, "the URL must name a database"),
        ({"DATABASE_URL": "h/d"}, "the text has no scheme"),
        ({"DATABASE_URL": "'postgresql://u:p@h/d'"}, "the URL is in quotes: remove them"),
        ({"DATABASE_URL": "jdbc:postgresql://h/d?user=u"}, "remove jdbc:, and put the user and the password before"),
        ({"DATABASE_URL": "postgresql://u:p@::1/d"}, "an IPv6 address must be in brackets: [::1]"),
        ({"DATABASE_URL": "postgresql://u:p@h:port/d"}, "the port must be from 1 to 65535; percent-encode"),
        ({"DATABASE_URL": "postgresql://u:p@h:/d"}, "the port must be from 1 to 65535; percent-encode"),
        ({"DATABASE_URL": "postgresql://u:p@h:1/d?port=2"}, "the port is given twice"),
        ({"DATABASE_URL": "postgresql://u:p@h:1,i:2/d?port=3"}, "the port is given twice"),
        ({"DATABASE_URL": "postgresql://u:p@h/d?host=i"}, "the host is given twice"),
        ({"DATABASE_URL": "postgresql://u:p@h/d?gssencmode=disable"}, "unsupported parameter 'gssencmode'; asyncpg "),
        (
            {"DATABASE_REPLICA_URL": "postgresql://u:p@h/d"},
            "DATABASE_URL must be set together with DATABASE_REPLICA_URL",
        ),
        ({"DATABASE_PGBOUNCER": "true"}, "DATABASE_URL must be set together with DATABASE_PGBOUNCER"),
        (
            {"DATABASE_URL": "postgresql://u:p@h/d", "DATABASE_PGBOUNCER_PREPARED": "true"},
            "DATABASE_PGBOUNCER must be true if DATABASE_PGBOUNCER_PREPARED=true",
        ),
        (
            {"ENVIRONMENT": "production", "DATABASE_URL": "postgresql://u:p@h/d", "DATABASE_LOG_PARAMETERS": "true"},
            "DATABASE_LOG_PARAMETERS must be false if ENVIRONMENT=production: parameters contain what users wrote",
        ),
        (
            {"DATABASE_SLOW_QUERY_PLAN": "true"},
            "DATABASE_SLOW_QUERY_MS must be above 0 if DATABASE_SLOW_QUERY_PLAN=true",
        ),
        ({"DATABASE_SLOW_QUERY_MS": "-1"}, "DATABASE_SLOW_QUERY_MS must be whole milliseconds, 0 (off) or more, got"),
        ({"DB_VM_HOST": "h:6543"}, "DB_VM_HOST must be a host name, an address or a socket's folder, without a port,"),
        ({"DB_SSH_HOST": "a,b"}, "DB_SSH_HOST must be one host name or address, without a port, got 'a,b'"),
        ({"DB_SSH_HOST": "/run"}, "DB_SSH_HOST must be one host name or address, without a port, got '/run'"),
        ({"DATABASE_EMBEDDED_DIR": "~nobody-here/x"}, "DATABASE_EMBEDDED_DIR must be a folder, got '~nobody-here/x'"),
        ({"DATABASE_APPLICATION_NAME": "a\nb"}, "DATABASE_APPLICATION_NAME must be 1 to 63 printable characters, got"),
        ({"DATABASE_URL": "postgresql://u:p@h:99999/d"}, "the port must be from 1 to 65535"),
        ({"DATABASE_URL": "postgresql://u:p@h:0/d"}, "the port must be from 1 to 65535"),
        ({"DATABASE_URL": "postgresql://u:p@a..b/d"}, "the host has characters that no host name has"),
        ({"DATABASE_URL": "postgresql://u:p@ss@h/d"}, "percent-encode special characters in the password (@ is %40"),
    ],
)
def test_names_the_setting_its_rule_and_its_value(load: Load, variables: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        load(**variables)


def test_one_fault_is_reported_once(load: Load) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(ENVIRONMENT="prod")

    assert caught.value.args == ("ENVIRONMENT must be one of development, test, staging, production, got 'prod'",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('DATABASE_POOL_SIZE="5', "line 1 of .env cannot be parsed: check for a missing quote"),
        ("\nDATABASE_URL", "DATABASE_URL in .env has no value"),
        ("database_pool_size=5", "database_pool_size in .env is not a setting; did you mean DATABASE_POOL_SIZE?"),
        ("A=\xff", ".env must be a readable UTF-8 file"),
    ],
)
def test_a_file_that_cannot_be_parsed_is_refused(load: Load, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / ".env").write_text(text, encoding="latin-1")

    with pytest.raises(ConfigurationError, match=re.escape(message)):
        load()


def test_a_folder_in_place_of_a_file_is_refused(load: Load, tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()

    with pytest.raises(ConfigurationError, match=re.escape(".env must be a regular file")):
        load()


def test_reports_all_faults_together(load: Load) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({".env": "DATABASE_POOL_SISE=5\nDB_NONSENSE=1"}, ENVIRONMENT="production", DATABASE_POOL_SIZE="ten")

    text = str(caught.value)
    assert "DATABASE_POOL_SISE in .env is not a setting; did you mean DATABASE_POOL_SIZE?" in text
    assert "DB_NONSENSE in .env is not a setting" in text
    assert "DATABASE_POOL_SIZE must be a whole number" in text
    assert "DATABASE_URL must be set" in text


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("DATABASE_POOL_SISE", "DATABASE_POOL_SIZE"),
        ("DATABASE_POOLSIZE", "DATABASE_POOL_SIZE"),
        ("DATABASE_STATEMENT_TIMEOUT_MS", "DATABASE_STATEMENT_TIMEOUT"),
        ("DATABASE_SSL", "DATABASE_SSL_"),
        ("DATABASE_MIGRATIONS_URL", "DATABASE_MIGRATION_URL"),
        ("database_pool_size", "DATABASE_POOL_SIZE"),
        ("DB_PROD_PASS", "DB_PROD_PASSWORD"),
    ],
)
def test_a_misspelled_name_in_the_process_environment_is_a_warning_with_the_nearest_name(
    load: Load, name: str, nearest: str
) -> None:
    with capture_logs() as logs:
        load(**{name: CANARY})

    (entry,) = logs
    assert entry["log_level"] == "warning"
    assert f"{name} in the environment is not a setting, and is ignored; did you mean {nearest}" in entry["fault"]
    assert CANARY not in str(entry)


@pytest.mark.parametrize(
    "name",
    [
        "DATABASE_OF_ANOTHER_PROGRAM",
        "DATABASE_PUBLIC_URL",
        "DATABASE_SERVICE_PORT",
        "DATABASE_URL_UNPOOLED",
        "DB_PORT_5432_TCP_ADDR",
        "DB_SERVICE_HOST",
    ],
)
def test_a_name_of_another_program_in_the_process_environment_is_ignored(load: Load, name: str) -> None:
    with capture_logs() as logs:
        load(**{name: "x"})

    assert logs == []


def test_no_text_of_the_settings_shows_a_password(load: Load) -> None:
    settings = load(DATABASE_URL=URL_WITH_CANARY, DATABASE_MIGRATION_URL=URL_WITH_CANARY)

    assert CANARY not in f"{settings} {settings!r} {settings.DATABASE_URL} {settings.DATABASE_URL!r}"
    assert CANARY not in f"{settings.model_dump()} {settings.model_dump_json()}"
    assert settings.model_dump()["DATABASE_URL"] == "postgresql+asyncpg://thea:***@db.example/thea"


def test_cloud_sqls_folder_may_come_beside_localhost(load: Load) -> None:
    url = load(DATABASE_URL="postgresql://u:p@localhost/d?host=/cloudsql/a:b:c").DATABASE_URL

    assert url is not None
    assert [host.name for host in hosts_of(url)] == ["/cloudsql/a:b:c"]


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://u:{CANARY}@h/d",
        f"postgresql://u:{CANARY}@h:x/d",
        f"postgresql://u:x@{CANARY}@h/d",
        f"{CANARY}",
        f"://{CANARY}@",
    ],
)
def test_a_url_that_cannot_be_read_is_not_repeated(load: Load, url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(DATABASE_URL=url)

    link: BaseException | None = caught.value
    while link is not None:
        assert CANARY not in f"{link} {link!r}"
        link = link.__cause__ or link.__context__


def test_the_example_file_names_every_setting_and_no_other() -> None:
    named = re.findall(r"^#? ?([A-Z_]+)=", (ROOT / ".env.example").read_text(), flags=re.MULTILINE)

    assert sorted(named) == sorted(Settings.model_fields)


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_has_a_rule(name: str) -> None:
    assert Settings.model_fields[name].description


@pytest.mark.parametrize("name", ["Thea", "pg_thea", "1a", "a-b", 'a"b', "a" * 64, "información", "information_schema"])
def test_a_schema_that_would_need_quotes_or_is_the_servers_is_refused(load: Load, name: str) -> None:
    rule = "DATABASE_SCHEMA must be the name of a schema: 1 to 63 of a-z, 0-9 and _"
    with pytest.raises(ConfigurationError, match=re.escape(rule)):
        load(DATABASE_SCHEMA=name)


def test_a_schema_is_the_search_path(load: Load) -> None:
    url = "postgresql://u@h/d?options=-csearch_path="
    assert resolve_target(load(DATABASE_URL="postgresql://u@h/d", DATABASE_SCHEMA="thea")).search_path == "thea"
    assert resolve_target(load(DATABASE_URL=f"{url}thea,x", DATABASE_SCHEMA="thea")).search_path == "thea,x"
    with pytest.raises(ConfigurationError, match="must begin with DATABASE_SCHEMA, thea, got 'x,thea'"):
        resolve_target(load(DATABASE_URL=f"{url}x,thea", DATABASE_SCHEMA="thea"))
