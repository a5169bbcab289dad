"""A migrated database with an object of each kind that the schema of this package lacks, and its catalog."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL

from src.config import Settings, get_settings
from src.database.drift import Catalog, read_live, scratch
from src.database.embedded import OWNER_ROLE, SUPERUSER
from tests.conftest import SERVER, SOCKETS, url_of

BASE = f"drift_{os.getpid()}"  # several workers share the server
MORE = """
CREATE TYPE mood AS ENUM ('calm', 'merry', 'sad');
CREATE DOMAIN percentage AS integer DEFAULT 0 CONSTRAINT percentage_range CHECK (VALUE BETWEEN 0 AND 100);
CREATE SEQUENCE tickets;
GRANT USAGE ON SEQUENCE tickets TO thea_app;
CREATE COLLATION spelling (provider = builtin, locale = 'C.UTF-8');
ALTER TABLE tenants ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY, ADD COLUMN mood mood,
      ADD COLUMN share percentage, ADD COLUMN ticket bigint DEFAULT nextval('tickets'),
      ADD COLUMN sorted text COLLATE spelling;
ALTER SEQUENCE tickets OWNED BY tenants.ticket;
CREATE INDEX ix_tenants_sorted ON tenants (sorted);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.updated_at = now(); RETURN NEW; END$$;
CREATE TRIGGER touched BEFORE UPDATE ON tenants FOR EACH ROW WHEN (OLD IS DISTINCT FROM NEW) EXECUTE FUNCTION touch();
CREATE VIEW own_notes WITH (security_invoker = true) AS SELECT tenant_id, id, title FROM notes;
CREATE EXTENSION hstore;
"""


def in_thread(work: Callable[[], Any]) -> Any:
    """Run a coroutine in a thread: a module-scoped fixture outlives the event loops of the tests."""
    results: list[Any] = []
    thread = Thread(target=lambda: results.append(asyncio.run(work())))
    thread.start()
    thread.join()
    return results[0]


def connect(dbname: str, user: str) -> psycopg.Connection:
    return psycopg.connect(host=SOCKETS, user=user, dbname=dbname, autocommit=True)


@pytest.fixture(scope="module")
def expected(template_database: str) -> Iterator[Catalog]:
    """The catalog of the base database, which each test clones."""
    with connect("postgres", SUPERUSER) as superuser:
        superuser.execute(f"DROP DATABASE IF EXISTS {BASE}")
        superuser.execute(f"CREATE DATABASE {BASE} OWNER {OWNER_ROLE} TEMPLATE {template_database}")
        with connect(BASE, OWNER_ROLE) as owner:
            owner.execute(MORE)
        settings = Settings(ENVIRONMENT="test", DATABASE_URL=url_of(BASE))
        yield in_thread(lambda: read_live(settings))
        superuser.execute(f"DROP DATABASE {BASE} WITH (FORCE)")


@pytest.fixture
def drifting(expected: Catalog) -> Iterator[str]:
    """A clone of the base database, for changes."""
    assert expected.revisions  # the base exists
    name = SERVER.clone(of=BASE)
    yield name
    SERVER.release(name)


@pytest.fixture
def settings(cloned_database: URL) -> Settings:
    assert cloned_database.database is not None
    return get_settings()


@pytest.fixture
def with_scratch(cloned_database: URL, use_database: Callable[..., Settings]) -> Settings:
    """Settings with a role for migrations that may create databases."""
    assert cloned_database.database is not None
    migrating = url_of(cloned_database.database, SUPERUSER)
    return use_database(cloned_database, DATABASE_MIGRATION_URL=migrating.render_as_string())


@pytest.fixture
def scratches(superuser: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Any]]:
    """Return a function that lists the scratch databases of this worker."""
    prefix = f"thea_scratch_{os.getpid()}_"
    monkeypatch.setattr(scratch, "SCRATCH_PREFIX", prefix)
    question = "SELECT datname FROM pg_database WHERE starts_with(datname, %s)"
    return lambda: superuser.execute(question, [prefix]).fetchall()
