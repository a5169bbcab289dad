"""Logs of statements: all, slow ones with their plan, repeated ones; and the server's notices."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from src.config import get_logger
from src.database.connect import DRIVER_ERRORS
from src.database.errors import DatabaseError
from src.database.observability.observers import Call, Observer, Source, name_of_error
from src.database.observability.statement_names import BINDING

if TYPE_CHECKING:
    from src.config import Settings

MOST_OF_PARAMETERS: Final = 1000
"""Characters."""
# Classes of SQLSTATEs whose texts contain names of tables, columns and settings alone. Other texts can quote values, or
# are written by a function.
_WITHOUT_DATA: Final = ("25", "42")
PLAN_SECONDS: Final = 5.0
"""The time limit of one query for a plan, with its connection."""
AGAIN_SECONDS: Final = 60.0
"""The time in which the plan of the same statement is not queried again."""
MOST_REMEMBERED: Final = 500
"""The most statements whose last plan is remembered."""
CLOSE_SECONDS: Final = 1.0

_PLANNED: Final = {"SELECT", "WITH", "INSERT", "UPDATE", "DELETE", "MERGE"}
_NAME: Final = "thea_slow_query"
_COUNT: Final = "SELECT cardinality(parameter_types) FROM pg_catalog.pg_prepared_statements WHERE name = $1"


def log_observers(settings: Settings) -> list[Observer]:
    """Return the observers for the logs that the settings switch on."""
    observers: list[Observer] = []
    slow = settings.DATABASE_SLOW_QUERY_MS
    if settings.DATABASE_ECHO or slow:
        query_log = QueryLog(
            every=settings.DATABASE_ECHO,
            slow_seconds=slow / 1000 if slow else None,
            with_sql=settings.is_local,
            with_parameters=settings.DATABASE_LOG_PARAMETERS,
            plans=Plans() if settings.DATABASE_SLOW_QUERY_PLAN else None,
        )
        observers.append(query_log)
    if settings.DATABASE_REPEATED_QUERIES:
        observers.append(RepeatLog(settings.DATABASE_REPEATED_QUERIES))
    if settings.DATABASE_LOG_NOTICES:
        observers.append(Notices(with_text=settings.DATABASE_LOG_PARAMETERS))
    return observers


@dataclass(eq=False, kw_only=True)
class QueryLog(Observer):
    """Logs a line for each statement, or each slow one: name, duration, rows, and the line of the service.

    Args:
        every: Log every statement.
        slow_seconds: Log a statement that takes this long or longer as slow; None switches this off.
        with_sql: Log the SQL.
        with_parameters: Log the values of the parameters.
        plans: Logs the plan of a slow statement; None switches this off.
    """

    every: bool
    slow_seconds: float | None
    with_sql: bool
    with_parameters: bool
    plans: Plans | None

    def joined(self, source: Source) -> None:
        if self.plans is not None:
            source.engine.close_with(self.plans.close)

    def answered(self, call: Call) -> None:
        if self.slow_seconds is not None and call.seconds >= self.slow_seconds:
            get_logger(__name__).warning("slow_query", **self._fields(call))
            if self.plans is not None:
                self.plans.start(call)
        elif self.every:
            get_logger(__name__).info("query", **self._fields(call))

    def _fields(self, call: Call) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "statement": call.origin.name,
            "duration_ms": round(call.seconds * 1000, 1),
            "rows": call.rows,
            "caller": call.origin.caller,
            "pool": call.source.name,
        }
        if call.error is not None:
            fields["error"] = name_of_error(call.error)
        if self.with_sql:
            fields["sql"] = call.sql
        if self.with_parameters:
            fields["parameters"] = repr(call.parameters)[:MOST_OF_PARAMETERS]
        return fields


class RepeatLog(Observer):
    """Logs one warning if a unit of work sends the same statement many times: a loop in place of one query.

    Args:
        most: How often a unit of work may send the same statement.
    """

    def __init__(self, most: int) -> None:
        self._most = most

    def answered(self, call: Call) -> None:
        if call.unit is None:
            return
        sent = call.unit.sent
        count = sent[call.sql] = sent.get(call.sql, 0) + 1
        if count == self._most + 1 and call.origin.name != BINDING:
            origin = call.origin
            get_logger(__name__).warning(
                "repeated_query",
                statement=origin.name,
                more_than=self._most,
                caller=origin.caller,
                pool=call.source.name,
            )


class Notices(Observer):
    """Logs the server's notices: severity and SQLSTATE, and the text if it cannot contain data.

    Args:
        with_text: Log the text of every notice.
    """

    def __init__(self, *, with_text: bool = False) -> None:
        self._with_text = with_text

    def opened(self, source: Source, connection: asyncpg.Connection[Any]) -> None:
        def log(_connection: Any, notice: asyncpg.PostgresLogMessage) -> None:
            sqlstate = getattr(notice, "sqlstate", None)
            fields = {"severity": getattr(notice, "severity", None), "sqlstate": sqlstate, "pool": source.name}
            if self._with_text or str(sqlstate).startswith(_WITHOUT_DATA):
                fields["text"] = notice.args[0]
            get_logger(__name__).warning("server_notice", **fields)

        connection.add_log_listener(log)


class Plans:
    """Queries and logs plans, one at a time and each statement's once a minute, on a connection of its own.

    The log contains the steps of the plan with their tables and indexes, without conditions, which can contain data.
    """

    def __init__(self) -> None:
        self._queried: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self, call: Call) -> None:
        """Start a task that logs the plan of a statement, unless another runs or the plan was logged a minute ago."""
        now = time.monotonic()
        if self._task is not None and not self._task.done():
            return
        if (
            call.error is not None
            or call.origin.name == BINDING
            or call.sql.split(maxsplit=1)[0].upper() not in _PLANNED
        ):
            return
        if now - self._queried.get(call.sql, -AGAIN_SECONDS) < AGAIN_SECONDS:
            return
        if len(self._queried) >= MOST_REMEMBERED:
            self._queried.clear()
        self._queried[call.sql] = now
        self._task = asyncio.get_running_loop().create_task(self._log(call, call.origin.name))

    async def close(self) -> None:
        """Cancel the task."""
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
                    connection.terminate()  # does nothing if the connection is closed
        except (*DRIVER_ERRORS, DatabaseError) as error:
            log.warning("slow_query_plan", statement=name, plan=None, reason=name_of_error(error))
        else:
            log.warning("slow_query_plan", statement=name, plan="\n".join(_lines(plan, 0)))


async def _explain(connection: asyncpg.Connection[Any], sql: str) -> dict[str, Any]:
    """Return the generic plan of a statement, which holds for any values of its parameters; do not execute it.

    `EXPLAIN (GENERIC_PLAN)` of PostgreSQL 16 cannot be used: the extended protocol, which the driver uses, expects
    values for its parameters. Behind a transaction pooler, one transaction keeps all statements on one server
    connection. After a failure the caller drops the connection.
    """
    await connection.execute("BEGIN READ ONLY; SET LOCAL plan_cache_mode = force_generic_plan")
    await connection.fetch(f"PREPARE {_NAME} AS {sql}")  # not `execute`, which accepts several statements
    count = await connection.fetchval(_COUNT, _NAME)
    values = f"({', '.join(['NULL'] * count)})" if count else ""
    explained = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE {_NAME}{values}")
    await connection.execute(f"DEALLOCATE {_NAME}; COMMIT")
    plan: dict[str, Any] = json.loads(explained)[0]["Plan"]
    return plan


def _lines(step: dict[str, Any], depth: int) -> Iterator[str]:
    """Yield a line for each step, as `EXPLAIN` does, without the conditions."""
    by = f" using {step['Index Name']}" if "Index Name" in step else ""
    on = f" on {step['Relation Name']}" if "Relation Name" in step else ""
    cost = f"cost={step['Startup Cost']:.2f}..{step['Total Cost']:.2f} rows={step['Plan Rows']}"
    yield f"{'  ' * depth}{step['Node Type']}{by}{on} ({cost})"
    for below in step.get("Plans", ()):
        yield from _lines(below, depth + 1)
