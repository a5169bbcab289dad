"""The settings of the owner of the cloned database, and revisions to run in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Timer

import psycopg
import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database.embedded import OWNER_ROLE, SUPERUSER
from tests.conftest import SOCKETS, url_of
from tests.migrations.drafts import Drafts

CATALOGUE = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
 WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT indrelid::regclass::text, indexrelid::regclass::text, pg_get_indexdef(indexrelid) || indisvalid FROM pg_index
 WHERE indrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
UNION ALL
SELECT table_name, column_name, concat_ws(' ', ordinal_position, data_type, is_nullable, column_default)
  FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL
SELECT 'thea_alembic_version', 'version_num', version_num FROM thea_alembic_version
ORDER BY 1, 2, 3
"""


def catalogue(connection: psycopg.Connection) -> list[tuple[object, ...]]:
    return connection.execute(CATALOGUE).fetchall()


@pytest.fixture
def owner_settings(
    cloned_database: URL, superuser: psycopg.Connection, use_database: Callable[..., Settings]
) -> Settings:
    assert cloned_database.database is not None
    superuser.execute(f"ALTER DATABASE {cloned_database.database} OWNER TO {OWNER_ROLE}")
    return use_database(url_of(cloned_database.database, OWNER_ROLE))


@pytest.fixture
def drafts(tmp_path: Path) -> Drafts:
    folder = tmp_path / "revisions"
    folder.mkdir()
    return Drafts(folder)


@pytest.fixture
def clone(
    template_database: str, clone_name: str, superuser: psycopg.Connection
) -> Iterator[Callable[[str, str | None], URL]]:
    """Create further databases from the template, or from the named database; return the URL of the owner.

    All workers share one server: the name of the test's own clone makes the names unique.
    """
    made: list[str] = []

    def make(suffix: str, like: str | None = None) -> URL:
        template = like or template_database
        name = f"{clone_name}_{suffix}"
        superuser.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        superuser.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER {OWNER_ROLE}")
        made.append(name)
        return url_of(name, OWNER_ROLE)

    yield make
    for name in set(made):
        superuser.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def another_session(cloned_database: URL) -> Iterator[Callable[..., int]]:
    """Open a transaction that has read or written users, and ends after some seconds; return its pid."""
    with ExitStack() as stack:

        def open_for(seconds: float, *, writes: bool = False) -> int:
            connection = stack.enter_context(
                psycopg.connect(host=SOCKETS, user=SUPERUSER, dbname=cloned_database.database)
            )
            connection.execute(f"LOCK TABLE users IN {'ROW EXCLUSIVE' if writes else 'ACCESS SHARE'} MODE")
            timer = Timer(seconds, connection.close)
            timer.start()
            stack.callback(timer.join)
            return connection.info.backend_pid

        yield open_for


def fill(superuser: psycopg.Connection) -> None:
    """Register five tenants with seven users each; the third tenant is suspended."""
    superuser.execute("""
        INSERT INTO tenants (id, slug, name, status)
        SELECT ('00000000-0000-7000-8000-00000000010' || n)::uuid, 'tenant-' || n, 'T',
               CASE n WHEN 3 THEN 'suspended' ELSE 'active' END
          FROM generate_series(1, 5) AS n
    """)
    superuser.execute("""
        INSERT INTO users (tenant_id, id, username)
        SELECT tenants.id, gen_random_uuid(), 'user-' || n FROM tenants, generate_series(1, 7) AS n
         WHERE slug LIKE 'tenant-%'
    """)
