"""The engines of each event loop, and how the settings bind their transactions."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

import asyncpg

from src import config
from src.config.profiles import Purpose
from src.database.engine import DatabaseEngine
from src.database.errors import ConfigurationError
from src.database.observability import DefaultTenantLog, use_settings_alone, watch
from src.database.session.binding import TenantBinding
from src.database.session.replacement import check_not_replaced
from src.database.session.targets import create_engine, transaction_limits

_Loop = asyncio.AbstractEventLoop
BindingT = TypeVar("BindingT", bound=TenantBinding)

DEFAULT: Final = "default"
READING: Final = "read"
_POOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")


class _LoopEngines:
    """The engines of one event loop.

    Attributes:
        by_name: The engines in use.
        forgotten: The engines of earlier settings: sessions may still use them.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, DatabaseEngine] = {}
        self.forgotten: list[DatabaseEngine] = []
        self._guard: AsyncGenerator[None, None] | None = None

    @property
    def all(self) -> list[DatabaseEngine]:
        """Every engine that was created on the loop."""
        return [*self.by_name.values(), *self.forgotten]

    def dispose_with(self, loop: _Loop) -> None:
        """Register the engines for disposal when the running loop shuts down its asynchronous generators."""

        async def dispose() -> None:
            _loops.pop(loop, None)
            await asyncio.gather(*(engine.dispose() for engine in self.all))

        self._guard = call_at_shutdown(dispose)


def call_at_shutdown(finish: Callable[[], Awaitable[None]]) -> AsyncGenerator[None, None]:
    """Register a function that runs when the running loop shuts down its asynchronous generators.

    asyncio has no hook for the end of a loop. `asyncio.run` calls `shutdown_asyncgens`, which closes every generator
    that was started on the loop and still exists: so the caller keeps a reference to the generator that this returns.
    """

    async def until_shutdown() -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await finish()

    guard = until_shutdown()
    with suppress(StopIteration):  # it runs to its `yield`, which registers it with the loop
        guard.asend(None).send(None)
    return guard


_loops: Final[dict[_Loop | None, _LoopEngines]] = {}
"""A connection works only on the event loop that opened it. None: engines created while no loop runs."""


def get_engine(name: str) -> DatabaseEngine:
    """Return the engine of this name for the running event loop, with a pool of its own; create it if necessary.

    For work that must neither wait for the connections of `get_db` nor use them up: a web framework's session store, a
    queue. Each pool has the size that the settings name; the sum of all pools has to fit into the server.

    Args:
        name: The name of the pool in errors, and a part of the server's `application_name`:
            ``<service>/<environment>/<name>/<process>``.

    Raises:
        ConfigurationError: The name is not 1 to 32 letters, digits, dashes and underscores, or `get_db` or
            `get_read_db` uses the name.

    Example:
        async with get_engine("reports").connect() as connection:
            await connection.execute(text("SELECT 1"))
        await get_engine("reports").dispose()
    """
    if name in {DEFAULT, READING}:
        raise ConfigurationError(f"a pool's name must not be {name!r}: get_db and get_read_db use it")
    return engine_of_loop(name)


def engine_of_loop(name: str) -> DatabaseEngine:
    """Return an engine of the running event loop; create it if necessary."""
    check_not_replaced(name)
    loop = _running_loop()
    engines = _loops.get(loop)
    if engines is None:
        _discard_closed_loops()
        engines = _loops[loop] = _LoopEngines()
        if loop is not None:
            engines.dispose_with(loop)
    if name not in engines.by_name:
        if not _POOL_NAME.fullmatch(name):
            raise ConfigurationError(f"a pool's name must be 1 to 32 letters, digits, - and _, got {name!r}")
        settings = config.get_settings()
        purpose: Purpose = "reading" if name == READING else "application"
        engines.by_name[name] = watch(create_engine(settings, purpose=purpose, name=name), settings, name=name)
    return engines.by_name[name]


def engines_of_loop() -> dict[str, DatabaseEngine]:
    """Return the engines of the running event loop by their names; create none."""
    engines = _loops.get(_running_loop())
    return {} if engines is None else dict(engines.by_name)


async def open_connection(*, reading: bool = False) -> asyncpg.Connection[Any]:
    """Open a driver connection to the database of `get_db`, outside of any pool; the caller closes it.

    Args:
        reading: Connect to the database of `get_read_db`.

    Raises:
        ConnectionFailed: The database cannot be reached.
        ConfigurationError: The server or the role is not one that the settings permit.
    """
    return await engine_of_loop(READING if reading else DEFAULT).open_connection()


def has_replica() -> bool:
    """Return True if `get_read_db` connects to another server than `get_db`."""
    return config.get_settings().DATABASE_REPLICA_URL is not None


@functools.cache
def binding_of(kind: type[BindingT], purpose: Purpose = "application") -> BindingT:
    """Return the binding of a class, with the default tenant and the limits of the settings."""
    settings = config.get_settings()
    return kind(
        settings.DATABASE_DEFAULT_TENANT,
        limits=transaction_limits(settings, purpose=purpose),
        # In development and test the use of the default tenant is usual, and not logged.
        on_default_tenant=None if settings.is_local else DefaultTenantLog(),
    )


def tenant_binding() -> TenantBinding:
    """Return the binding of the sessions of `get_db`."""
    binding: TenantBinding = binding_of(TenantBinding)
    return binding


def forget_settings() -> None:
    """Make the next engine and session read the settings again.

    Engines that were created before are disposed of when their event loop shuts down.
    """
    config.get_settings.cache_clear()
    binding_of.cache_clear()
    _loops.pop(None, None)
    for engines in _loops.values():
        engines.forgotten += engines.by_name.values()
        engines.by_name.clear()


def dispose_engines() -> None:
    """Dispose of the engines of event loops that are neither running nor closed.

    An example is the loop of a test that has ended.
    """
    for loop, engines in list(_loops.items()):
        if loop is not None and not loop.is_closed() and not loop.is_running():
            del _loops[loop]
            loop.run_until_complete(asyncio.gather(*(engine.dispose() for engine in engines.all)))


def reset_process_state() -> None:
    """Discard what this package keeps in the process and tests can change; docs/process-state.md lists it."""
    forget_settings()
    use_settings_alone()


def _running_loop() -> _Loop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _discard_closed_loops() -> None:
    """Discard the engines of loops that were closed without a shutdown, and end their connections.

    `loop.close()` alone runs no code of ours. This runs when the next loop creates its first engine, so the engines of
    one closed loop may remain.
    """
    for loop in list(_loops):
        if loop is not None and loop.is_closed():
            for engine in _loops.pop(loop).all:
                engine.shut_down_sockets()
