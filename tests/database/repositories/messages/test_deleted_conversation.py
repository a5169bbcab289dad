"""The messages of a deleted conversation count as missing, until it is restored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import joinedload, selectinload

from src.database.base import utc_now
from src.database.errors import IdempotencyConflictError, NotFoundError
from src.database.models import Conversation, MessageHistory, User
from src.database.repositories import ConversationRepository, MessageHistoryRepository, UserRepository
from src.database.session import AsyncSession
from tests.database.repositories.messages.conftest import message

Reads = Callable[[MessageHistoryRepository, UUID, UUID], Awaitable[Any]]
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
def conversations(session: AsyncSession) -> ConversationRepository:
    return ConversationRepository(session)


@pytest.fixture
async def question(messages: MessageHistoryRepository, conversation: Conversation) -> MessageHistory:
    """A message before an incomplete answer."""
    first, _ = await messages.append_many(
        conversation.id, [message("a", input_tokens=1), message("b", "so far", role="assistant", state="incomplete")]
    )
    return first.message


async def page(messages: MessageHistoryRepository) -> list[MessageHistory]:
    return list((await messages.page()).items)


async def streamed(messages: MessageHistoryRepository) -> list[MessageHistory]:
    return [row async for row in messages.stream()]


READS: dict[str, Reads] = {
    "recent": lambda r, c, _: r.recent(c),
    "recent within a budget": lambda r, c, _: r.recent(c, token_budget=100),
    "before": lambda r, c, _: r.before(c, 9),
    "after": lambda r, c, _: r.after(c, 0),
    "around": lambda r, c, _: r.around(c, 1),
    "tail": lambda r, c, _: r.tail(c, 0),
    "get_by_message_id": lambda r, _, __: r.get_by_message_id("a"),
    "get_or_none": lambda r, _, m: r.get_or_none(m),
    "get_many": lambda r, _, m: r.get_many([m]),
    "exists": lambda r, c, _: r.exists(MessageHistory.conversation_id == c),
    "count": lambda r, _, __: r.count(),
    "page": lambda r, _, __: page(r),
    "stream": lambda r, _, __: streamed(r),
    "usage": lambda r, c, _: r.usage(conversation_id=c, by=["day"]),
}
WRITES: dict[str, Reads] = {
    "append": lambda r, c, _: r.append(c, message("new")),
    "edit": lambda r, _, __: r.edit("a", "x", edited_at=utc_now()),
    "update": lambda r, _, m: r.update(m, model="m"),
    "update of extra": lambda r, _, m: r.update(m, extra={"a": 1}),
    "delete": lambda r, _, m: r.delete(m),
    "restore": lambda r, _, m: r.restore(m),
    "pop": lambda r, c, _: r.pop(c),
    "extend": lambda r, _, __: r.extend("b", " more", offset=6),
    "extend under a turn": lambda r, _, __: r.extend("b", " more", offset=6, turn=0),
    "mark_complete": lambda r, _, __: r.mark_complete("b"),
    "mark_interrupted": lambda r, _, __: r.mark_interrupted("b"),
}


@pytest.mark.parametrize("name", READS)
async def test_methods_do_not_read_it(
    messages: MessageHistoryRepository, conversations: ConversationRepository, question: MessageHistory, name: str
) -> None:
    there, of = question.id, question.conversation_id
    before = await READS[name](messages, of, there)

    await conversations.delete(of)
    while_deleted = await READS[name](messages, of, there)
    await conversations.restore(of)

    assert before
    assert not while_deleted
    assert await READS[name](messages, of, there) == before


@pytest.mark.parametrize("name", WRITES)
async def test_methods_do_not_write_it(
    messages: MessageHistoryRepository, conversations: ConversationRepository, question: MessageHistory, name: str
) -> None:
    there, of = question.id, question.conversation_id
    await conversations.delete(of)

    with pytest.raises(NotFoundError):
        await WRITES[name](messages, of, there)

    await conversations.restore(of)
    assert [(one.content, one.state) for one in await messages.after(of, 0)] == [
        ("hola", "complete"),
        ("so far", "incomplete"),
    ]
    await WRITES[name](messages, of, there)


async def test_its_incomplete_answer_is_interrupted_only_after_the_restoration(
    messages: MessageHistoryRepository, conversations: ConversationRepository, question: MessageHistory
) -> None:
    older_than = timedelta(microseconds=1)
    await conversations.delete(question.conversation_id)

    assert await messages.interrupt_stale(older_than=older_than) == []
    await conversations.restore(question.conversation_id)

    assert [one.message_id for one in await messages.interrupt_stale(older_than=older_than)] == ["b"]


async def test_the_usage_of_a_deleted_conversation_can_be_counted(
    messages: MessageHistoryRepository, conversations: ConversationRepository, question: MessageHistory
) -> None:
    await conversations.delete(question.conversation_id)

    (spent,) = await messages.usage(since=LONG_AGO, include_deleted=True)
    (seen,) = await messages.usage(since=LONG_AGO)

    assert (spent.messages, spent.input_tokens) == (2, 1)
    assert seen.messages == 0


async def test_a_message_that_was_deleted_before_stays_deleted_after_the_restoration(
    messages: MessageHistoryRepository, conversations: ConversationRepository, question: MessageHistory
) -> None:
    there, of = question.id, question.conversation_id
    await messages.delete(there)
    await conversations.delete(of)
    await conversations.restore(of)

    assert [one.message_id for one in await messages.after(of, 0)] == ["b"]


async def test_its_messages_can_still_be_erased(
    messages: MessageHistoryRepository, conversations: ConversationRepository, question: MessageHistory
) -> None:
    await conversations.delete(question.conversation_id)

    await messages.delete(question.id, hard=True)

    assert await messages.purge(utc_now() + timedelta(days=1), dry_run=True) == 1


@pytest.mark.parametrize("load", [selectinload, joinedload])
async def test_its_messages_are_not_loaded_with_their_user(
    session: AsyncSession,
    messages: MessageHistoryRepository,
    conversations: ConversationRepository,
    question: MessageHistory,
    load: Callable[..., Any],
) -> None:
    user_id, of = question.user_id, question.conversation_id
    other, _ = await conversations.get_or_start(user_id, "telegram", "2")
    await messages.append(other.id, message("c"))
    await conversations.delete(of)
    session.expunge_all()

    user = await UserRepository(session).get(user_id, options=[load(User.messages)])

    assert [one.message_id for one in user.messages] == ["c"]


async def test_a_key_of_a_deleted_conversation_is_a_duplicate_that_is_reported_as_deleted(
    messages: MessageHistoryRepository, conversations: ConversationRepository, question: MessageHistory
) -> None:
    await conversations.delete(question.conversation_id)
    successor, started = await conversations.get_or_start(question.user_id, "telegram", "1")

    again, new = await messages.append_many(successor.id, [message("a", input_tokens=1), message("new")])

    assert started
    assert (again.inserted, again.is_there, again.message.id) == (False, False, question.id)
    assert (new.inserted, new.is_there, new.message.seq) == (True, True, 1)


async def test_a_duplicate_reports_whether_it_is_deleted(
    messages: MessageHistoryRepository, conversations: ConversationRepository, question: MessageHistory
) -> None:
    repeated = message("a", input_tokens=1)
    await conversations.close(question.conversation_id)
    successor, _ = await conversations.get_or_start(question.user_id, "telegram", "1")

    assert (await messages.append(question.conversation_id, repeated)).is_there
    assert (await messages.append(successor.id, repeated)).is_there
    await messages.delete(question.id)
    assert not (await messages.append(question.conversation_id, repeated)).is_there
    assert not (await messages.append(successor.id, repeated)).is_there


@pytest.mark.parametrize("chat", ["1", None])
async def test_a_key_of_a_user_who_was_deleted_and_created_again_is_a_duplicate(
    session: AsyncSession, messages: MessageHistoryRepository, conversations: ConversationRepository, chat: str | None
) -> None:
    users = UserRepository(session)
    left, _ = await users.get_or_create_by_telegram_id(7)
    first, _ = await conversations.get_or_start(left.id, "telegram", chat)
    await messages.append(first.id, message("a"))
    await users.delete(left.id)
    back, _ = await users.get_or_create_by_telegram_id(7)
    second, started = await conversations.get_or_start(back.id, "telegram", chat)

    again = await messages.append(second.id, message("a"))

    assert started
    assert (again.inserted, again.is_there, again.message.conversation_id) == (False, True, first.id)


@pytest.mark.parametrize(("chat", "leaves"), [(None, True), (None, False), ("1", False)])
async def test_a_key_of_another_user_is_a_conflict(
    session: AsyncSession,
    messages: MessageHistoryRepository,
    conversations: ConversationRepository,
    chat: str | None,
    leaves: bool,
) -> None:
    users = UserRepository(session)
    ada, bob = [(await users.get_or_create_by_telegram_id(number))[0] for number in (7, 8)]
    of_ada, _ = await conversations.get_or_start(ada.id, "telegram", chat)
    of_bob, _ = await conversations.get_or_start(bob.id, "telegram", chat)
    await messages.append(of_ada.id, message("a"))
    if leaves:
        await users.delete(ada.id)

    with pytest.raises(IdempotencyConflictError, match="another chat"):
        await messages.append(of_bob.id, message("a"))
