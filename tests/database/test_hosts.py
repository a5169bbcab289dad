"""Several hosts: the next one is tried if a host cannot be reached, and not if all would refuse the same."""

from __future__ import annotations

import pytest
from sqlalchemy import URL, text
from sqlalchemy.pool import NullPool

from src.config import Settings
from src.database import create_engine
from src.database.errors import DatabaseMissing
from tests.database.engine.test_silence import relayed
from tests.database.mute_relay import relaying


async def test_the_next_host_is_tried_if_one_does_not_answer(cloned_database: URL) -> None:
    with relaying() as silent, relaying() as answering:
        silent.fall_silent()
        url = relayed(silent, str(cloned_database.database), answering)
        engine = create_engine(
            Settings(ENVIRONMENT="test", DATABASE_URL=url, DATABASE_CONNECT_TIMEOUT=0.5), poolclass=NullPool
        )
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT 1")) == 1
    assert (silent.connections, answering.connections) == (1, 1)


async def test_a_refusal_ends_the_search(cloned_database: URL) -> None:
    with relaying() as first, relaying() as second:
        settings = Settings(ENVIRONMENT="test", DATABASE_URL=relayed(first, "nothing", second))
        with pytest.raises(DatabaseMissing):
            async with create_engine(settings, poolclass=NullPool).connect():
                pass
    assert (first.connections, second.connections) == (1, 0)
