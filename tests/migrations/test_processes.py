"""Many processes that migrate at the same time, and processes that are killed during a migration."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from sqlalchemy import URL

from src.database.embedded import SUPERUSER
from tests.conftest import SOCKETS
from tests.migrations.conftest import catalogue, fill
from tests.migrations.drafts import Drafts, expand_and_contract
from tests.migrations.forks import Forks, forks

PROCESSES = 8
KILLED = -9
NICKNAMES = "SELECT count(*), count(nickname), count(DISTINCT tenant_id) FROM users"


@pytest.fixture(scope="module")
def processes() -> Iterator[Forks]:
    with forks() as made:
        yield made


@pytest.fixture
def filled(clone: Callable[..., URL]) -> str:
    """A database without connections, which others are created from."""
    url = clone("filled")
    with connect(url) as connection:
        fill(connection)
    assert url.database is not None
    return url.database


def connect(url: URL) -> psycopg.Connection:
    return psycopg.connect(host=SOCKETS, user=SUPERUSER, dbname=url.database, autocommit=True)


@pytest.mark.slow
def test_concurrent_migrators_apply_each_migration_once(
    processes: Forks, clone: Callable[..., URL], drafts: Drafts, filled: str, *, is_long: bool
) -> None:
    expand_and_contract(drafts)
    rounds = 50 if is_long else 1
    succeeded = 0
    for _ in range(rounds):
        answer = processes.upgrade(clone("at_once", filled), drafts.folder, processes=PROCESSES)
        assert len(answer["steps"]) == len(set(answer["steps"])) == 9  # each migration was applied once
        succeeded += answer["codes"].count(0)

    assert succeeded == PROCESSES * rounds


@pytest.mark.slow
def test_the_next_migrator_completes_after_a_kill(
    processes: Forks, clone: Callable[..., URL], drafts: Drafts, filled: str, *, is_long: bool
) -> None:
    expand_and_contract(drafts)
    url = clone("undisturbed", filled)
    undisturbed = processes.upgrade(url, drafts.folder)
    assert undisturbed["codes"] == [0]
    with connect(url) as connection:
        expected, rows = catalogue(connection), connection.execute(NICKNAMES).fetchall()
    assert rows == [(35, 35, 5)]
    count = undisturbed["statements"]
    assert count > 60

    for number in range(1, count + 1, 1 if is_long else count // 3):
        url = clone("killed", filled)
        assert processes.upgrade(url, drafts.folder, kill_at=number)["codes"] == [KILLED], number
        assert processes.upgrade(url, drafts.folder)["codes"] == [0], number
        with connect(url) as connection:
            assert catalogue(connection) == expected, number
            assert connection.execute(NICKNAMES).fetchall() == rows
