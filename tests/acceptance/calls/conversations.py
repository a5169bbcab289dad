"""What only ConversationRepository can be asked."""

from __future__ import annotations

from typing import Final

from tests.acceptance.calls.rows import Call

CALLS: Final = {
    "get_active": Call(lambda r, b: r.get_active(b.user, "telegram", "1"), statements=1),
    "get_or_start": Call(lambda r, b: r.get_or_start(b.user, "telegram", "1"), statements=1, needs_own_rows=True),
}
