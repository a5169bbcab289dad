"""Events: what is ahead, what overlaps, and what a user's calendar shows, series expanded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Select, bindparam, select, union_all

from src.database.base import utc_now
from src.database.models import Event
from src.database.pagination import check_limit
from src.database.repositories.base import Condition
from src.database.repositories.event_entries import EventEntries
from src.database.repositories.recurrence import Occurrence, Series
from src.database.repositories.recurrence_bounds import LATEST, check_instant, check_interval, check_window

__all__ = ["EventRepository", "Occurrence"]


class EventRepository(EventEntries):
    """The events of the acting tenant.

    One with an `rrule` is a series, and its row the first occurrence. A changed occurrence is a row of its own, with
    `series_id` and, as `recurrence_id`, the start that it has by the rule; `exdates` are such starts that are left out.
    What enters is checked, beside what is there: instants, the zone, and the rule (`check_rrule` in `recurrence_rule`
    says what it may be).
    """

    async def upcoming(
        self, user_id: UUID, *, now: datetime | None = None, within: timedelta | None = None, limit: int = 50
    ) -> list[Event]:
        """Return a user's scheduled events that have yet to begin, the next one first: rows, a series by its own start.

        A series that has begun is not among them, whatever it has ahead: `occurrences(user_id, now, now + within)`
        shows what a calendar does.

        Args:
            user_id: Whose.
            now: From when on; by default the present.
            within: How far ahead to look; by default, and from the end of the calendar on, at all that is to come.
            limit: At most so many.

        Raises:
            ValueError: The limit is not from 1 to 1000, or `now` is no instant.
        """
        check_limit(limit)
        now = now or utc_now()
        check_instant("now", now)
        ahead: dict[str, Any] = {"user_id": user_id, "now": now, "limit": limit}
        if within is None or within > LATEST - now:
            return await self._all(EventRepository._upcoming, **ahead)
        return await self._all(EventRepository._upcoming_until, **ahead, until=now + within)

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
        found: list[Occurrence] = []
        for one in current:
            slots = one.earliest(start, end, replaced=replaced.get(one.event.id, ()), limit=limit)
            found += [Occurrence(one.event, slot.start, slot.end, slot.start, is_exception=False) for slot in slots]
            await asyncio.sleep(0)  # hundreds of series must not keep all others from their turn
        return found

    def _overlapping(self, user_id: UUID, start: datetime, end: datetime, limit: int) -> list[Select[Any]]:
        """Ask for what begins in the interval, and for what began before and has not ended: an index serves each."""
        single = self._select(Event.user_id == user_id, Event.rrule.is_(None), Event.status != "cancelled")
        begins = single.where(Event.start_datetime >= start, Event.start_datetime < end)
        goes_on = single.where(Event.start_datetime < start, Event.end_datetime > start)
        return [one.order_by(Event.start_datetime, Event.id).limit(limit) for one in (begins, goes_on)]

    def _upcoming(self, *where: Condition) -> Select[Any]:
        of_user = (Event.user_id == bindparam("user_id"), Event.status == "scheduled")
        ahead = self._select(*of_user, Event.start_datetime >= bindparam("now"), *where)
        return ahead.order_by(Event.start_datetime, Event.id).limit(bindparam("limit"))

    def _upcoming_until(self) -> Select[Any]:
        return self._upcoming(Event.start_datetime < bindparam("until"))
