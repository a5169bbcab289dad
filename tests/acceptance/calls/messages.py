"""The calls of MessageHistoryRepository."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from src.database.base import utc_now
from src.database.models import MessageHistory
from src.database.repositories import MessageHistoryRepository
from tests.acceptance.calls.rows import TURN, Call, a_message, listed, refused

AT: Final = datetime(2000, 1, 1, tzinfo=UTC)


async def items(page: Awaitable[Any]) -> list[Any]:
    return list((await page).items)


REPOSITORY: Final = MessageHistoryRepository
CALLS: Final = {
    "add": Call(lambda r, b: refused(r.add(MessageHistory(conversation_id=b.conversation))), statements=0),
    "add_many": Call(lambda r, _: refused(r.add_many([])), statements=0),
    "upsert": Call(lambda r, _: refused(r.upsert({"message_id": "same"}, key=["message_id"])), statements=0),
    "append": Call(lambda r, b: r.append(b.conversation, a_message("new")), statements=1),
    "append_many": Call(lambda r, b: r.append_many(b.conversation, [a_message("new")]), statements=1),
    "last": Call(lambda r, b: r.last(b.conversation), statements=1),
    "recent": Call(lambda r, b: r.recent(b.conversation), statements=1),
    "before": Call(lambda r, b: r.before(b.conversation, 2), statements=1),
    "after": Call(lambda r, b: r.after(b.conversation, 0), statements=1),
    "around": Call(lambda r, b: r.around(b.conversation, 1), statements=1),
    "stream_conversation": Call(lambda r, b: listed(r.stream_conversation(b.conversation)), statements=1),
    "page_since": Call(lambda r, b: items(r.page_since(AT, conversation_id=b.conversation)), statements=1),
    "page_since, of a user": Call(lambda r, b: items(r.page_since(AT, user_id=b.user)), statements=1),
    "search": Call(lambda r, b: items(r.search(b.user, "secret")), statements=1),
    "tail": Call(lambda r, b: r.tail(b.conversation, 0), statements=1),
    "get_by_message_id": Call(lambda r, _: r.get_by_message_id("same"), statements=1),
    "edit": Call(lambda r, _: r.edit("same", "stolen", edited_at=utc_now()), statements=2),
    "pop": Call(lambda r, b: r.pop(b.conversation), statements=1),
    "extend": Call(lambda r, _: r.extend("unfinished", " and more", offset=6, turn=TURN), statements=1),
    "mark_complete": Call(lambda r, _: r.mark_complete("unfinished"), statements=1),
    "mark_interrupted": Call(lambda r, _: r.mark_interrupted("unfinished"), statements=1),
    "interrupt_stale": Call(lambda r, _: r.interrupt_stale(older_than=timedelta(microseconds=1)), statements=1),
    "usage": Call(lambda r, b: r.usage(user_id=b.user, by=["day", "model"]), statements=1),
    "purge": Call(lambda r, _: r.purge(utc_now() + timedelta(days=1)), statements=4, most_rows=1_000),
}
