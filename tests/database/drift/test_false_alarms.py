"""Equal schemas have no difference: on PostgreSQL 15 and 18, and after a dump and a restore."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database.drift import Catalog, compare, read_live, verify
from src.database.embedded import APP_ROLE, OWNER_ROLE, SUPERUSER
from src.database.embedded.process import programs
from src.database.migrate import upgrade
from tests.conftest import SOCKETS, url_of
from tests.database.drift.conftest import MORE, connect
from tests.database.drift.test_mutations import repair
from tests.system_server import GRANTS, SYSTEM, system_server

ANOTHER_EXPRESSION = """
ALTER TABLE users DROP COLUMN username_lower, ADD COLUMN username_lower text
      GENERATED ALWAYS AS (upper(username)) STORED;
CREATE INDEX ix_users_username_lower ON users (tenant_id, username_lower)
"""


def dump_and_restore(folder: Path, sockets: str, source: str, target: str) -> None:
    """Copy a database into another one by pg_dump and pg_restore, as a superuser."""
    dump = folder / "dump"
    whose = ["-h", sockets, "-U", SUPERUSER]
    for command in (
        ["pg_dump", *whose, "-Fc", "-f", str(dump), source],
        ["createdb", *whose, "-T", "template0", target],
        ["pg_restore", *whose, "-d", target, "--exit-on-error", str(dump)],
    ):
        here = SYSTEM if sockets != SOCKETS else programs()
        subprocess.run([here / command[0], *command[1:]], check=True, capture_output=True)


@pytest.mark.slow
async def test_dump_and_restore_cause_no_difference(expected: Catalog, drifting: str, tmp_path: Path) -> None:
    restored = f"restored_{os.getpid()}"
    dump_and_restore(tmp_path, SOCKETS, drifting, restored)
    try:
        live = await read_live(Settings(ENVIRONMENT="test", DATABASE_URL=url_of(restored)))
    finally:
        with connect("postgres", SUPERUSER) as superuser:
            superuser.execute(f"DROP DATABASE {restored} WITH (FORCE)")

    assert compare(expected, live) == ()


@pytest.fixture
def oldest() -> Iterator[str]:
    """The folder of the socket of a server of the oldest supported version, Debian's."""
    with system_server() as folder:
        yield folder


@pytest.mark.slow
async def test_postgresql_15_has_no_difference_and_its_drift_is_repaired(oldest: str, tmp_path: Path) -> None:
    def settings(user: str, dbname: str = "postgres") -> Settings:
        return Settings(
            ENVIRONMENT="test",
            DATABASE_URL=URL.create("postgresql", username=user, database=dbname, query={"host": oldest}),
        )

    with psycopg.connect(host=oldest, user=SUPERUSER, dbname="postgres", autocommit=True) as superuser:
        superuser.execute(GRANTS)
        await upgrade(settings(OWNER_ROLE))
        assert (await verify(settings(APP_ROLE))).differences == ()

        superuser.execute(f"SET ROLE {OWNER_ROLE}")
        superuser.execute(MORE.replace("(provider = builtin, locale = 'C.UTF-8')", "(locale = 'C')").encode())
        before = await read_live(settings(APP_ROLE))
        dump_and_restore(tmp_path, oldest, "postgres", "restored")
        assert compare(before, await read_live(settings(APP_ROLE, "restored"))) == ()

        superuser.execute(ANOTHER_EXPRESSION)
        found = (await verify(settings(APP_ROLE))).differences
        assert ("users.username_lower", "generated") in {(one.object, one.attribute) for one in found}
        repair(superuser, compare(before, await read_live(settings(APP_ROLE))))
        assert compare(before, await read_live(settings(APP_ROLE))) == ()
