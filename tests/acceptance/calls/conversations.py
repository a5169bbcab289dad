"""The calls of ConversationRepository."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from src.database.base import uuid7
from src.database.models import Conversation
from src.database.repositories import ConversationRepository, Turn
from tests.acceptance.calls.base import making
from tests.acceptance.calls.rows import TURN, Call, Rows

LATER: Final = datetime(2100, 1, 1, tzinfo=UTC)


async def page_items(repository: ConversationRepository, rows: Rows) -> list[Any]:
    return list((await repository.page_for_user(rows.user)).items)


async def latest_items(repository: ConversationRepository, rows: Rows) -> list[Any]:
    return list((await repository.latest(rows.user)).items)


def held(rows: Rows) -> Turn:
    """Return the claimed turn of the conversation."""
    return Turn(conversation_id=rows.conversation, worker="w", token=TURN, until=LATER)


def new(rows: Rows) -> Conversation:
    return Conversation(user_id=rows.user, session_id=str(uuid7()), channel="telegram", external_chat_id=str(uuid7()))


REPOSITORY: Final = ConversationRepository
CALLS: Final = {
    **making(
        new,
        lambda b: {"session_id": "same", "user_id": b.user, "channel": "telegram", "title": "new"},
        key=["session_id"],
    ),
    "get_by_session_id": Call(lambda r, _: r.get_by_session_id("same"), statements=1),
    "get_active": Call(lambda r, b: r.get_active(b.user, "telegram", "1"), statements=1),
    "get_or_start": Call(lambda r, b: r.get_or_start(b.user, "telegram", "1"), statements=1, needs_own_rows=True),
    "open": Call(lambda r, b: r.open("same", b.user), statements=1, needs_own_rows=True),
    "open, a new one": Call(
        lambda r, b: r.open(str(uuid7()), b.user), statements=1, needs_own_rows=True, makes_rows=True
    ),
    "clear": Call(lambda r, b: r.clear(b.conversation), statements=1),
    "fork": Call(lambda r, b: r.fork(b.conversation), statements=1),
    "close": Call(lambda r, b: r.close(b.conversation), statements=1),
    # Sorting all rows of a small tenant is cheaper than an index scan.
    "close_stale": Call(lambda r, _: r.close_stale(timedelta(0), now=LATER), statements=1, most_rows=1_100),
    "latest": Call(latest_items, statements=1),
    "page_for_user": Call(page_items, statements=1),
    "set_summary": Call(lambda r, b: r.set_summary(b.conversation, "x", upto_seq=1, expected_upto=0), statements=1),
    "claim_turn": Call(lambda r, b: r.claim_turn(b.conversation, "thief"), statements=1),
    "renew_turn": Call(lambda r, b: r.renew_turn(held(b)), statements=1),
    "release_turn": Call(lambda r, b: r.release_turn(held(b)), statements=1),
}
