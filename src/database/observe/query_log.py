"""Logs: every statement in development, slow ones anywhere, the same one many times in a unit of work, notices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from src.config import get_logger
from src.database.observe.callers import BINDING
from src.database.observe.plans import Plans
from src.database.observe.watcher import Call, Source, Watcher, name_of_error

if TYPE_CHECKING:
    import structlog

    from src.config import Settings

__all__ = ["Notices", "QueryLog", "RepeatLog", "log_watchers"]

MOST_OF_PARAMETERS: Final = 1000
"""Characters."""
# Of these the text names tables, settings and the like; of others it can quote data, or be a function's own.
_SPEAK_OF_NAMES: Final = ("25", "42")


def log_watchers(settings: Settings) -> list[Watcher]:
    """Return who writes the logs that the settings ask for."""
    found: list[Watcher] = []
    slow = settings.DATABASE_SLOW_QUERY_MS
    if settings.DATABASE_ECHO or slow:
        rules = LogRules(
            every=settings.DATABASE_ECHO,
            slow_seconds=slow / 1000 if slow else None,
            with_sql=settings.is_local,
            with_parameters=settings.DATABASE_LOG_PARAMETERS,
        )
        found.append(QueryLog(rules, plans=Plans() if settings.DATABASE_SLOW_QUERY_PLAN else None))
    if settings.DATABASE_REPEATED_QUERIES:
        found.append(RepeatLog(settings.DATABASE_REPEATED_QUERIES))
    if settings.DATABASE_LOG_NOTICES:
        found.append(Notices(with_text=settings.DATABASE_LOG_PARAMETERS))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRules:
    """What is written of which statements."""

    every: bool = False
    slow_seconds: float | None = None
    with_sql: bool = False
    with_parameters: bool = False


class QueryLog(Watcher):
    """A line a statement, or a slow one: its name, how long it took, its rows, and the line that sent it.

    Args:
        rules: What is written.
        plans: Who asks for the plan of a slow one.
    """

    def __init__(self, rules: LogRules, *, plans: Plans | None = None) -> None:
        self._rules = rules
        self._plans = plans
        self._log: structlog.stdlib.BoundLogger = get_logger(__name__)

    def joined(self, source: Source) -> None:
        if self._plans is not None:
            source.engine.close_with(self._plans.close)

    def answered(self, call: Call) -> None:
        slow = self._rules.slow_seconds
        if slow is not None and call.seconds >= slow:
            self._log.warning("slow_query", **self._fields(call))
            if self._plans is not None:
                self._plans.ask(call)
        elif self._rules.every:
            self._log.info("query", **self._fields(call))

    def _fields(self, call: Call) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "statement": call.place.name,
            "duration_ms": round(call.seconds * 1000, 1),
            "rows": call.rows,
            "caller": call.place.caller,
            "pool": call.source.name,
        }
        if call.error is not None:
            fields["error"] = name_of_error(call.error)
        if self._rules.with_sql:
            fields["sql"] = call.sql
        if self._rules.with_parameters:
            fields["parameters"] = repr(call.parameters)[:MOST_OF_PARAMETERS]
        return fields


class RepeatLog(Watcher):
    """One warning where a unit of work sends the same statement again and again: a loop in place of one query.

    Args:
        most: How often it may.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._log: structlog.stdlib.BoundLogger = get_logger(__name__)

    def answered(self, call: Call) -> None:
        if call.unit is None:
            return
        sent = call.unit.sent
        count = sent[call.sql] = sent.get(call.sql, 0) + 1
        if count == self._most + 1 and call.place.name != BINDING:
            place = call.place
            self._log.warning(
                "repeated_query", statement=place.name, more_than=self._most, caller=place.caller, pool=call.source.name
            )


class Notices(Watcher):
    """What the server says besides its answers: its kind and code, and the text where that names no data.

    Args:
        with_text: Write any text.
    """

    def __init__(self, *, with_text: bool = False) -> None:
        self._with_text = with_text
        self._log: structlog.stdlib.BoundLogger = get_logger(__name__)

    def opened(self, source: Source, connection: asyncpg.Connection[Any]) -> None:
        def hear(_connection: Any, notice: asyncpg.PostgresLogMessage) -> None:
            sqlstate = getattr(notice, "sqlstate", None)
            is_told = self._with_text or str(sqlstate).startswith(_SPEAK_OF_NAMES)
            fields = {"severity": getattr(notice, "severity", None), "sqlstate": sqlstate, "pool": source.name}
            self._log.warning("server_notice", **fields, **({"text": notice.args[0]} if is_told else {}))

        connection.add_log_listener(hear)
