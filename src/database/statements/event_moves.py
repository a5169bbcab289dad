"""Move and cancel events: a single event, an occurrence of a series, it and all that follow, or a whole series.

A changed occurrence is a row of its own, with `series_id` and its original start (`recurrence_id`). It moves with its
series, and is cancelled with it. Each function locks the rows that it changes first, a series before its changed
occurrences, so that two writers run one after the other and never deadlock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, Literal, get_args
from uuid import UUID

from sqlalchemy import Interval, TableValuedAlias, column, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import aliased

from src.database.calendar import (
    MAX_COUNT,
    Rule,
    Series,
    Slot,
    check_rrule,
    get_zone,
    has_first,
    lasting,
    parse_rrule,
    to_instant,
    to_wall_clock,
    wall_clock_duration,
)
from src.database.errors import StaleDataError
from src.database.models import Event, start_local_values
from src.database.session import AsyncSession
from src.database.statements.events import check_instant, check_year
from src.database.statements.reminders import (
    NOT_CLAIMED,
    NOT_SENT,
    has_reminder,
    next_reminder,
    reminder_lead,
    server_time,
    set_reminder,
)
from src.database.statements.rows import lock_one, lock_rows, required, update_rows

Scope = Literal["this", "following", "all"]

_COPIED: Final = ("user_id", "title", "description", "location", "timezone", "all_day", "reminder_offset")
_ASIDE: Final = timedelta(days=400_000)
"""How far original starts are moved aside: beyond the last year of a series, and within PostgreSQL's calendar."""


class _Move:
    """The plan of a move of a series, or of its occurrences from a slot on.

    The plan is complete before anything is written: an error leaves every row as it was.

    Args:
        series: The series.
        slot: The occurrence that goes to `start`.
        start: The new start of that occurrence.
        end: Its new end; None keeps the duration in local time.
        rrule: The new rule; None moves the old one.
        changed: The changed occurrences that move along, by original start.
        is_whole: False if the occurrences from the slot on become a series of their own.
        is_named: True if the caller named the occurrence of the slot: its own change, if any, goes to `start` too.

    Raises:
        ValueError: The rule cannot be moved, or the new rule has no occurrence for an excluded or changed one.
    """

    def __init__(
        self,
        series: Series,
        slot: Slot,
        start: datetime,
        end: datetime | None,
        *,
        rrule: str | None,
        changed: Mapping[datetime, Event],
        is_whole: bool,
        is_named: bool,
    ) -> None:
        self.series, self.slot, self.changed, self.is_whole = series, slot, changed, is_whole
        self._start, self._end, self._is_named = start, end, is_named
        event, all_day = series.event, bool(series.event.all_day)
        excluded = [one for one in event.exdates if is_whole or one >= slot.start]
        old_times = series.locals_of({*excluded, *changed})
        after = to_wall_clock(start, series.zone, all_day=all_day)
        self.rule = _rule_after(series, slot, after, rrule, is_whole=is_whole)
        self.begins = start
        if is_whole and slot.local != series.first:
            by = after - slot.local
            first = series.first + by if rrule else series.rule.shifted(series.first, slot.local, after)
            self.begins = to_instant(first, series.zone)
            check_year("the first occurrence of the moved series", self.begins)
        if rrule is None:
            new_times = {one: series.rule.shifted(one, slot.local, after) for one in old_times.values()}
        else:
            new = Series(_copy_of(event, self.begins, None, rrule=str(self.rule)))
            if self.begins != start and not (has_first(self.rule, new.first) and new.among([after])):
                raise ValueError(
                    "the new rule has no occurrence at the new beginning of the series; call `reschedule` with the"
                    " first occurrence and its new start"
                )
            first = series.first if is_whole else slot.local
            new_times = _matched_times(series, new, first, after - slot.local, set(old_times.values()))
        self._local_times = {instant: (local, new_times[local]) for instant, local in old_times.items()}
        duration = series.duration if end is None else wall_clock_duration(start, end, series.zone, all_day=all_day)
        self.ends = lasting(self.begins, duration, series.zone, all_day=all_day)
        self.exdates = sorted(self._moved(one) for one in excluded)

    def _moved(self, original: datetime) -> datetime:
        """Return an original start after the move."""
        return to_instant(self._local_times[original][1], self.series.zone)

    def moved_values(self) -> list[dict[str, Any]]:
        """Return the new values of the changed occurrences: each moves by as much local time as its original start."""
        values = []
        for original, row in self.changed.items():
            if self._is_named and original == self.slot.start:
                start, end = self._start, self._end or _end_at(row, self._start)
            else:
                old, new = self._local_times[original]
                zone, all_day = get_zone(row.timezone), bool(row.all_day)
                start = to_instant(to_wall_clock(row.start_datetime, zone, all_day=all_day) + (new - old), zone)
                end = _end_at(row, start)
            moved = {
                "id": row.id,
                "recurrence_id": self._moved(original),
                "start_datetime": start,
                "end_datetime": end,
                "reminder_datetime": None if row.reminder_datetime is None else start - reminder_lead(row),
            }
            values.append(moved | start_local_values(start, row.timezone))
        return values


async def reschedule(
    session: AsyncSession,
    event_id: UUID,
    start: datetime,
    *,
    end: datetime | None,
    scope: Scope,
    recurrence_id: datetime | None,
    rrule: str | None,
    version: int | None,
    now: datetime | None,
) -> Event:
    """Move an event; see `EventRepository.reschedule`."""
    _check_scope(scope)
    _check_times(start, end)
    if now is not None:
        check_year("now", now)
    event, recurrence_id = await _lock_target(session, event_id, scope, recurrence_id, version)
    _check_scheduled(event)
    if rrule is not None and (event.rrule is None or scope == "this"):
        raise ValueError('rrule must be None unless a series is moved, with the scope "following" or "all"')
    if event.rrule is None:
        _place(event, start, end)
        await session.flush()
        return event
    series = Series(event)
    slot = _slot_at(series, scope, recurrence_id)
    if scope == "this":
        return await _move_occurrence(session, series, slot, start, end)
    check_year("start", start)
    is_whole = scope == "all" or slot.local == series.first
    changed = await _lock_changed(session, event.id, None if is_whole else slot.start)
    is_named = recurrence_id is not None
    move = _Move(series, slot, start, end, rrule=rrule, changed=changed, is_whole=is_whole, is_named=is_named)
    return await _move_series(session, move, now)


async def cancel(
    session: AsyncSession, event_id: UUID, *, scope: Scope, recurrence_id: datetime | None, version: int | None
) -> Event:
    """Cancel an event; see `EventRepository.cancel`."""
    _check_scope(scope)
    event, recurrence_id = await _lock_target(session, event_id, scope, recurrence_id, version)
    if event.rrule is None:
        return await _cancel_row(session, event)
    series = Series(event)
    slot = _slot_at(series, scope, recurrence_id)
    if scope == "this":
        changed = await _lock_occurrence(session, event.id, slot.start)
        if changed is not None:
            return await _cancel_row(session, changed)
        event.exdates = sorted({*event.exdates, slot.start})
        await _skip_reminder_of(session, series, slot)
    elif scope == "all" or slot.local == series.first:
        await _cancel_changed(session, event.id)
        return await _cancel_row(session, event)
    else:
        await _cancel_changed(session, event.id, since=slot.start)
        _end_before(series, slot)
    await session.flush()
    return event


def _check_scope(scope: str) -> None:
    if scope not in get_args(Scope):
        raise ValueError(f"scope must be this, following or all, got {scope!r}")


def _check_times(start: datetime, end: datetime | None) -> None:
    check_instant("start", start)
    if end is not None:
        check_instant("end", end)
        if end < start:
            raise ValueError(f"end must not be before start, got {start.isoformat()} to {end.isoformat()}")


def _check_scheduled(event: Event) -> None:
    if event.status == "cancelled":
        raise ValueError(f"event {event.id} is cancelled; `update` its status to scheduled before moving it")


async def _lock_target(
    session: AsyncSession, event_id: UUID, scope: Scope, recurrence_id: datetime | None, version: int | None
) -> tuple[Event, datetime | None]:
    """Lock the row to change, and return it with the original start: for more than a changed occurrence, the series."""
    event, series = await lock_event(session, event_id, version)
    return (event, recurrence_id) if series is None or scope == "this" else (series, event.recurrence_id)


async def lock_event(session: AsyncSession, event_id: UUID, version: int | None = None) -> tuple[Event, Event | None]:
    """Lock an event and, before it, the series if the event is a changed occurrence.

    Args:
        session: The session; its pending changes are flushed first.
        event_id: The event.
        version: The version that the event must have; None is the version that the session has read, if any.

    Returns:
        The event, and its series or None.

    Raises:
        NotFoundError: The tenant has no such event.
        StaleDataError: A row has another version than the given one, or than the one that the session has read.
    """
    await session.flush()  # the session's own changes must not count as another writer's version
    known = {row.id: row.__dict__.get("version") for row in session.sync_session if isinstance(row, Event)}
    event_row = aliased(Event)
    series_id = select(event_row.series_id).where(event_row.tenant_id == session.tenant_id, event_row.id == event_id)
    # One statement that locks in the order of its rows, the series first: two statements, the event first, would
    # deadlock with a writer that has locked the series and waits for its changed occurrences.
    both = Event.id.in_([event_id, series_id.scalar_subquery()])
    rows = {row.id: row for row in await lock_rows(session, Event, both, order_by=Event.series_id.nulls_first())}
    event = required(rows.get(event_id), Event, event_id)
    series = None if event.series_id is None else rows.get(event.series_id)
    if event.series_id is not None and series is None:
        # The subquery saw the series from before the wait; the row was read again under its lock.
        raise StaleDataError(
            f"event {event_id} was moved to another series by another writer", hint="read the event again"
        )
    for row in rows.values():
        expected = version if version is not None and row is event else known.get(row.id)
        if expected is not None and row.version != expected:
            raise StaleDataError(
                f"event {row.id} has version {row.version}, and the change is meant for version {expected}",
                hint="read the event again, and apply the change to its current values",
            )
    return event, series


def _slot_at(series: Series, scope: Scope, recurrence_id: datetime | None) -> Slot:
    """Return the occurrence with an original start; for the scope "all", the first one by default."""
    event_id = series.event.id
    if recurrence_id is None:
        if scope == "all":
            return series.slot(series.first)
        raise ValueError(
            f'recurrence_id must name an occurrence of series {event_id} for the scope "{scope}", got None'
        )
    check_year("recurrence_id", recurrence_id)
    slot = series.at(recurrence_id)
    if slot is None:
        raise ValueError(
            f"recurrence_id must be the original start of an occurrence of series {event_id},"
            f" got {recurrence_id.isoformat()}; `occurrences` returns the recurrence_id of each"
        )
    return slot


def _rule_after(series: Series, slot: Slot, after: datetime, rrule: str | None, *, is_whole: bool) -> Rule:
    """Return the rule of a series after a move of the slot to the local time `after`."""
    if rrule is not None:
        check_rrule(rrule, all_day=bool(series.event.all_day))
        return parse_rrule(rrule)
    rule = series.rule_moved(slot.local, after)
    return rule if is_whole or rule.count is None else rule.counting(rule.count - series.number_before(slot))


def _matched_times(
    old: Series, new: Series, first: datetime, by: timedelta, wanted: Collection[datetime]
) -> dict[datetime, datetime]:
    """Return the local times under a new rule by those under the old one: moved by `by`, or by position in the month.

    A local time that the old rule does not have excludes and replaces no occurrence: it is moved by `by`.
    """
    moved = {one: one + by for one in wanted}
    of_rule = old.among(wanted)
    unmatched = [one for one in sorted(of_rule) if not new.among([moved[one]])]
    if not unmatched:
        return moved
    rules = (old.rule, new.rule)
    if old.rule.frequency in {"MONTHLY", "YEARLY"} and len({(one.frequency, one.interval) for one in rules}) == 1:
        pairs = zip((one for one in old.from_first() if one >= first), new.from_first(), strict=False)
        by_number = {one: its for one, its in islice(pairs, MAX_COUNT) if one in of_rule or one == first}
        months = {12 * (its.year - one.year) + its.month - one.month for one, its in by_number.items()}
        if by_number.keys() >= of_rule and len(months) == 1:
            return moved | by_number
    raise ValueError(
        "the new rule has no occurrence that matches the excluded or changed occurrence of"
        f" {unmatched[0].isoformat()}; `delete` that occurrence if it was changed, then remove its start from"
        ' `exdates`; or move only later occurrences, with the scope "following"'
    )


async def _move_occurrence(
    session: AsyncSession, series: Series, slot: Slot, start: datetime, end: datetime | None
) -> Event:
    """Move one occurrence of a series: its changed occurrence, which is inserted if there is none."""
    event = series.event
    changed = await _lock_occurrence(session, event.id, slot.start)
    if changed is None:
        changed = _copy_of(event, slot.start, slot.end, ical_uid=event.ical_uid)
        changed.series_id, changed.recurrence_id = event.id, slot.start
        changed.reminder_datetime = slot.start - reminder_lead(event, series) if has_reminder(event) else None
        session.add(changed)
    _check_scheduled(changed)
    _place(changed, start, end)
    await _skip_reminder_of(session, series, slot)
    await session.flush()
    return changed


async def _move_series(session: AsyncSession, move: _Move, now: datetime | None) -> Event:
    """Move a series, or make its occurrences from the slot on a new series, and move the changed occurrences along."""
    series, event = move.series, move.series.event
    lead = reminder_lead(event, series)
    moved = event
    if not move.is_whole:
        moved = _copy_of(event, move.begins, move.ends)
        moved.reminder_datetime = move.begins - lead if has_reminder(event) else None
        session.add(moved)
        _end_before(series, move.slot)
    moved.start_datetime, moved.end_datetime = move.begins, move.ends
    moved.rrule, moved.exdates = str(move.rule), move.exdates
    await session.flush()  # the changed occurrences refer to the new series
    replaced = await _move_changed(session, move, into=moved)
    if has_reminder(moved):
        upcoming = Series(moved).after(now or await server_time(session), replaced=replaced)
        set_reminder(moved, None if upcoming is None else upcoming.start - lead, lead=lead)
        await session.flush()
    return moved


async def _skip_reminder_of(session: AsyncSession, series: Series, slot: Slot) -> None:
    """Set a series' reminder to that of the next occurrence, if the reminder is that of the slot."""
    event = series.event
    if event.reminder_datetime is None or event.reminder_sent_at is not None:
        return
    lead = reminder_lead(event, series)
    if event.reminder_datetime + lead == slot.start:
        set_reminder(event, await next_reminder(session, event, series, after=slot.start), lead=lead)


async def _cancel_row(session: AsyncSession, event: Event) -> Event:
    for name, value in {"status": "cancelled", **NOT_CLAIMED}.items():
        setattr(event, name, value)
    await session.flush()
    return event


def _place(event: Event, start: datetime, end: datetime | None) -> None:
    """Move a single event or a changed occurrence, and its reminder with it."""
    lead = reminder_lead(event)
    try:
        end = _end_at(event, start) if end is None else end
        reminder = start - lead if has_reminder(event) else None
    except OverflowError:
        raise ValueError(
            f"start must keep the event and its reminder within the years 1 to 9999, got {start.isoformat()}"
        ) from None
    event.start_datetime, event.end_datetime = start, end
    set_reminder(event, reminder)


def _end_at(event: Event, start: datetime) -> datetime | None:
    """Return the end of an event that begins at another time and keeps its duration in local time."""
    zone, all_day = get_zone(event.timezone), bool(event.all_day)
    duration = wall_clock_duration(event.start_datetime, event.end_datetime, zone, all_day=all_day)
    return lasting(start, duration, zone, all_day=all_day)


def _end_before(series: Series, slot: Slot) -> None:
    """End a series before a slot."""
    event = series.event
    if event.reminder_datetime is not None and event.reminder_datetime + reminder_lead(event, series) >= slot.start:
        set_reminder(event, None)
    event.rrule = str(series.ended_before(slot))
    event.exdates = [one for one in event.exdates if one < slot.start]


def _copy_of(event: Event, start: datetime, end: datetime | None, **more: Any) -> Event:
    """Return a new event with the content of another one, at another time."""
    values = {name: getattr(event, name) for name in _COPIED}
    return Event(**values, **more, extra=dict(event.extra), start_datetime=start, end_datetime=end)


async def _lock_occurrence(session: AsyncSession, series_id: UUID, recurrence_id: datetime) -> Event | None:
    """Lock and return the changed occurrence with an original start, or return None if the occurrence is unchanged."""
    return await lock_one(session, Event, Event.series_id == series_id, Event.recurrence_id == recurrence_id)


async def _lock_changed(session: AsyncSession, series_id: UUID, since: datetime | None) -> dict[datetime, Event]:
    """Lock and return the changed occurrences of a series by original start, from an original start on."""
    rows = await lock_rows(session, Event, *_changed(series_id, since), order_by=Event.recurrence_id)
    return {row.recurrence_id: row for row in rows if row.recurrence_id is not None}


async def _cancel_changed(session: AsyncSession, series_id: UUID, *, since: datetime | None = None) -> None:
    """Cancel the scheduled changed occurrences of a series, from an original start on."""
    scheduled = (*_changed(series_id, since), Event.status == "scheduled")
    await update_rows(session, Event, *scheduled, status="cancelled", version=Event.version + 1, **NOT_CLAIMED)


def _changed(series_id: UUID, since: datetime | None) -> list[Any]:
    of_series = [Event.series_id == series_id]
    return of_series if since is None else [*of_series, Event.recurrence_id >= since]


async def _move_changed(session: AsyncSession, move: _Move, *, into: Event) -> set[datetime]:
    """Move changed occurrences into a series, in two statements however many there are.

    Returns:
        Their original starts in that series.
    """
    if not move.changed:
        return set()
    values = move.moved_values()
    # PostgreSQL checks a unique index after each row of an UPDATE: a row that takes the original start of one that is
    # moved after it would be a duplicate. So all of them are moved out of the way first.
    aside = Event.recurrence_id + literal(_ASIDE, Interval())
    await update_rows(session, Event, *_changed(move.series.event.id, min(move.changed)), recurrence_id=aside)
    table = _as_table(values)
    new: dict[str, Any] = {one.name: one for one in table.c if one.name != "id"}
    new |= {"series_id": into.id, "ical_uid": into.ical_uid, "version": Event.version + 1, **NOT_SENT}
    await update_rows(session, Event, Event.id == table.c.id, **new)
    return {row["recurrence_id"] for row in values}


def _as_table(rows: list[dict[str, Any]]) -> TableValuedAlias:
    """Return values of events' attributes as a table of one array for each column.

    Arrays, because a statement has at most 32,767 parameters.
    """
    types = {name: getattr(Event, name).type for name in rows[0]}
    arrays = [literal([row[name] for row in rows], ARRAY(type_)) for name, type_ in types.items()]
    table = func.unnest(*arrays).table_valued(*(column(name, type_) for name, type_ in types.items()))
    return table.render_derived(name="moved")
