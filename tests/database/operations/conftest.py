"""A server that requires passwords and logs every statement, and settings for a database in it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database.embedded import SERVER_PARAMETERS, SUPERUSER, EmbeddedServer
from tests.conftest import HAS_ROOM, MEMORY

CANARY = "c4n4ry'p4%ss\\ñ"
"""A part of every password, with the characters that SQL, psql, URLs and SASLprep treat specially."""


@dataclass(frozen=True)
class Cluster:
    """The server, and the URLs of its databases."""

    server: EmbeddedServer

    @property
    def port(self) -> int:
        return self.server.target().port

    def url(self, user: str, database: str, password: str | None = None) -> URL:
        return URL.create(
            "postgresql",
            username=user,
            password=f"{CANARY}{user}" if password is None else password,
            host="127.0.0.1",
            port=self.port,
            database=database,
        )

    @property
    def admin_url(self) -> URL:
        return self.url(SUPERUSER, "postgres", self.server.target().password)

    def settings(self, name: str, **changed: URL | str | None) -> Settings:
        """Return the settings for the database `name` and the roles `<name>_owner`, `_app` and `_backup`."""
        urls = {
            "DATABASE_URL": self.url(f"{name}_app", name),
            "DATABASE_MIGRATION_URL": self.url(f"{name}_owner", name),
            "DATABASE_BACKUP_URL": self.url(f"{name}_backup", name),
            "DATABASE_ADMIN_URL": self.admin_url,
        }
        return Settings(ENVIRONMENT="test", **(urls | changed))  # type: ignore[arg-type] # it validates them

    def variables(self, name: str, **changed: URL) -> dict[str, str]:
        """Return the same settings as environment variables of a command."""
        settings = self.settings(name, **changed)
        urls = {key: getattr(settings, key) for key in type(settings).model_fields if key.endswith("_URL")}
        rendered = {key: url.render_as_string(hide_password=False) for key, url in urls.items() if url is not None}
        return {"ENVIRONMENT": "test", **rendered}

    def connect(self, user: str = SUPERUSER, database: str = "postgres") -> psycopg.Connection:
        url = self.admin_url if user == SUPERUSER else self.url(user, database)
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=user, password=url.password, dbname=database, autocommit=True
        )

    def sql(self, statement: str, *, user: str = SUPERUSER, database: str = "postgres") -> list[tuple[object, ...]]:
        with self.connect(user, database) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    @property
    def log(self) -> str:
        return (self.server.folder / "server.log").read_text(errors="replace")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="thea-", dir=MEMORY if HAS_ROOM else None) as name:
        Path(name).chmod(0o711)
        config = {**SERVER_PARAMETERS, "log_statement": "all", "log_min_error_statement": "error"}
        server = EmbeddedServer(Path(name) / "service", config=config, over_tcp=True)
        server.acquire()
        yield Cluster(server)
        server.release()
