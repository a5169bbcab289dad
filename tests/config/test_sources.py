"""The reported source and value of each setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.config import get_settings
from src.config.settings import show_settings
from tests.acceptance.command import CANARY


@pytest.fixture(autouse=True)
def _folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL")
    get_settings.cache_clear()


def test_reports_the_source_of_each_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source is that of the value in use."""
    (tmp_path / ".env").write_text("DATABASE_POOL_SIZE=2\nDATABASE_MAX_OVERFLOW=3\nDATABASE_POOL_RECYCLE=4\n")
    (tmp_path / ".env.test").write_text("DATABASE_MAX_OVERFLOW=5\nDATABASE_POOL_RECYCLE=\nDATABASE_LOCK_TIMEOUT=6\n")
    monkeypatch.setenv("DATABASE_LOCK_TIMEOUT", "7")
    monkeypatch.setenv("DATABASE_POOL_SIZE", "")

    reported = {one.name: (one.value, one.source) for one in show_settings(get_settings())}

    assert reported["ENVIRONMENT"] == ("test", "environment")
    assert reported["DATABASE_POOL_SIZE"] == (2, ".env")
    assert reported["DATABASE_MAX_OVERFLOW"] == (5, ".env.test")
    assert reported["DATABASE_POOL_RECYCLE"] == (4, ".env")
    assert reported["DATABASE_LOCK_TIMEOUT"] == (7, "environment")
    assert reported["DATABASE_STATEMENT_TIMEOUT"] == (30_000, "default")


def test_the_source_is_the_value_of_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.env").write_text("DATABASE_POOL_SIZE=2\n")
    monkeypatch.setenv("ENV_FILE", "other.env")

    assert ("DATABASE_POOL_SIZE", 2, "other.env") in {
        (one.name, one.value, one.source) for one in show_settings(get_settings())
    }


def test_no_reported_setting_contains_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "DATABASE_MIGRATION_URL", "DATABASE_REPLICA_URL"):
        monkeypatch.setenv(name, f"postgresql://u:{CANARY}@h/d?password={CANARY}")
    for name in ("DB_VM_PASSWORD", "DB_STAGING_PASSWORD", "DB_PROD_PASSWORD"):
        monkeypatch.setenv(name, CANARY)

    reported = show_settings(get_settings())

    assert CANARY not in repr(reported)
    assert ("DB_PROD_PASSWORD", "***") in {(one.name, one.value) for one in reported}
    assert ("DATABASE_URL", "postgresql+asyncpg://u:***@h/d") in {(one.name, one.value) for one in reported}
