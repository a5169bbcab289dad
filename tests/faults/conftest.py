"""Three callers, with pools of five connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from sqlalchemy import URL

from src.config import Settings
from tests.faults.callers import Caller, register
from tests.faults.leftovers import dispose_of_all

POOL_SIZE = 5


@pytest.fixture
async def callers(cloned_database: URL, use_database: Callable[..., Settings]) -> AsyncIterator[list[Caller]]:
    use_database(cloned_database.update_query_dict({"pool_max": str(POOL_SIZE)}))
    yield await register(3)
    await dispose_of_all()
