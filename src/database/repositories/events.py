"""Events, and reminders that several workers share without ever firing one twice at a time."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, or_, select, update

from src.database.base import utc_now, uuid7
from src.database.errors import StaleDataError
from src.database.models import Event
from src.database.pagination import check_limit
from src.database.repositories.base import Repository

__all__ = ["EventRepository"]


class EventRepository(Repository[Event]):
    """The events of the acting tenant."""

    model = Event

    async def upcoming(
        self, user_id: UUID, *, now: datetime | None = None, within: timedelta | None = None, limit: int = 50
    ) -> list[Event]:
        """Return a user's scheduled events that have yet to begin, the next one first.

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
            statement = statement.where(Event.start_datetime < now + within)
        return list(await self.session.scalars(statement.order_by(Event.start_datetime, Event.id).limit(limit)))

    async def claim_due_reminders(
        self, worker: str, *, limit: int = 10, lease: timedelta = timedelta(minutes=5), user_id: UUID | None = None
    ) -> list[Event]:
        """Take reminders that are due, for a while; what another worker holds is passed over.

        Commit before sending. Each claim has a fresh `reminder_token`: `ack_reminder` wants it back. Who dies with a
        claim in hand loses it when the lease ends, and the reminder is claimed again: at least once, never by two
        at a time. Time is the server's.

        Args:
            worker: Who claims, for people to read.
            limit: At most so many.
            lease: For how long.
            user_id: Only this user's.

        Returns:
            The events, the longest due first; `reminder_attempts` counts this claim.
        """
        check_limit(limit)
        due = (
            select(Event.id)
            .where(
                Event.tenant_id == self.session.tenant_id,
                Event.status == "scheduled",
                Event.reminder_sent_at.is_(None),
                Event.reminder_datetime <= func.now(),
                or_(Event.reminder_claimed_until.is_(None), Event.reminder_claimed_until < func.now()),
                *([] if user_id is None else [Event.user_id == user_id]),
            )
            .order_by(Event.reminder_datetime, Event.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
            # Once: inside `IN (…)` the planner may run it again for each row, and the limit with it.
            .cte("due")
            .prefix_with("MATERIALIZED")
        )
        claim = (
            update(Event)
            .where(Event.tenant_id == self.session.tenant_id, Event.id == due.c.id)
            .values(
                reminder_claimed_by=worker,
                reminder_claimed_until=func.now() + lease,
                reminder_token=uuid7(),
                reminder_attempts=Event.reminder_attempts + 1,
            )
            .returning(Event)
            .execution_options(populate_existing=True, synchronize_session=False)
        )
        claimed = list(await self.session.scalars(claim))
        return sorted(claimed, key=lambda event: (event.reminder_datetime or event.start_datetime, event.id))

    async def ack_reminder(self, event_id: UUID, token: UUID) -> Event:
        """Say that a claimed reminder was sent.

        Raises:
            StaleDataError: The claim is not held under this token any more: the lease ended and another worker has it.
        """
        acked: Event | None = await self.session.scalar(
            update(Event)
            .where(Event.tenant_id == self.session.tenant_id, Event.id == event_id, Event.reminder_token == token)
            .values(
                reminder_sent_at=func.now(),
                reminder_claimed_by=None,
                reminder_claimed_until=None,
                reminder_token=None,
            )
            .returning(Event)
            .execution_options(populate_existing=True, synchronize_session=False)
        )
        if acked is None:
            raise StaleDataError(
                f"the reminder of event {event_id} is not held under this token",
                hint="another worker has claimed or sent it; a longer lease leaves more time to send",
            )
        return acked
