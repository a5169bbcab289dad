"""The engines of each event loop, and how the settings bind their transactions: the only process state."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, Final, TypeVar

import asyncpg

from src import config
from src.config.profiles import Purpose
from src.database.engine import DatabaseEngine
from src.database.errors import ConfigurationError
from src.database.observability import DefaultTenantLog, watch
from src.database.session.binding import TenantBinding
from src.database.session.targets import create_engine, transaction_limits

_Loop = asyncio.AbstractEventLoop
BindingT = TypeVar("BindingT", bound=TenantBinding)

DEFAULT: Final = "default"
READING: Final = "read"
_POOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")

_engines: Final[dict[_Loop | None, dict[str, DatabaseEngine]]] = {}
_guards: Final[dict[_Loop, list[tuple[AsyncGenerator[None, None], dict[str, DatabaseEngine]]]]] = {}
"""The generators that each loop closes at its shutdown, with their engines: several after `forget_settings`."""


def get_engine(name: str) -> DatabaseEngine:
    """Return the engine of this name, with a pool of its own, for the running event loop.

    For what must not wait for the others' connections nor take them away: a web framework's session store, a queue.
    The settings say how large each pool is; together they have to fit into the server.

    Args:
        name: What errors call the pool, and the server its connections: ``<service>/<environment>/<name>/<process>``.

    Raises:
        ConfigurationError: The name is not 1 to 32 letters, digits, dashes and underscores, or is taken by `get_db`.
    """
    if name in {DEFAULT, READING}:
        raise ConfigurationError(f"a pool's name must not be {name!r}: get_db and get_read_db use it")
    return engine_of_loop(name)


def engine_of_loop(name: str) -> DatabaseEngine:
    """Return an engine of the running event loop: a connection works on the loop that opened it and on no other."""
    loop = _running_loop()
    engines = _engines.get(loop)
    if engines is None:
        _forget_closed_loops()
        engines = _engines[loop] = {}
        if loop is not None:
            guard = _until_shutdown(loop, engines)
            _guards.setdefault(loop, []).append((guard, engines))
            with suppress(StopIteration):  # run to the yield: that is what registers it with the loop
                guard.asend(None).send(None)
    if name not in engines:
        if not _POOL_NAME.fullmatch(name):
            raise ConfigurationError(f"a pool's name must be 1 to 32 letters, digits, - and _, got {name!r}")
        settings = config.get_settings()
        purpose: Purpose = "reading" if name == READING else "application"
        engines[name] = watch(create_engine(settings, purpose=purpose, name=name), settings, name=name)
    return engines[name]


def engines_of_loop() -> dict[str, DatabaseEngine]:
    """Return the engines that the running event loop has by now, by their names; none is made for it."""
    return dict(_engines.get(_running_loop(), {}))


async def open_connection(*, reading: bool = False) -> asyncpg.Connection[Any]:
    """Open a connection of the driver's to where `get_db` goes, or `get_read_db`; whoever asks for it closes it.

    No pool knows it: it waits for nobody, and takes nobody's place.

    Raises:
        ConnectionFailed: The database cannot be reached.
        ConfigurationError: It is not what the settings ask for.
    """
    return await engine_of_loop(READING if reading else DEFAULT).open_connection()


def has_replica() -> bool:
    """Return True if `get_read_db` goes to another server than `get_db`."""
    return config.get_settings().DATABASE_REPLICA_URL is not None


def _forget_closed_loops() -> None:
    """Discard the engines of loops that were closed without a shutdown, and end their connections.

    `loop.close()` alone runs nothing. This runs at the next loop's first engine, so one closed loop may remain.
    """
    for loop in {*list(_engines), *list(_guards)}:
        if loop is None or not loop.is_closed():
            continue
        _engines.pop(loop, None)
        for _, engines in _guards.pop(loop, []):
            for made in engines.values():
                made.hang_up()


def _running_loop() -> _Loop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _until_shutdown(loop: _Loop, of_loop: dict[str, DatabaseEngine]) -> AsyncGenerator[None, None]:
    """Dispose of a loop's engines when the loop shuts its asynchronous generators down, as `asyncio.run` does."""
    try:
        yield
    finally:
        if _engines.get(loop) is of_loop:  # after `forget_settings` others may have come in their place
            del _engines[loop]
        _guards.pop(loop, None)
        await asyncio.gather(*(one.dispose() for one in of_loop.values()))


@functools.cache
def binding_of(kind: type[BindingT], purpose: Purpose = "application") -> BindingT:
    """Return how the settings have transactions bound to their tenants."""
    settings = config.get_settings()
    limits = transaction_limits(settings, purpose=purpose)
    return kind(settings.DATABASE_DEFAULT_TENANT, limits=limits, on_default_tenant=_default_tenant_log())


def tenant_binding() -> TenantBinding:
    """Return the binding of the sessions of `get_db`."""
    binding: TenantBinding = binding_of(TenantBinding)
    return binding


@functools.cache
def _default_tenant_log() -> DefaultTenantLog | None:
    """Return the log of uses of the default tenant; in development and test there is none, and the use is usual."""
    return None if config.get_settings().is_local else DefaultTenantLog()


def forget_settings() -> None:
    """Make the next engine and session read the settings again, for tests that change the environment."""
    config.get_settings.cache_clear()
    binding_of.cache_clear()
    _default_tenant_log.cache_clear()
    _engines.clear()
