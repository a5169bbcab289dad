"""The name of a connection at the server: the service, the environment, the pool and the process."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
from multiprocessing.connection import Connection

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.pool import NullPool

from src.config import Settings
from src.database import create_engine
from src.database.connect import connection_name
from src.database.connect.setup import LONGEST_NAME_BYTES
from src.database.engine import DatabaseEngine
from tests.acceptance.pgbouncer import needs_pgbouncer, pgbouncer
from tests.conftest import SOCKETS, url_of


async def name_of(engine: DatabaseEngine) -> str:
    async with engine.connect() as connection:
        return str(await connection.scalar(text("SHOW application_name")))


@pytest.mark.slow
@given(
    service=st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=63),
    pool=st.from_regex(r"[A-Za-z0-9_-]{1,32}", fullmatch=True),
)
def test_a_name_is_short_ascii_and_ends_with_pool_and_process(service: str, pool: str) -> None:
    name = connection_name(service, "development", pool)

    assert len(name.encode("ascii")) <= LONGEST_NAME_BYTES
    assert name.rsplit("/", 3)[1:] == ["development", pool, str(os.getpid())]
    assert name[:8].isprintable()


async def test_a_url_sets_the_service_in_the_name(shared_database: str) -> None:
    url = url_of(shared_database).update_query_dict({"application_name": "agent"})

    engine = create_engine(Settings(ENVIRONMENT="test", DATABASE_URL=url), poolclass=NullPool, name="queue")

    assert await name_of(engine) == f"agent/test/queue/{os.getpid()}"


def query_in_a_child(engine: DatabaseEngine, answer: Connection) -> None:
    answer.send((os.getpid(), asyncio.run(name_of(engine))))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_process_has_its_own_id_in_the_name(shared_database: str) -> None:
    """A server that creates its engine before it forks its workers; no connection is open yet."""
    settings = Settings(ENVIRONMENT="test", DATABASE_URL=url_of(shared_database))
    engine = create_engine(settings, poolclass=NullPool)
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    child = fork.Process(target=query_in_a_child, args=(engine, theirs))
    child.start()
    try:
        assert ours.poll(30), "the child has not answered"
        number, name = ours.recv()
    finally:
        child.join(30)

    assert number != os.getpid()
    assert name == f"thea-database/test/default/{number}"


@needs_pgbouncer
async def test_pgbouncer_passes_the_name_on(shared_database: str) -> None:
    with pgbouncer(SOCKETS) as pooler:
        settings = Settings(ENVIRONMENT="test", DATABASE_URL=pooler.url(shared_database), DATABASE_PGBOUNCER="true")

        assert await name_of(create_engine(settings)) == f"thea-database/test/default/{os.getpid()}"
