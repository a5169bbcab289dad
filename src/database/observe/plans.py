"""The plan of a slow statement: asked for afterwards, on a connection of its own, and shown without a value in it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any, Final

import asyncpg

from src.config import get_logger
from src.database.connect import DRIVER_ERRORS
from src.database.errors import DatabaseError
from src.database.observe.callers import BINDING
from src.database.observe.watcher import Call, name_of_error

__all__ = ["Plans"]

PLAN_SECONDS: Final = 5.0
"""How long asking may take, the connection included."""
AGAIN_SECONDS: Final = 60.0
"""How long the same statement's plan is not asked for again."""
MOST_REMEMBERED: Final = 500
CLOSE_SECONDS: Final = 1.0

_PLANNED: Final = {"SELECT", "WITH", "INSERT", "UPDATE", "DELETE", "MERGE"}
_NAME: Final = "thea_slow_query"
_COUNT: Final = "SELECT cardinality(parameter_types) FROM pg_catalog.pg_prepared_statements WHERE name = $1"


class Plans:
    """Asks one at a time, each statement once a minute; where the server is busy that is one connection more.

    What is shown is the plan's steps, with their tables and indexes: conditions can quote what somebody wrote.
    """

    def __init__(self) -> None:
        self._asked: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def ask(self, call: Call) -> None:
        """Have the plan be asked for and logged, unless it was just now or another is."""
        now = time.monotonic()
        if self._task is not None and not self._task.done():
            return
        if (
            call.error is not None
            or call.place.name == BINDING
            or call.sql.split(maxsplit=1)[0].upper() not in _PLANNED
        ):
            return
        if now - self._asked.get(call.sql, -AGAIN_SECONDS) < AGAIN_SECONDS:
            return
        if len(self._asked) >= MOST_REMEMBERED:
            self._asked.clear()
        self._asked[call.sql] = now
        self._task = asyncio.get_running_loop().create_task(self._log(call, call.place.name))

    async def close(self) -> None:
        """Stop asking."""
        if self._task is not None and self._task.cancel():
            await asyncio.wait([self._task])

    async def _log(self, call: Call, name: str) -> None:
        log = get_logger(__name__)
        try:
            async with asyncio.timeout(PLAN_SECONDS):
                connection = await call.source.engine.open_connection()
                try:
                    plan = await _explain(connection, call.sql)
                    await connection.close(timeout=CLOSE_SECONDS)
                finally:
                    connection.terminate()  # where it is not closed
        except (*DRIVER_ERRORS, DatabaseError) as error:
            log.warning("slow_query_plan", statement=name, plan=None, reason=name_of_error(error))
        else:
            log.warning("slow_query_plan", statement=name, plan="\n".join(_lines(plan, 0)))


async def _explain(connection: asyncpg.Connection[Any], sql: str) -> dict[str, Any]:
    """Return the plan that serves any parameters: `EXPLAIN (GENERIC_PLAN)` takes none that the driver has to send.

    On the way to it nothing is carried out, and through a pooler all of it goes to one server, which is left as it was;
    where something fails, the caller drops the connection in the middle, and the pooler its server's.
    """
    await connection.execute("BEGIN READ ONLY; SET LOCAL plan_cache_mode = force_generic_plan")
    await connection.fetch(f"PREPARE {_NAME} AS {sql}")  # not `execute`, which would take several statements
    count = await connection.fetchval(_COUNT, _NAME)
    values = f"({', '.join(['NULL'] * count)})" if count else ""
    found = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE {_NAME}{values}")
    await connection.execute(f"DEALLOCATE {_NAME}; COMMIT")
    plan: dict[str, Any] = json.loads(found)[0]["Plan"]
    return plan


def _lines(step: dict[str, Any], depth: int) -> Iterator[str]:
    """Say each step as `EXPLAIN` does, but for its conditions."""
    by = f" using {step['Index Name']}" if "Index Name" in step else ""
    on = f" on {step['Relation Name']}" if "Relation Name" in step else ""
    cost = f"cost={step['Startup Cost']:.2f}..{step['Total Cost']:.2f} rows={step['Plan Rows']}"
    yield f"{'  ' * depth}{step['Node Type']}{by}{on} ({cost})"
    for below in step.get("Plans", ()):
        yield from _lines(below, depth + 1)
