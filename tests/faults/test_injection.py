"""Attack strings at every injection point: no statement fails or changes its meaning, and values are stored unchanged.

The tests run as a superuser, to whom row-level security does not apply: an injected condition would find rows of the
other tenant.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import cycle
from typing import Any
from uuid import UUID

import psycopg
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from typer.testing import CliRunner

from src.database.base import TenantBase, uuid7
from src.database.cli.app import app as command
from src.database.embedded import SUPERUSER
from src.database.errors import DatabaseError
from src.database.session import TenantBinding, tenant_context
from src.database.store import Store, StorePool
from src.database.store.calls import Calls
from src.database.store.pool import PooledConnection
from src.database.target import PoolLimits
from tests.acceptance.calls import Rows, fill
from tests.acceptance.test_tenants import act_as
from tests.faults.injection_points import WAYS, Place, Way
from tests.faults.payloads import HOSTILE
from tests.faults.three_tenants import parts_of

BROKEN = ("42", "0A", "XX", "54", "26", "34")
"""Errors of the statement or the server: a syntax error, an unknown name, a wrong type."""


class Target:
    """Two tenants in a transaction that is rolled back; the rows of the second one must not be found."""

    def __init__(self, connection: AsyncConnection, tenant_id: UUID, rows: Rows) -> None:
        self.connection = connection
        self.tenant_id = tenant_id
        self.rows = rows
        self.refused: Counter[str] = Counter()

    async def attack(self, ways: list[Way], value: str) -> None:
        async with act_as(self.tenant_id, self.connection) as session:
            place = Place(session, self.rows, await self._store())
            with tenant_context(self.tenant_id):
                for way in ways:
                    savepoint = await session.begin_nested()
                    await session.connection()  # the session sends the savepoint with its first statement
                    await self._try(way, place, value)
                    session.expunge_all()
                    await savepoint.rollback()
            await session.rollback()

    async def _try(self, way: Way, place: Place, value: str) -> None:
        try:
            self._check_answer(await way(place, value))
        except DatabaseError as error:
            if str(error.sqlstate).startswith(BROKEN):
                raise AssertionError(f"{way.__name__} broke a statement") from error
            self.refused[f"{way.__name__}: {error.sqlstate}"] += 1
        except (ValueError, TypeError) as error:
            self.refused[f"{way.__name__}: {type(error).__name__}"] += 1

    def _check_answer(self, found: Any) -> None:
        for part in parts_of(found):
            if isinstance(part, TenantBase):
                assert part.tenant_id == self.tenant_id, f"handed out: {part!r}"

    async def _store(self) -> Store:
        """Return a store whose only connection is that of the transaction."""
        raw: Any = await self.connection.get_raw_connection()

        async def given() -> Any:
            return raw.driver_connection

        pool = _Kept(given, PoolLimits(size=1, overflow=0, timeout=1, lifetime=3600))
        return Store(Calls(pool, TenantBinding(self.tenant_id)))


class _Kept(StorePool):
    """A pool that keeps its connection when a call has failed inside the transaction."""

    def discard(self, pooled: PooledConnection) -> None:
        self._free_place()


@asynccontextmanager
async def target(engine: AsyncEngine) -> AsyncIterator[Target]:
    async with engine.connect() as connection:
        outer = await connection.begin()
        attacked, other = uuid7(), uuid7()
        async with act_as(other, connection) as session:
            await fill(session)
        async with act_as(attacked, connection) as session:
            rows = await fill(session)
        yield Target(connection, attacked, rows)
        await outer.rollback()


@pytest.mark.slow
def test_hostile_strings_break_nothing_and_find_nothing(
    engine_of: Callable[[str], AsyncEngine], *, is_long: bool
) -> None:
    """Each string at some of the injection points, about 200 attacks; 10,000 strings with `--long`."""
    many = 8 if is_long else 4
    some = st.lists(st.sampled_from(WAYS), min_size=many - 2, max_size=many - 1, unique=True)
    taken: Counter[str] = Counter()
    each = cycle(WAYS)
    with asyncio.Runner() as runner:
        opened = target(engine_of(SUPERUSER))
        there = runner.run(opened.__aenter__())

        @settings(
            max_examples=10_000 if is_long else 60,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(value=HOSTILE, ways=some)
        def attack(value: str, ways: list[Way]) -> None:
            ways = [next(each), *ways]
            taken.update(way.__name__ for way in ways)
            runner.run(there.attack(ways, value))

        try:
            attack()
            assert set(taken) == {way.__name__ for way in WAYS}
        finally:
            print(f"{taken.total()} by {len(taken)} ways; refused: {dict(there.refused)}")  # noqa: T201 - the figures
            runner.run(opened.__aexit__(None, None, None))


COMMANDS = [
    ["tenant", "create", "{}", "name"],
    ["tenant", "create", "{slug}", "{}"],
    ["tenant", "update", "{}", "--name", "x"],
    ["tenant", "update", "here", "--name", "{}"],
    ["tenant", "update", "here", "--slug={}"],
    ["tenant", "suspend", "{}"],
    ["tenant", "export", "{}"],
    ["tenant", "erase", "{}", "--yes"],
    ["tenant", "purge", "{}", "--dry-run"],
    ["upgrade", "{}"],
    ["stamp", "{}"],
    ["downgrade", "{}"],
    ["sql", "{}"],
    ["seed", "--until={}"],
]


def test_hostile_arguments_of_the_command_break_nothing(
    cloned_database: URL,
    superuser: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_long: bool,
) -> None:
    for slug, name in (("here", "x"), ("there", "untouched")):
        superuser.execute("INSERT INTO tenants (id, slug, name) VALUES (%s, %s, %s)", (uuid7(), slug, name))
    monkeypatch.setenv("COLUMNS", "1000")
    ended: Counter[str] = Counter()

    @settings(
        max_examples=1_000 if is_long else 9, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(value=HOSTILE, form=st.sampled_from(COMMANDS))
    def attack(value: str, form: list[str]) -> None:
        arguments = [part.replace("{slug}", f"s{uuid7().hex}").replace("{}", value) for part in form]
        result = CliRunner().invoke(command, arguments)
        ended[f"{form[0]} {result.exit_code} {type(result.exception).__name__}"] += 1
        if isinstance(result.exception, DatabaseError):
            assert not str(result.exception.sqlstate).startswith(BROKEN), f"{form}: {result.exception}"
        elif result.exception is not None and not isinstance(result.exception, SystemExit):
            raise AssertionError(f"{form}: an error that the command does not report") from result.exception

    try:
        attack()
    finally:
        structlog.reset_defaults()  # the command has configured logging for a stream that is closed now

    print(dict(ended))  # noqa: T201 - the figures
    assert (
        superuser.execute("SELECT count(*) FROM tenants WHERE slug = 'here' OR slug LIKE 's%'").fetchone() is not None
    )
