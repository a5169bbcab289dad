"""Events: what is ahead, what overlaps, and what a user's calendar shows, series expanded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select, union_all

from src.database.base import LAST_INSTANT, check_aware, utc_now
from src.database.models import Event
from src.database.pagination import check_limit
from src.database.regional import check_timezone
from src.database.repositories.event_changes import EventChanges
from src.database.repositories.recurrence import Occurrence, Series, check_interval, check_window, check_year
from src.database.repositories.recurrence_rule import check_rrule

__all__ = ["EventRepository", "Occurrence"]


class EventRepository(EventChanges):
    """The events of the acting tenant.

    One with an `rrule` is a series, and its row the first occurrence. A changed occurrence is a row of its own, with
    `series_id` and, as `recurrence_id`, the start that it has by the rule; `exdates` are such starts that are left out.
    What enters is checked: the zone, and the rule (`check_rrule` in `recurrence_rule` says what it may be). Where only
    the `reminder_offset` is given, the reminder's time comes from that.
    """

    async def upcoming(
        self, user_id: UUID, *, now: datetime | None = None, within: timedelta | None = None, limit: int = 50
    ) -> list[Event]:
        """Return a user's scheduled events that have yet to begin, the next one first; a series by its start.

        Args:
            user_id: Whose.
            now: From when on; by default the present.
            within: How far ahead to look.
            limit: At most so many.
        """
        check_limit(limit)
        now = now or utc_now()
        statement = self._select(Event.user_id == user_id, Event.status == "scheduled", Event.start_datetime >= now)
        if within is not None:
            check_aware("now", now)
            if within > LAST_INSTANT - now:
                raise ValueError(f"within must not lead beyond the year 9999, got {within.days} days from {now}")
            statement = statement.where(Event.start_datetime < now + within)
        return list(await self.session.scalars(statement.order_by(Event.start_datetime, Event.id).limit(limit)))

    async def overlapping(self, user_id: UUID, start: datetime, end: datetime, *, limit: int = 1000) -> list[Event]:
        """Return a user's single events and changed occurrences that overlap an interval, the earliest first.

        What was cancelled does not count. `occurrences` has those of series too.

        Args:
            user_id: Whose.
            start: From.
            end: Until, not included. An event without an end is an instant.
            limit: At most so many.

        Raises:
            ValueError: A bound is naive, or the end is not after the start.
        """
        check_limit(limit)
        check_interval(start, end)
        statement = union_all(*self._overlapping(user_id, start, end, limit)).order_by("start_datetime", "id")
        return list(await self.session.scalars(select(Event).from_statement(statement.limit(limit))))

    async def occurrences(
        self, user_id: UUID, start: datetime, end: datetime, *, limit: int = 1000
    ) -> list[Occurrence]:
        """Return what a user has in an interval, the earliest first: single events, and series expanded (RFC 5545).

        Series go by the clock on the wall of their zone: what is at nine stays at nine when the clocks change.

        Args:
            user_id: Whose.
            start: From.
            end: Until, not included; at most ten years later. An event without an end is an instant.
            limit: At most so many.

        Raises:
            ValueError: A bound is naive or not between the years 1900 and 2199, the end is not after the start, or more
                than ten years after it.
        """
        check_limit(limit)
        check_window(start, end)
        series = self._select(
            Event.user_id == user_id,
            Event.rrule.is_not(None),
            Event.status != "cancelled",
            Event.start_datetime < end,
        )
        statement = union_all(*self._overlapping(user_id, start, end, limit), series)
        rows = list(await self.session.scalars(select(Event).from_statement(statement)))
        found = [
            Occurrence(row, row.start_datetime, row.end_datetime, row.recurrence_id, row.series_id is not None)
            for row in rows
            if row.rrule is None
        ]
        found += await self._expand([Series(row) for row in rows if row.rrule is not None], start, end, limit)
        return sorted(found, key=lambda one: (one.start, one.event.id))[:limit]

    async def _expand(self, every: Sequence[Series], start: datetime, end: datetime, limit: int) -> list[Occurrence]:
        current = [one for one in every if not one.is_over(start)]
        if not current:
            return []
        since = start - max(one.duration or timedelta() for one in current)
        replaced = await self._replaced([one.event.id for one in current], since=since, until=end)
        return [
            Occurrence(one.event, slot.start, slot.end, slot.start, is_exception=False)
            for one in current
            for slot in one.earliest(start, end, replaced=replaced.get(one.event.id, ()), limit=limit)
        ]

    def _overlapping(self, user_id: UUID, start: datetime, end: datetime, limit: int) -> list[Select[Any]]:
        """Ask for what begins in the interval, and for what began before and has not ended: an index serves each."""
        single = self._select(Event.user_id == user_id, Event.rrule.is_(None), Event.status != "cancelled")
        begins = single.where(Event.start_datetime >= start, Event.start_datetime < end)
        goes_on = single.where(Event.start_datetime < start, Event.end_datetime > start)
        return [one.order_by(Event.start_datetime, Event.id).limit(limit) for one in (begins, goes_on)]

    async def add_many(self, rows: Sequence[Event]) -> list[Event]:
        """Insert events, as `Repository.add_many` does; a changed occurrence is of a series of its own user.

        Raises:
            ValueError: A zone or a rule cannot be right, or a series is none of the user's.
        """
        self._check_rows(rows)
        series_ids = {row.series_id for row in rows if row.series_id is not None}
        if series_ids:
            of_series = self._select(Event.id.in_(series_ids)).with_only_columns(Event.id, Event.user_id)
            owners: dict[UUID, UUID] = dict(iter(await self.session.execute(of_series)))
            if any(row.series_id is not None and owners.get(row.series_id) != row.user_id for row in rows):
                raise ValueError("series_id must be that of a series of the same user")
        return await super().add_many(rows)

    def _check_rows(self, rows: Sequence[Event]) -> None:
        super()._check_rows(rows)
        for row in rows:
            _check_values({"timezone": row.timezone, "rrule": row.rrule, "all_day": bool(row.all_day)})
            if row.rrule is not None and row.series_id is not None:
                raise ValueError("a changed occurrence must have no rrule of its own: its series has it")
            if row.rrule is not None:
                check_year("start_datetime", row.start_datetime)
            if row.reminder_offset is not None and row.reminder_datetime is None:
                row.reminder_datetime = row.start_datetime - timedelta(seconds=row.reminder_offset)

    def _check_attributes(self, values: Mapping[str, Any]) -> None:
        super()._check_attributes(values)
        _check_values(values)


def _check_values(values: Mapping[str, Any]) -> None:
    if values.get("timezone") is not None:
        check_timezone(values["timezone"])
    if values.get("rrule") is not None:
        check_rrule(values["rrule"], all_day=values.get("all_day"))
