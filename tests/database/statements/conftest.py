from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from pytest_postgresql.executors import NoopExecutor

from src.database.embedded import SUPERUSER
from tests.conftest import SOCKETS


@pytest.fixture
async def connection(postgresql_shared: NoopExecutor) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A superuser's connection, in a transaction that is rolled back."""
    made = await asyncpg.connect(host=SOCKETS, user=SUPERUSER, database=postgresql_shared.template_dbname)
    outer = made.transaction()
    await outer.start()
    yield made
    await outer.rollback()
    await made.close()
