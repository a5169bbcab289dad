"""Checks after a fault: connections in use, open transactions, bound tenants."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

import asyncpg
import psycopg

from src.database import engine, get_engine
from src.database.connect import DRIVER_ERRORS
from src.database.engine import DatabaseEngine
from src.database.engine.pool import SizedPool
from src.database.session.engines import READING, engine_of_loop
from src.database.store import StorePool, get_store

_BACKENDS = (
    "SELECT pid, state, xact_start IS NOT NULL, left(query, 60) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)
_IN_THE_SESSION = "SELECT COALESCE(current_setting('app.tenant_id', true), '')"


async def until(is_so: Callable[[], bool], *, within: float = 20) -> None:
    """Wait until a condition is true, by polling."""
    deadline = time.monotonic() + within
    while not is_so():
        assert time.monotonic() < deadline, f"the condition is still false after {within} s"
        await asyncio.sleep(0.01)


def until_meanwhile(is_so: Callable[[], bool], *, within: float = 20) -> None:
    """Wait until a condition is true, and block the event loop, so that no task of this process can change it."""
    deadline = time.monotonic() + within
    while not is_so():
        assert time.monotonic() < deadline, f"the condition is still false after {within} s"
        time.sleep(0.01)


def backends(superuser: psycopg.Connection) -> list[tuple[Any, ...]]:
    """Return the other backends of the database: pid, state, whether a transaction is open, query."""
    return superuser.execute(_BACKENDS).fetchall()


def in_a_transaction(superuser: psycopg.Connection) -> list[tuple[Any, ...]]:
    return [one for one in backends(superuser) if one[2] or one[1] != "idle"]


def in_use() -> dict[str, int]:
    """Return the number of checked-out connections of each pool."""
    pools = {name: cast("SizedPool", of.pool).checkedout() for name, of in _engines().items()}
    return {**pools, "store": the_store_pool().in_use}


async def wrongly_bound() -> list[str]:
    """Return the idle pooled connections that are bound to a tenant or in a transaction."""
    wrong = []
    for name, of in _engines().items():
        for entry in cast("Any", of.pool)._pool._idle:
            if entry.dbapi_connection is not None:
                wrong += await _faults_of(entry.dbapi_connection.driver_connection, where=name)
    for slot in the_store_pool()._idle:
        wrong += await _faults_of(slot.connection, where="store")
    return wrong


async def dispose_of_all() -> None:
    for one in (*_engines().values(), get_engine("store")):
        await one.dispose()


def read_engine() -> DatabaseEngine:
    return engine_of_loop(READING)


def the_store_pool() -> StorePool:
    return get_store().pool


def _engines() -> dict[str, DatabaseEngine]:
    return {"default": engine, READING: read_engine()}


async def _faults_of(connection: asyncpg.Connection[Any], *, where: str) -> list[str]:
    if connection.is_closed():
        return []
    if connection.is_in_transaction():
        return [f"{where}: a hidden transaction"]
    try:
        bound_to = await connection.fetchval(_IN_THE_SESSION)
    except DRIVER_ERRORS:  # terminated just before
        return []
    return [f"{where}: bound to {bound_to!r}"] if bound_to else []
