"""Move and cancel events: one, one occurrence of a series, it and what follows, or the whole series.

The row that is named is locked first, so that two changes to it come one after the other. Changed occurrences of a
series are rows of their own, and are moved along with it or cancelled.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, Literal, NamedTuple, get_args
from uuid import UUID

from sqlalchemy import DateTime, Interval, TableValuedAlias, Uuid, column, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import aliased

from src.database.base import CleanText, UtcDateTime
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
from src.database.models import Event
from src.database.models.event import start_local_values
from src.database.session import AsyncSession
from src.database.statements.events import check_instant, check_year
from src.database.statements.reminders import (
    NOT_HELD,
    has_reminder,
    next_reminder,
    reminder_lead,
    server_time,
    set_reminder,
)
from src.database.statements.rows import lock_one, lock_rows, required, update_rows

Scope = Literal["this", "following", "all"]

_COPIED: Final = ("user_id", "title", "description", "location", "timezone", "all_day", "reminder_offset")
# Out of the way of those that are there: each is one of its series' under its own recurrence_id.
_ASIDE: Final = timedelta(days=400_000)
_MOVED: Final[dict[str, Any]] = {
    "id": Uuid(),
    **dict.fromkeys(("recurrence_id", "start_datetime", "end_datetime", "reminder_datetime"), UtcDateTime()),
    "start_local": DateTime(),
    "start_local_basis": CleanText(),
}
"""The attributes of a row that is moved along, with their types."""


class _Moved(NamedTuple):
    """A changed occurrence as it is to be; its zone stays."""

    id: UUID
    recurrence_id: datetime
    start_datetime: datetime
    end_datetime: datetime | None
    reminder_datetime: datetime | None
    timezone: str


@dataclass(frozen=True, slots=True)
class _Move:
    """Where an occurrence of a series goes, and the series, or the rest of it, with it."""

    series: Series
    slot: Slot
    start: datetime
    end: datetime | None
    duration: timedelta | None
    is_named: bool
    """True if this occurrence was named, and not the series alone: a change that it has had goes to `start` too."""
    rule: Rule
    begins: datetime
    """The start of the moved series, or of the rest of it."""
    places: Mapping[datetime, tuple[datetime, datetime]]
    """By original start: the local time of what was excluded or changed by the old rule, and by the new one."""

    @property
    def ends(self) -> datetime | None:
        """The end of its first occurrence."""
        return lasting(self.begins, self.duration, self.series.zone, all_day=bool(self.series.event.all_day))

    def starts(self, instants: Iterable[datetime]) -> list[datetime]:
        """Return where these original starts will be, in order."""
        return sorted(to_instant(self.places[one][1], self.series.zone) for one in instants)

    def along(self, rows: Sequence[Event]) -> list[_Moved]:
        """Return what each changed occurrence is to be: moved as far as its place in the series."""
        moved = []
        for row in rows:
            original = row.recurrence_id or row.start_datetime
            old, new = self.places[original]
            if self.is_named and original == self.slot.start:
                start, end = self.start, self.end or _end_at(row, self.start)
            else:
                zone, all_day = get_zone(row.timezone), bool(row.all_day)
                start = to_instant(to_wall_clock(row.start_datetime, zone, all_day=all_day) + (new - old), zone)
                end = _end_at(row, start)
            reminder = None if row.reminder_datetime is None else start - reminder_lead(row)
            moved.append(_Moved(row.id, to_instant(new, self.series.zone), start, end, reminder, row.timezone))
        return moved


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
    event, recurrence_id = await _lock_meant(session, event_id, scope, recurrence_id, version)
    _check_scheduled(event)
    if rrule is not None and (event.rrule is None or scope == "this"):
        raise ValueError('rrule must be None unless a series is moved, with the scope "following" or "all"')
    if event.rrule is None:
        _place(event, start, end)
        await session.flush()
        return event
    series = Series(event)
    slot = _slot_meant(event, series, scope, recurrence_id)
    if scope == "this":
        return await _change_one(session, series, slot, start, end)
    check_year("start", start)
    whole = scope == "all" or slot.local == series.first
    changed = await _lock_changed(session, event.id, since=None if whole else slot.start)
    originals = {one for one in event.exdates if whole or one >= slot.start}
    originals.update(row.recurrence_id for row in changed if row.recurrence_id is not None)
    is_named = recurrence_id is not None
    move = _plan_move(event, slot, start, end, rrule=rrule, whole=whole, is_named=is_named, originals=originals)
    carry_out = _move_all if whole else _move_following
    return await carry_out(session, event, move, changed, now)


async def cancel(
    session: AsyncSession, event_id: UUID, *, scope: Scope, recurrence_id: datetime | None, version: int | None
) -> Event:
    """Cancel an event; see `EventRepository.cancel`."""
    _check_scope(scope)
    event, recurrence_id = await _lock_meant(session, event_id, scope, recurrence_id, version)
    if event.rrule is None:
        return await _cancel_whole(session, event)
    series = Series(event)
    slot = _slot_meant(event, series, scope, recurrence_id)
    if scope == "this":
        changed = await _lock_occurrence(session, event.id, slot.start)
        if changed is not None:
            return await _cancel_whole(session, changed)
        event.exdates = sorted({*event.exdates, slot.start})
        await _pass_over(session, event, series, slot)
    elif scope == "all" or slot.local == series.first:
        await _cancel_changed(session, event.id)
        return await _cancel_whole(session, event)
    else:
        await _cancel_changed(session, event.id, since=slot.start)
        _end_before(event, series, slot)
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
        raise ValueError(f"event {event.id} is cancelled; `update` its status to scheduled before it is moved")


async def _lock_meant(
    session: AsyncSession, event_id: UUID, scope: Scope, recurrence_id: datetime | None, version: int | None
) -> tuple[Event, datetime | None]:
    """Lock the row that is to change: the series of a changed occurrence, if more than the occurrence is meant."""
    event, series = await lock_event(session, event_id, version)
    return (event, recurrence_id) if series is None or scope == "this" else (series, event.recurrence_id)


async def lock_event(session: AsyncSession, event_id: UUID, version: int | None = None) -> tuple[Event, Event | None]:
    """Lock an event, and before it, if it is a changed occurrence, its series: every caller locks in this order.

    Raises:
        NotFoundError: The tenant has no such event.
        StaleDataError: A row is of another version than the one named, or than the one that this session has read.
    """
    await session.flush()  # what this session has changed itself is no other writer's version
    known = {row.id: row.__dict__.get("version") for row in session.sync_session if isinstance(row, Event)}
    named = aliased(Event)
    series_id = select(named.series_id).where(named.tenant_id == session.tenant_id, named.id == event_id)
    both = Event.id.in_([event_id, series_id.scalar_subquery()])
    rows = {row.id: row for row in await lock_rows(session, Event, both, order_by=Event.series_id.nulls_first())}
    event = required(rows.get(event_id), Event, event_id)
    series = None if event.series_id is None else rows.get(event.series_id)
    if event.series_id is not None and series is None:
        raise StaleDataError(f"event {event_id} has just gone to another series", hint="read it again")
    for row in rows.values():
        meant = version if version is not None and row is event else known.get(row.id)
        if meant is not None and row.version != meant:
            raise StaleDataError(
                f"event {row.id} has version {row.version}, and the change is meant for version {meant}",
                hint="read it again, and apply the change to what is there now",
            )
    return event, series


def _slot_meant(event: Event, series: Series, scope: Scope, recurrence_id: datetime | None) -> Slot:
    if recurrence_id is None:
        if scope == "all":
            return series.slot(series.first)
        raise ValueError(f'recurrence_id must say which occurrence of series {event.id} is meant by "{scope}"')
    check_year("recurrence_id", recurrence_id)
    slot = series.at(recurrence_id)
    if slot is None:
        raise ValueError(
            f"recurrence_id must be the original start of an occurrence of series {event.id},"
            f" got {recurrence_id.isoformat()}; `occurrences` tells them"
        )
    return slot


def _plan_move(
    event: Event,
    slot: Slot,
    start: datetime,
    end: datetime | None,
    *,
    rrule: str | None,
    whole: bool,
    is_named: bool,
    originals: Iterable[datetime],
) -> _Move:
    """Return where everything goes, before anything is changed.

    Raises:
        ValueError: The rule cannot be moved so, or the new one has no place for what was excluded or changed.
    """
    series = Series(event)
    all_day = bool(event.all_day)
    after = to_wall_clock(start, series.zone, all_day=all_day)
    rule = _rule_after(event, series, slot, after, rrule, whole=whole)
    locals_ = series.locals_of(originals)
    begins = start
    if whole and slot.local != series.first:
        moved = series.first + (after - slot.local) if rrule else series.rule.shifted(series.first, slot.local, after)
        begins = to_instant(moved, series.zone)
        check_year("the first occurrence of the moved series", begins)
    new = Series(_copy_of(event, begins, None, rrule=str(rule)))
    if rrule is None:
        places = {one: series.rule.shifted(one, slot.local, after) for one in locals_.values()}
    else:
        if begins != start and not (has_first(rule, new.first) and new.among([after])):
            raise ValueError("the new rule has no occurrence where the series would begin; move its first occurrence")
        places = _places(series, new, series.first if whole else slot.local, after - slot.local, set(locals_.values()))
    duration = series.duration if end is None else wall_clock_duration(start, end, series.zone, all_day=all_day)
    by_instant = {instant: (local, places[local]) for instant, local in locals_.items()}
    return _Move(series, slot, start, end, duration, is_named, rule, begins, by_instant)


def _rule_after(event: Event, series: Series, slot: Slot, after: datetime, rrule: str | None, *, whole: bool) -> Rule:
    """Return the rule of a series that is moved, whole or from a slot on."""
    if rrule is not None:
        check_rrule(rrule, all_day=bool(event.all_day))
        return parse_rrule(rrule)
    rule = series.rule_moved(slot.local, after)
    return rule if whole or rule.count is None else rule.counting(rule.count - series.number_before(slot))


def _places(
    old: Series, new: Series, first: datetime, by: timedelta, wanted: Collection[datetime]
) -> dict[datetime, datetime]:
    """Return the occurrences of a new rule that those of the old one become: by the same time, else each in its month.

    What the old rule does not have excludes and replaces nothing: it is moved by the same time.
    """
    by_time = {one: one + by for one in wanted}
    real = old.among(wanted)
    missed = [one for one in sorted(real) if not new.among([by_time[one]])]
    if not missed:
        return by_time
    rules = (old.rule, new.rule)
    if old.rule.frequency in {"MONTHLY", "YEARLY"} and len({(one.frequency, one.interval) for one in rules}) == 1:
        pairs = zip((one for one in old.from_first() if one >= first), new.from_first(), strict=False)
        by_number = {one: its for one, its in islice(pairs, MAX_COUNT) if one in real or one == first}
        months = {12 * (its.year - one.year) + its.month - one.month for one, its in by_number.items()}
        if by_number.keys() >= real and len(months) == 1:
            return by_time | by_number
    raise ValueError(
        f"the new rule has no place for what was excluded or changed, the first of it that of {missed[0].isoformat()};"
        " `delete` the changed occurrence and take it out of `exdates`, or move what follows it"
    )


async def _change_one(
    session: AsyncSession, series: Series, slot: Slot, start: datetime, end: datetime | None
) -> Event:
    event = series.event
    changed = await _lock_occurrence(session, event.id, slot.start)
    if changed is None:
        changed = _copy_of(event, slot.start, slot.end, ical_uid=event.ical_uid)
        changed.series_id, changed.recurrence_id = event.id, slot.start
        changed.reminder_datetime = slot.start - reminder_lead(event, series) if has_reminder(event) else None
        session.add(changed)
    _check_scheduled(changed)
    _place(changed, start, end)
    await _pass_over(session, event, series, slot)
    await session.flush()
    return changed


async def _move_all(
    session: AsyncSession, event: Event, move: _Move, changed: list[Event], now: datetime | None
) -> Event:
    lead = reminder_lead(event, move.series)
    replaced = await _move_changed(session, changed, move, into=event)
    event.exdates = move.starts(event.exdates)
    event.rrule = str(move.rule)
    event.start_datetime, event.end_datetime = move.begins, move.ends
    await session.flush()
    await _remind_of_next(session, event, lead, now, replaced)
    return event


async def _move_following(
    session: AsyncSession, event: Event, move: _Move, changed: list[Event], now: datetime | None
) -> Event:
    series, slot = move.series, move.slot
    lead = reminder_lead(event, series)
    new = _copy_of(event, move.begins, move.ends)
    new.reminder_datetime = move.begins - lead if has_reminder(event) else None
    new.exdates = move.starts(one for one in event.exdates if one >= slot.start)
    new.rrule = str(move.rule)
    session.add(new)
    _end_before(event, series, slot)
    await session.flush()
    replaced = await _move_changed(session, changed, move, into=new)
    await _remind_of_next(session, new, lead, now, replaced)
    return new


async def _remind_of_next(
    session: AsyncSession, event: Event, lead: timedelta, now: datetime | None, replaced: set[datetime]
) -> None:
    """Set a series' reminder to that of the first occurrence that has not begun."""
    if has_reminder(event):
        upcoming = Series(event).after(now or await server_time(session), replaced=replaced)
        set_reminder(event, None if upcoming is None else upcoming.start - lead, lead=lead)
        await session.flush()


async def _pass_over(session: AsyncSession, event: Event, series: Series, slot: Slot) -> None:
    """Set a series' reminder to that of the next occurrence if it is for this one, which is excluded or replaced."""
    if event.reminder_datetime is None or event.reminder_sent_at is not None:
        return
    lead = reminder_lead(event, series)
    if event.reminder_datetime + lead == slot.start:
        set_reminder(event, await next_reminder(session, event, series, after=slot.start), lead=lead)


async def _cancel_whole(session: AsyncSession, event: Event) -> Event:
    for name, value in {"status": "cancelled", **NOT_HELD}.items():
        setattr(event, name, value)
    await session.flush()
    return event


def _place(event: Event, start: datetime, end: datetime | None) -> None:
    """Move a single event, and its reminder with it."""
    lead = reminder_lead(event)
    try:
        end = _end_at(event, start) if end is None else end
        reminder = start - lead if has_reminder(event) else None
    except OverflowError:
        raise ValueError(f"start must leave time for the event and its reminder, got {start.isoformat()}") from None
    event.start_datetime, event.end_datetime = start, end
    set_reminder(event, reminder)


def _end_at(event: Event, start: datetime) -> datetime | None:
    """Return the end of an event that begins at another time and lasts as long in local time."""
    zone, all_day = get_zone(event.timezone), bool(event.all_day)
    duration = wall_clock_duration(event.start_datetime, event.end_datetime, zone, all_day=all_day)
    return lasting(start, duration, zone, all_day=all_day)


def _end_before(event: Event, series: Series, slot: Slot) -> None:
    """End a series before a slot."""
    if event.reminder_datetime is not None and event.reminder_datetime + reminder_lead(event, series) >= slot.start:
        set_reminder(event, None)
    event.rrule = str(series.ended_before(slot))
    event.exdates = [one for one in event.exdates if one < slot.start]


def _copy_of(event: Event, start: datetime, end: datetime | None, **more: Any) -> Event:
    """Return a new event of the same content at another time."""
    values = {name: getattr(event, name) for name in _COPIED}
    return Event(**values, **more, extra=dict(event.extra), start_datetime=start, end_datetime=end)


async def _lock_occurrence(session: AsyncSession, series_id: UUID, recurrence_id: datetime) -> Event | None:
    """Lock and return the row of a series' occurrence, or return None if the occurrence is not changed."""
    return await lock_one(session, Event, Event.series_id == series_id, Event.recurrence_id == recurrence_id)


async def _lock_changed(session: AsyncSession, series_id: UUID, *, since: datetime | None) -> list[Event]:
    """Lock and return the changed occurrences of a series, or those from an original start on."""
    return await lock_rows(session, Event, *_changed(series_id, since), order_by=Event.recurrence_id)


async def _cancel_changed(session: AsyncSession, series_id: UUID, *, since: datetime | None = None) -> None:
    """Cancel the changed occurrences of a series that are still to be, or those from an original start on."""
    scheduled = (*_changed(series_id, since), Event.status == "scheduled")
    await update_rows(session, Event, *scheduled, status="cancelled", version=Event.version + 1, **NOT_HELD)


def _changed(series_id: UUID, since: datetime | None) -> list[Any]:
    of_series = [Event.series_id == series_id]
    return of_series if since is None else [*of_series, Event.recurrence_id >= since]


async def _move_changed(session: AsyncSession, changed: list[Event], move: _Move, *, into: Event) -> set[datetime]:
    """Move changed occurrences along with their series, and return their original starts in it.

    One statement moves all of them, after another one has put those aside that are in the way.
    """
    if changed:
        since = min(row.recurrence_id for row in changed if row.recurrence_id is not None)
        row = _as_table(move.along(changed))
        aside = Event.recurrence_id + literal(_ASIDE, Interval())
        await update_rows(session, Event, *_changed(move.series.event.id, since), recurrence_id=aside)
        values = {
            **{name: row.c[name] for name in _MOVED if name != "id"},
            "series_id": into.id,
            "ical_uid": into.ical_uid,
            "reminder_sent_at": None,
            "reminder_attempts": 0,
            "version": Event.version + 1,
            **NOT_HELD,
        }
        await update_rows(session, Event, Event.id == row.c.id, **values)
    return {row.recurrence_id for row in changed if row.recurrence_id is not None}


def _as_table(moved: Sequence[_Moved]) -> TableValuedAlias:
    """Return a table of what each row is to be: one statement moves them all."""
    rows = [(*one[:-1], *start_local_values(one.start_datetime, one.timezone).values()) for one in moved]
    arrays = [
        literal(list(values), ARRAY(type_))
        for values, type_ in zip(zip(*rows, strict=True), _MOVED.values(), strict=True)
    ]
    named = [column(name, type_) for name, type_ in _MOVED.items()]
    return func.unnest(*arrays).table_valued(*named).render_derived(name="moved")
