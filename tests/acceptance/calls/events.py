"""What only EventRepository can be asked."""

from __future__ import annotations

from typing import Final

from src.database.base import utc_now
from tests.acceptance.calls.rows import TOKEN, Call

CALLS: Final = {
    "upcoming": Call(lambda r, b: r.upcoming(b.user, now=utc_now().replace(year=2000)), statements=1),
    "claim_due_reminders": Call(lambda r, _: r.claim_due_reminders("thief"), statements=1),
    "ack_reminder": Call(lambda r, b: r.ack_reminder(b.event, TOKEN), statements=1),
}
