"""What only MessageHistoryRepository can be asked."""

from __future__ import annotations

from typing import Final

from src.database.base import utc_now
from tests.acceptance.calls.rows import Call, a_message

CALLS: Final = {
    "append": Call(lambda r, b: r.append(b.conversation, a_message("new")), statements=4),
    "append_many": Call(lambda r, b: r.append_many(b.conversation, [a_message("new")]), statements=4),
    "recent": Call(lambda r, b: r.recent(b.conversation), statements=1),
    "get_by_message_id": Call(lambda r, _: r.get_by_message_id("same"), statements=1),
    "edit": Call(lambda r, _: r.edit("same", "stolen", edited_at=utc_now()), statements=2),
}
