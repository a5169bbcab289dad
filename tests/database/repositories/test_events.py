"""EventRepository: upcoming events, and the claim of reminders."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from src.database.base import utc_now, uuid7
from src.database.errors import CheckViolation, StaleDataError
from src.database.models import Event, User
from src.database.repositories import EventRepository
from src.database.session import AsyncSession


@pytest.fixture
def events(session: AsyncSession) -> EventRepository:
    return EventRepository(session)


def event(user: User, *, hours: float = 1, due: datetime | None = None, **more: Any) -> Event:
    start = utc_now() + timedelta(hours=hours)
    return Event(**{"user_id": user.id, "title": "x", "start_datetime": start, "reminder_datetime": due, **more})


async def test_upcoming_returns_future_events_the_next_first(events: EventRepository, user: User) -> None:
    await events.add_many(
        [
            event(user, hours=5, title="later"),
            event(user, hours=1, title="next"),
            event(user, hours=-1, title="past"),
            event(user, hours=2, title="cancelled", status="cancelled"),
        ]
    )

    assert [one.title for one in await events.upcoming(user.id)] == ["next", "later"]
    assert [one.title for one in await events.upcoming(user.id, within=timedelta(hours=2))] == ["next"]
    assert [one.title for one in await events.upcoming(user.id, limit=1)] == ["next"]


async def test_claims_due_reminders_the_longest_due_first(events: EventRepository, user: User) -> None:
    now = utc_now()
    await events.add_many(
        [
            event(user, due=now - timedelta(minutes=1), title="second"),
            event(user, due=now - timedelta(minutes=9), title="first"),
            event(user, due=now + timedelta(minutes=9), title="not yet"),
            event(user, title="no reminder"),
            event(user, due=now - timedelta(minutes=5), status="cancelled", title="cancelled"),
        ]
    )

    claimed = await events.claim_due_reminders("worker")

    assert [one.title for one in claimed] == ["first", "second"]
    assert [one.reminder_attempts for one in claimed] == [1, 1]
    assert await events.claim_due_reminders("another") == []


@pytest.mark.parametrize(("due", "limit"), [(4, 2), (20, 3)])
async def test_claims_no_more_than_the_limit(events: EventRepository, user: User, due: int, limit: int) -> None:
    await events.add_many([event(user, due=utc_now() - timedelta(minutes=1)) for _ in range(due)])

    first, second = (
        await events.claim_due_reminders("a", limit=limit),
        await events.claim_due_reminders("b", limit=limit),
    )

    assert len(first) == len(second) == limit
    assert not {one.id for one in first} & {one.id for one in second}


async def test_claims_the_reminders_of_one_user_on_request(events: EventRepository, user: User) -> None:
    other = User()
    events.session.add(other)
    await events.session.flush()
    due = utc_now() - timedelta(minutes=1)
    await events.add_many([event(user, due=due), event(other, due=due)])

    assert [one.user_id for one in await events.claim_due_reminders("w", user_id=other.id)] == [other.id]


async def test_upsert_counts_the_version_so_that_no_change_is_overwritten(events: EventRepository, user: User) -> None:
    row = await events.add(event(user))

    again = await events.upsert(
        {"id": row.id, "user_id": user.id, "title": "new", "start_datetime": row.start_datetime}, key=["id"]
    )

    assert (again.outcome, again.row.version) == ("updated", 2)


async def test_an_acknowledged_reminder_is_never_claimed_again(events: EventRepository, user: User) -> None:
    await events.add(event(user, due=utc_now() - timedelta(minutes=1)))
    [claimed] = await events.claim_due_reminders("worker")
    assert claimed.reminder_token is not None

    sent = await events.ack_reminder(claimed.id, claimed.reminder_token)

    assert sent.reminder_sent_at is not None
    assert await events.claim_due_reminders("another") == []


async def test_a_lost_claim_cannot_be_acknowledged(events: EventRepository, user: User) -> None:
    await events.add(event(user, due=utc_now() - timedelta(minutes=1)))
    [claimed] = await events.claim_due_reminders("slow")
    old_token = claimed.reminder_token
    await events.update(claimed.id, reminder_claimed_until=utc_now() - timedelta(minutes=1))
    assert old_token is not None
    [again] = await events.claim_due_reminders("fast")

    with pytest.raises(StaleDataError, match="not held under this token"):
        await events.ack_reminder(claimed.id, old_token)

    assert again.reminder_attempts == 2


async def test_rejects_an_unknown_token(events: EventRepository, user: User) -> None:
    row = await events.add(event(user, due=utc_now()))

    with pytest.raises(StaleDataError):
        await events.ack_reminder(row.id, uuid7())


async def test_another_writers_change_is_not_overwritten(events: EventRepository, user: User) -> None:
    row = await events.add(event(user))
    await events.session.execute(text("UPDATE events SET version = 7 WHERE id = :id"), {"id": row.id})

    with pytest.raises(StaleDataError, match="changed or deleted by another writer"):
        await events.update(row.id, location="here")


async def test_the_database_refuses_an_end_before_the_start(events: EventRepository, user: User) -> None:
    with pytest.raises(CheckViolation) as caught:
        await events.add(event(user, end_datetime=utc_now() - timedelta(days=1)))

    assert caught.value.constraint == "ck_events_end_datetime"


async def test_rejects_a_naive_datetime_before_it_reaches_the_database(events: EventRepository, user: User) -> None:
    with pytest.raises(ValueError, match="start_datetime must be aware"):
        await events.add(event(user, start_datetime=datetime(2026, 1, 1)))  # noqa: DTZ001 - what is tested
