"""Each change of the catalog is reported, and its remedy repairs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import psycopg
import pytest
from sqlalchemy.pool import NullPool

from src.config import Settings
from src.database import create_engine
from src.database.drift import Catalog, Difference, compare, read_catalog
from src.database.embedded import OWNER_ROLE, SUPERUSER
from tests.conftest import url_of
from tests.database.drift.conftest import connect
from tests.database.drift.mutations import MUTATIONS, Mutation

Compare = Callable[[], Awaitable[tuple[Difference, ...]]]


@pytest.fixture
async def compare_again(drifting: str, expected: Catalog) -> AsyncIterator[Compare]:
    """Return a function that compares the catalogs over one connection of the application."""
    engine = create_engine(Settings(ENVIRONMENT="test", DATABASE_URL=url_of(drifting)), poolclass=NullPool)
    async with engine.connect() as connection:

        async def compare_again() -> tuple[Difference, ...]:
            found = await read_catalog(connection, tables=expected.of("table"))
            await connection.rollback()
            return compare(expected, found)

        yield compare_again
    await engine.dispose()


def repair(connection: psycopg.Connection, differences: Iterable[Difference]) -> None:
    for difference in differences:
        for statement in difference.remedy:
            if not statement.startswith("--"):
                connection.execute(statement.encode())


def named(differences: Iterable[Difference], database: str) -> set[tuple[str, str, str]]:
    return {(one.kind, one.object.removesuffix(f" {database}"), one.attribute) for one in differences}


async def trial(mutation: Mutation, database: str, compare_again: Compare) -> str | None:
    """Change the database, compare, repair, compare again; return the problem, or None."""
    with connect(database, SUPERUSER if mutation.as_superuser else OWNER_ROLE) as connection:
        connection.execute(mutation.statement.encode())
        found = await compare_again()
        if named(found, database) != mutation.differences:
            return f"it was called {named(found, database)}"
        try:
            repair(connection, found)
        except psycopg.Error as error:
            return f"{error}: {[one.remedy for one in found]}"
        left = await compare_again()
        return f"{left} is left after {[one.remedy for one in found]}" if left else None


QUICK = {"columns", "rights"}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in MUTATIONS]
)
async def test_each_mutation_is_reported_and_repaired(kind: str, drifting: str, compare_again: Compare) -> None:
    failed = {}
    for mutation in MUTATIONS[kind]:
        if problem := await trial(mutation, drifting, compare_again):
            failed[str(mutation)] = problem

    assert failed == {}
