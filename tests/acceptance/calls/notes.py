"""What only NoteRepository can be asked."""

from __future__ import annotations

from typing import Final

from tests.acceptance.calls.rows import Call

CALLS: Final = {
    "search": Call(lambda r, b: r.search(b.user, "secret"), statements=1),
}
