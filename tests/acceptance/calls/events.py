"""The calls of EventRepository."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from src.database.base import utc_now
from src.database.models import Event
from src.database.repositories import EventRepository
from tests.acceptance.calls.base import making
from tests.acceptance.calls.rows import TOKEN, Call, Rows

NOW: Final = utc_now()
DAY: Final = timedelta(days=1)


async def series_days(r: EventRepository, b: Rows) -> object:
    """Turn the event into a series, if it is an own one, and expand it: two more statements."""
    await r.update(b.event, rrule="FREQ=DAILY")
    return await r.occurrences(b.user, NOW - DAY, NOW + DAY)


REPOSITORY: Final = EventRepository
CALLS: Final = {
    **making(
        lambda b: Event(user_id=b.user, title="new", start_datetime=NOW),
        lambda b: {"id": b.event, "user_id": b.user, "title": "new", "start_datetime": NOW},
        key=["id"],
        upsert_statements=2,
    ),
    "upcoming": Call(lambda r, b: r.upcoming(b.user, now=NOW.replace(year=2000)), statements=1),
    "overlapping": Call(lambda r, b: r.overlapping(b.user, NOW - DAY, NOW + DAY), statements=1),
    "occurrences": Call(lambda r, b: r.occurrences(b.user, NOW - DAY, NOW + DAY), statements=1),
    "occurrences, of a series": Call(series_days, statements=2 + 2),
    "reschedule": Call(lambda r, b: r.reschedule(b.event, NOW + DAY), statements=2),
    "reschedule, all": Call(lambda r, b: r.reschedule(b.event, NOW + DAY, scope="all"), statements=2),
    "cancel": Call(lambda r, b: r.cancel(b.event), statements=2),
    "claim_due_reminders": Call(lambda r, _: r.claim_due_reminders("thief"), statements=1),
    "ack_reminder": Call(lambda r, b: r.ack_reminder(b.event, TOKEN), statements=1),
    "release_reminder": Call(lambda r, b: r.release_reminder(b.event, TOKEN), statements=1),
    "skip_reminder": Call(lambda r, b: r.skip_reminder(b.event, TOKEN), statements=1),
    "missed": Call(lambda r, _: r.missed(grace=timedelta(0)), statements=1),
}
