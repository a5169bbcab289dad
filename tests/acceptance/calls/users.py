"""What only UserRepository can be asked."""

from __future__ import annotations

from typing import Final

from tests.acceptance.calls.rows import Call

CALLS: Final = {
    "get_by_telegram_id": Call(lambda r, _: r.get_by_telegram_id(1), statements=1),
}
