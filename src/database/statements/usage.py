"""Sum the messages and tokens of a tenant by user, conversation, model and day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, Literal, get_args
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, Date, DateTime, Interval, Select, cast, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY

from src.database.base import UtcDateTime, check_aware, check_id
from src.database.calendar import check_timezone, zone_offsets
from src.database.models import MessageHistory
from src.database.session import AsyncSession
from src.database.statements.pagination import check_limit
from src.database.statements.windows import among_many

UsageBy = Literal["user", "conversation", "model", "day"]

_COUNTED: Final = ("input_tokens", "output_tokens", "token_count")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The sums over a group of messages. Attributes that were not grouped by are None, and so is an unknown model."""

    messages: int
    input_tokens: int
    output_tokens: int
    token_count: int
    user_id: UUID | None = None
    conversation_id: UUID | None = None
    model: str | None = None
    day: date | None = None


async def sum_usage(
    session: AsyncSession,
    of: Mapping[str, UUID | None],
    *,
    since: datetime | None,
    until: datetime | None,
    by: Sequence[UsageBy],
    timezone: str,
    include_deleted: bool,
    limit: int,
) -> list[Usage]:
    """Sum the messages of an interval, of a user and a conversation (`of`); see `MessageHistoryRepository.usage`."""
    check_limit(limit)
    check_timezone(timezone)
    ids = {name: row_id for name, row_id in of.items() if row_id is not None}
    if not ids and since is None:
        raise ValueError(
            "usage must be narrowed by at least one of `user_id`, `conversation_id` and `since`, got none of them"
        )
    for name, row_id in ids.items():
        check_id(name, row_id)
    messages = _all_messages(session) if include_deleted else among_many((MessageHistory,), session.tenant_id)
    messages = messages.filter_by(**ids)
    if since is not None:
        check_aware("since", since)
        messages = messages.where(MessageHistory.created_at >= since)
    if until is not None:
        check_aware("until", until)
        messages = messages.where(MessageHistory.created_at < until)
    groups = _groups(by, timezone, since, until)
    counted = [getattr(MessageHistory, name) for name in _COUNTED]
    sums = [func.coalesce(func.sum(column, type_=BigInteger), 0).label(column.key) for column in counted]
    statement = messages.with_only_columns(*groups, func.count().label("messages"), *sums)
    # By name: repeated in GROUP BY, the expression of the day would have parameters of its own, and PostgreSQL would
    # not recognize the expression of the select list.
    names = [group.name for group in groups]
    rows = await session.execute(statement.group_by(*names).order_by(*names).limit(limit))
    return [Usage(**row) for row in rows.mappings()]


def _all_messages(session: AsyncSession) -> Select[Any]:
    return select(MessageHistory).where(MessageHistory.tenant_id == session.tenant_id)


def _groups(by: Sequence[str], timezone: str, since: datetime | None, until: datetime | None) -> list[Any]:
    for name in by:
        if name not in get_args(UsageBy):
            raise ValueError(f"`by` must be a list of {', '.join(get_args(UsageBy))}, got {name!r}")
    columns: dict[str, Any] = {
        "user": MessageHistory.user_id.label("user_id"),
        "conversation": MessageHistory.conversation_id.label("conversation_id"),
        "model": MessageHistory.model.label("model"),
    }
    if "day" in by:
        columns["day"] = _local_day(timezone, since, until).label("day")
    return [columns[name] for name in dict.fromkeys(by)]


def _local_day(timezone: str, since: datetime | None, until: datetime | None) -> ColumnElement[date]:
    """Return the local day of a message.

    The offsets of the zone are parameters: the zone data of the server may be of another release than the package's.
    """
    starts, offsets = zone_offsets(timezone, since, until)
    utc = func.timezone("UTC", MessageHistory.created_at, type_=DateTime())
    if not starts:
        return cast(utc + literal(offsets[0], Interval()), Date)
    place = func.width_bucket(MessageHistory.created_at, literal(starts, ARRAY(UtcDateTime())))
    every = func.coalesce(literal(offsets, ARRAY(Interval())), type_=ARRAY(Interval()))
    return cast(utc + every[place + 1], Date)
