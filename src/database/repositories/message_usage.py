"""What was used: messages and tokens, by user, conversation, model and day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, Literal, get_args
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, Date, DateTime, Interval, cast, func, literal
from sqlalchemy.dialects.postgresql import ARRAY

from src.database.base import UtcDateTime, check_aware
from src.database.models import MessageHistory
from src.database.pagination import check_limit
from src.database.regional import check_timezone
from src.database.repositories.message_rows import MessageRows
from src.database.statements import windows
from src.database.zones import zone_offsets

__all__ = ["MessageUsage", "Usage"]

UsageBy = Literal["user", "conversation", "model", "day"]

_KNOWN: Final = get_args(UsageBy)
_COUNTED: Final = ("input_tokens", "output_tokens", "token_count")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Sums over the messages of a group; what it was not grouped by is None, and so is a model that nobody named."""

    messages: int
    input_tokens: int
    output_tokens: int
    token_count: int
    user_id: UUID | None = None
    conversation_id: UUID | None = None
    model: str | None = None
    day: date | None = None


class MessageUsage(MessageRows):
    """What the acting tenant's messages add up to."""

    async def usage(
        self,
        *,
        user_id: UUID | None = None,
        conversation_id: UUID | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        by: Sequence[UsageBy] = (),
        timezone: str = "UTC",
        include_deleted: bool = False,
        limit: int = 1000,
    ) -> list[Usage]:
        """Add messages and tokens up, by the time at which the messages were said.

        Args:
            user_id: Only this user's.
            conversation_id: Only this conversation's.
            since: From then on.
            until: Before then.
            by: What to group by: `user`, `conversation`, `model`, `day`; by nothing there is one row.
            timezone: The IANA zone that the days are of, by the packaged zone data.
            include_deleted: Soft-deleted messages too, and deleted conversations': what was spent is spent. What
                was purged is gone.
            limit: At most so many groups, 1 to 1000.

        Returns:
            The groups, in the order of what they are grouped by; a model that nobody named is last.

        Raises:
            ValueError: There is no user, no conversation and no `since`, which would read all that the tenant has; or
                a group, the zone, a datetime or the limit cannot serve.
        """
        check_limit(limit)
        check_timezone(timezone)
        if user_id is None and conversation_id is None and since is None:
            raise ValueError("usage must be narrowed by user_id, conversation_id or since, got none of them")
        statement = (
            self._select(include_deleted=True)
            if include_deleted
            else windows.among_many((MessageHistory,), self.session.tenant_id)
        )
        if user_id is not None:
            statement = statement.where(MessageHistory.user_id == user_id)
        if conversation_id is not None:
            statement = statement.where(MessageHistory.conversation_id == conversation_id)
        if since is not None:
            check_aware("since", since)
            statement = statement.where(MessageHistory.created_at >= since)
        if until is not None:
            check_aware("until", until)
            statement = statement.where(MessageHistory.created_at < until)
        groups = _groups(by, timezone, since, until)
        sums = [func.coalesce(func.sum(getattr(MessageHistory, name), type_=BigInteger), 0) for name in _COUNTED]
        statement = statement.with_only_columns(
            *groups,
            func.count().label("messages"),
            *(one.label(name) for one, name in zip(sums, _COUNTED, strict=True)),
        )
        names = [group.name for group in groups]  # by name: the offsets are parameters, and may not be sent twice
        rows = await self.session.execute(statement.group_by(*names).order_by(*names).limit(limit))
        return [Usage(**row) for row in rows.mappings()]


def _groups(by: Sequence[str], timezone: str, since: datetime | None, until: datetime | None) -> list[Any]:
    for name in by:
        if name not in _KNOWN:
            raise ValueError(f"by must be of {', '.join(_KNOWN)}, got {name!r}")
    columns: dict[str, Any] = {
        "user": MessageHistory.user_id.label("user_id"),
        "conversation": MessageHistory.conversation_id.label("conversation_id"),
        "model": MessageHistory.model.label("model"),
    }
    if "day" in by:
        columns["day"] = _local_day(timezone, since, until).label("day")
    return [columns[name] for name in dict.fromkeys(by)]


def _local_day(timezone: str, since: datetime | None, until: datetime | None) -> ColumnElement[date]:
    """Return the local day of a message: the zone's offsets come from here, and the server adds the one in force."""
    starts, offsets = zone_offsets(timezone, since, until)
    utc = func.timezone("UTC", MessageHistory.created_at, type_=DateTime())
    if not starts:
        return cast(utc + literal(offsets[0], Interval()), Date)
    place = func.width_bucket(MessageHistory.created_at, literal(starts, ARRAY(UtcDateTime())))
    every = func.coalesce(literal(offsets, ARRAY(Interval())), type_=ARRAY(Interval()))
    return cast(utc + every[place + 1], Date)
