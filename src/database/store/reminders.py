"""Reminders are claimed in one statement."""

from __future__ import annotations

from datetime import timedelta
from operator import attrgetter
from typing import Final

from sqlalchemy import Integer, Interval, Uuid, bindparam

from src.database.base import CleanText, clean_text, uuid7
from src.database.repositories import EventRepository
from src.database.repositories.event_claims import MAX_ATTEMPTS, check_claim, claim_of, pending
from src.database.session import get_db
from src.database.store.calls import Calls
from src.database.store.rows import EventRow, columns_of
from src.database.store.statement import Statement

__all__ = ["StoreReminders"]


class StoreReminders(Calls):
    """What a worker asks of the events; `EventRepository` takes what it has to say of them."""

    async def claim_due_reminders(
        self,
        worker: str,
        *,
        limit: int = 10,
        lease: timedelta = timedelta(minutes=5),
        max_attempts: int = MAX_ATTEMPTS,
    ) -> list[EventRow]:
        """Take reminders that are due, for a while, as `EventRepository.claim_due_reminders` does; they are committed.

        Returns:
            The events, the longest due first; `ack_reminder` wants their `reminder_token`.

        Raises:
            CommitOutcomeUnknown: The connection was lost: what was claimed is free again when the lease ends.
            ValueError: The limit is not from 1 to 1000, the lease not positive or longer than a year, or the worker
                has no name.
        """
        check_claim(worker, limit, lease)
        ready: list[EventRow] = []
        while len(ready) < limit:
            values = (clean_text(worker), limit - len(ready), lease, uuid7(), max_attempts)
            claimed = await self._write(_CLAIM, *values)
            given_up = [event for event in claimed if event.reminder_attempts > max_attempts]
            ready += [event for event in claimed if event.reminder_attempts <= max_attempts]
            if not given_up:  # a further round only where those have taken a place
                break
            async with get_db() as session:
                for event in given_up:
                    await EventRepository(session).skip_reminder(event.id, event.reminder_token)
        return sorted(ready, key=attrgetter("reminder_datetime", "id"))


def _claim() -> Statement[EventRow]:
    tenant_id = bindparam("tenant_id", type_=Uuid())
    claim = claim_of(
        pending(tenant_id),
        tenant_id=tenant_id,
        worker=bindparam("worker", type_=CleanText()),
        limit=bindparam("limit", type_=Integer()),
        lease=bindparam("lease", type_=Interval()),
        token=bindparam("token", type_=Uuid()),
        max_attempts=bindparam("max_attempts", type_=Integer()),
    )
    parameters = ("tenant_id", "worker", "limit", "lease", "token", "max_attempts")
    return Statement(claim.returning(*columns_of(EventRow)), parameters, row=EventRow)


_CLAIM: Final = _claim()
