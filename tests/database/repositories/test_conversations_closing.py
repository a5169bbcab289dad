"""ConversationRepository: closing one or a batch, and the summary that no slower writer overwrites."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import insert, text, update

from src.database.base import utc_now, uuid7
from src.database.errors import NotFoundError, StaleDataError
from src.database.models import Conversation, User
from src.database.repositories import ConversationRepository, MessageHistoryRepository
from src.database.session import AsyncSession
from tests.acceptance.calls import a_message

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def conversations(session: AsyncSession) -> ConversationRepository:
    return ConversationRepository(session)


async def with_silence(session: AsyncSession, user: User, chat: str, silence: timedelta) -> Conversation:
    """Start a conversation whose last message was this long before NOW."""
    conversation, _ = await ConversationRepository(session).get_or_start(user.id, "telegram", chat)
    conversation.last_message_at = NOW - silence
    await session.flush()
    return conversation


async def test_closing_a_closed_conversation_changes_nothing(conversations: ConversationRepository, user: User) -> None:
    conversation, _ = await conversations.get_or_start(user.id, "telegram")

    closed = await conversations.close(conversation.id, reason="said goodbye")
    at = closed.closed_at
    again = await conversations.close(conversation.id, reason="another")

    assert at is not None
    assert again is closed is conversation
    assert (closed.is_active, closed.closed_at, closed.close_reason) == (False, at, "said goodbye")


async def test_a_closed_conversation_accepts_messages_and_a_new_one_starts(
    conversations: ConversationRepository, user: User
) -> None:
    conversation, _ = await conversations.get_or_start(user.id, "telegram")
    await conversations.close(conversation.id)

    late = await MessageHistoryRepository(conversations.session).append(conversation.id, a_message("late"))
    successor, started = await conversations.get_or_start(user.id, "telegram")

    assert late.inserted
    assert started
    assert successor.id != conversation.id


async def test_closing_a_missing_conversation_fails(conversations: ConversationRepository, user: User) -> None:
    conversation, _ = await conversations.get_or_start(user.id, "telegram")
    await conversations.delete(conversation.id)

    for one in (conversation.id, uuid7()):
        with pytest.raises(NotFoundError):
            await conversations.close(one)


async def test_closes_idle_conversations_the_longest_idle_first(session: AsyncSession, user: User) -> None:
    silences = {"a": 3 * HOUR, "b": 5 * HOUR, "c": HOUR, "d": 4 * HOUR}
    made = {chat: await with_silence(session, user, chat, silence) for chat, silence in silences.items()}
    deleted = await with_silence(session, user, "deleted", 9 * HOUR)
    conversations = ConversationRepository(session)
    await conversations.delete(deleted.id)

    first = await conversations.close_stale(HOUR, limit=2, now=NOW)
    second = await conversations.close_stale(HOUR, limit=2, now=NOW)
    none = await conversations.close_stale(HOUR, limit=2, now=NOW)

    assert first == [made["b"], made["d"]]
    assert second == [made["a"]]
    assert none == []
    assert made["c"].is_active, "an equal duration is not longer"
    assert (made["b"].is_active, made["b"].closed_at, made["b"].close_reason) == (False, NOW, "idle")


async def test_a_conversation_without_messages_is_idle_since_its_start(
    conversations: ConversationRepository, user: User
) -> None:
    silent, _ = await conversations.get_or_start(user.id, "telegram")

    assert await conversations.close_stale(HOUR) == []
    assert await conversations.close_stale(HOUR, now=utc_now() + 2 * HOUR) == [silent]


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"idle_for": -HOUR}, "idle_for must be from zero"),
        ({"idle_for": timedelta.max}, "idle_for must be from zero"),
        ({"idle_for": HOUR, "limit": 0}, "limit must be from 1 to 1000"),
        ({"idle_for": HOUR, "limit": 1001}, "limit must be from 1 to 1000"),
        ({"idle_for": HOUR, "now": NOW.replace(tzinfo=None)}, "now must be aware"),
    ],
)
async def test_rejects_invalid_options(session: AsyncSession, options: dict[str, object], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        await ConversationRepository(session).close_stale(**options)  # type: ignore[arg-type] # what is tested


@pytest.mark.slow
async def test_close_stale_closes_the_first_1000_of_3_000_idle_conversations(session: AsyncSession, user: User) -> None:
    rows = [
        {"user_id": user.id, "channel": "web", "session_id": str(n), "last_message_at": NOW + n * HOUR}
        for n in reversed(range(3_000))
    ]
    for row in rows:
        row |= {"tenant_id": session.tenant_id, "id": uuid7(), "external_chat_id": row["session_id"]}
    await session.execute(insert(Conversation), rows)
    await session.execute(text("SET LOCAL enable_indexscan = off"))  # the order must not come from the index by chance

    closed = await ConversationRepository(session).close_stale(HOUR, limit=1000, now=NOW + 2000 * HOUR)

    assert [one.session_id for one in closed] == [str(n) for n in range(1000)]


async def test_a_slower_writer_does_not_overwrite_the_summary(
    conversations: ConversationRepository, user: User
) -> None:
    conversation, _ = await conversations.get_or_start(user.id, "telegram")
    conversation.last_seq = 9
    await conversations.session.flush()

    written = await conversations.set_summary(conversation.id, "fast", upto_seq=5, expected_upto=0)

    assert (written.summary, written.summary_upto_seq) == ("fast", 5)
    for upto in (3, 5, 7):
        with pytest.raises(StaleDataError, match="goes up to 5, not 0"):
            await conversations.set_summary(conversation.id, "slow", upto_seq=upto, expected_upto=0)
    again = await conversations.set_summary(conversation.id, "next", upto_seq=9, expected_upto=5)
    assert again is written
    assert (again.summary, again.summary_upto_seq) == ("next", 9)


async def test_a_summary_covers_only_existing_messages_and_moves_forward(
    conversations: ConversationRepository, user: User
) -> None:
    conversation, _ = await conversations.get_or_start(user.id, "telegram")
    conversation.last_seq = 9
    await conversations.session.flush()

    with pytest.raises(ValueError, match="upto_seq must be at most the conversation's last_seq, 9, got 10"):
        await conversations.set_summary(conversation.id, "x", upto_seq=10, expected_upto=0)
    for upto, expected in ((4, 5), (5, 5), (0, 0), (1, -1)):
        with pytest.raises(ValueError, match="upto_seq must be greater than expected_upto"):
            await conversations.set_summary(conversation.id, "x", upto_seq=upto, expected_upto=expected)
    assert conversation.summary is None


async def test_a_missing_conversation_cannot_be_summarized(conversations: ConversationRepository, user: User) -> None:
    conversation, _ = await conversations.get_or_start(user.id, "telegram")
    await conversations.session.execute(update(Conversation).values(last_seq=9, deleted_at=NOW))

    for one in (conversation.id, uuid7()):
        with pytest.raises(NotFoundError):
            await conversations.set_summary(one, "x", upto_seq=1, expected_upto=0)


async def test_the_slower_writer_reads_the_stored_summary(conversations: ConversationRepository, user: User) -> None:
    conversation, _ = await conversations.get_or_start(user.id, "telegram")
    faster = update(Conversation).where(Conversation.id == conversation.id)
    await conversations.session.execute(
        faster.values(last_seq=9, summary="fast", summary_upto_seq=5),
        execution_options={"synchronize_session": False},  # as another session's would be
    )

    with pytest.raises(StaleDataError, match="goes up to 5, not 0"):
        await conversations.set_summary(conversation.id, "slow", upto_seq=7, expected_upto=0)

    assert (conversation.summary, conversation.summary_upto_seq) == ("fast", 5)


@pytest.mark.parametrize("number", [2**63, 2**64, 1.0, True])
async def test_numbers_that_no_message_has_are_refused_by_name(
    conversations: ConversationRepository, number: int
) -> None:
    for options in ({"upto_seq": number, "expected_upto": 0}, {"upto_seq": 3, "expected_upto": number}):
        name = next(name for name, value in options.items() if value is number)
        with pytest.raises(ValueError, match=rf"{name} must be an integer of at most 2\^63 - 1"):
            await conversations.set_summary(uuid7(), "x", **options)


@pytest.mark.parametrize("now", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=timezone(-HOUR))])
async def test_an_invalid_now_is_rejected(conversations: ConversationRepository, user: User, now: datetime) -> None:
    for step in (
        conversations.close_stale(HOUR, now=now),
        conversations.get_or_start(user.id, "telegram", idle_timeout=HOUR, now=now),
    ):
        with pytest.raises(ValueError, match="now must be"):
            await step
