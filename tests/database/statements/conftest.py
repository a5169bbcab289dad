from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from src.database.embedded import SUPERUSER
from tests.conftest import SOCKETS


@pytest.fixture
async def connection(shared_database: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A superuser's connection, in a transaction that is rolled back."""
    made = await asyncpg.connect(host=SOCKETS, user=SUPERUSER, database=shared_database)
    outer = made.transaction()
    await outer.start()
    yield made
    await outer.rollback()
    await made.close()
