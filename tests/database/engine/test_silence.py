"""A server that accepts connections and does not answer: no call waits longer than the limits, at any point."""

from __future__ import annotations

import asyncio
import socket
import time
from importlib import import_module
from typing import Any

import pytest
from sqlalchemy import URL
from sqlalchemy.pool import NullPool

from src.config import Settings
from src.database import create_engine
from src.database.engine import pool
from src.database.errors import ConnectionFailed
from tests.conftest import url_of
from tests.database.engine.test_pool import pid, pids, pooled
from tests.database.mute_relay import MuteRelay, relaying


def relayed(relay: MuteRelay, dbname: str, *more: MuteRelay) -> URL:
    ports = ",".join(str(one.port) for one in (relay, *more))
    hosts = ",".join("127.0.0.1" for _ in (relay, *more))
    return url_of(dbname).set(query={"host": hosts, "port": ports})


@pytest.mark.slow
async def test_a_connection_that_was_idle_for_long_is_pinged(clone_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-open connection: the network has dropped it without notice to either end."""
    monkeypatch.setattr(pool, "PING_AFTER_IDLE_SECONDS", 0.0)
    monkeypatch.setattr(pool, "PING_TIMEOUT_SECONDS", 0.2)
    with relaying() as first, relaying() as second:
        url = relayed(first, clone_name, second)
        async with pooled(url, DATABASE_CONNECT_TIMEOUT=0.5) as engine:
            before = await pid(engine)
            first.fall_silent()
            assert await pid(engine) != before
    assert second.connections == 1


async def test_no_call_waits_longer_than_the_limits_for_a_server_that_stops_answering(
    cloned_database: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("src.database.session.targets"), "COMMAND_MARGIN_SECONDS", 0.2)
    limits: dict[str, Any] = {
        "DATABASE_STATEMENT_TIMEOUT": 300,
        "DATABASE_CONNECT_TIMEOUT": 0.5,
        "DATABASE_POOL_SIZE": 3,
    }
    with relaying() as relay:
        async with pooled(relayed(relay, str(cloned_database.database)), **limits) as engine:
            await pids(engine, 3)
            relay.fall_silent()

            async def call() -> float:
                began = time.monotonic()
                with pytest.raises(ConnectionFailed):
                    await pid(engine)
                return time.monotonic() - began

            assert max(await asyncio.gather(*(call() for _ in range(4)))) < 5
            began = time.monotonic()
            await engine.dispose()
            assert time.monotonic() - began < 5


async def test_tcp_keepalives_are_on(cloned_database: URL) -> None:
    with relaying() as relay:
        async with (
            pooled(relayed(relay, str(cloned_database.database))) as engine,
            engine.connect() as connection,
        ):
            driver: Any = (await connection.get_raw_connection()).driver_connection
            network = driver._transport.get_extra_info("socket")
            assert network.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert network.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


@pytest.mark.slow
async def test_dispose_ends_in_time_with_idle_connections_to_a_silent_server(cloned_database: URL) -> None:
    with relaying() as relay:
        async with pooled(relayed(relay, str(cloned_database.database)), DATABASE_POOL_SIZE=5) as engine:
            connections = await asyncio.gather(*(engine.connect().start() for _ in range(5)))
            drivers: list[Any] = [(await each.get_raw_connection()).driver_connection for each in connections]
            for connection in connections:
                await connection.close()
            relay.fall_silent()
            began = time.monotonic()
            await engine.dispose()
            assert time.monotonic() - began < 5
            assert all(driver.is_closed() for driver in drivers), "also connections that did not close in time"


@pytest.mark.slow
async def test_a_server_that_stops_answering_after_the_login_ends_the_connect_in_time(cloned_database: URL) -> None:
    """The setup of a new connection has the time limit of connecting."""
    with relaying() as relay:
        url = relayed(relay, str(cloned_database.database))
        engine = create_engine(
            Settings(ENVIRONMENT="test", DATABASE_URL=url, DATABASE_CONNECT_TIMEOUT=0.5), poolclass=NullPool
        )
        relay.is_silent_after_login = True
        began = time.monotonic()
        with pytest.raises(ConnectionFailed, match="did not answer in time"):
            await pid(engine)
        assert time.monotonic() - began < 3
        await engine.dispose()
