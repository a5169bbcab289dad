"""MessageHistoryRepository: a worker that has lost the turn can neither extend nor end its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select

from src.database import get_db
from src.database.errors import NotFoundError, StaleDataError
from src.database.models import Conversation, MessageHistory
from src.database.repositories import ConversationRepository, MessageHistoryRepository, Turn, UserRepository
from src.database.session import AsyncSession
from tests.database.repositories.messages.conftest import message

Step = Callable[[MessageHistoryRepository, Any], Awaitable[MessageHistory]]
STEPS: dict[str, Step] = {
    "extend": lambda messages, turn: messages.extend("answer", "la", offset=2, turn=turn),
    "mark_complete": lambda messages, turn: messages.mark_complete("answer", turn=turn),
    "mark_interrupted": lambda messages, turn: messages.mark_interrupted("answer", turn=turn),
}
AT_ONCE = timedelta(microseconds=1)


@pytest.fixture(params=STEPS)
def step(request: pytest.FixtureRequest) -> Step:
    return STEPS[request.param]


async def take_turn(session: AsyncSession, conversation_id: UUID, lease: timedelta = AT_ONCE) -> Turn:
    turn = await ConversationRepository(session).claim_turn(conversation_id, "w", lease=lease)
    assert turn is not None
    return turn


async def begin(messages: MessageHistoryRepository, conversation_id: UUID) -> Turn:
    """Take the turn, begin the answer, and let the lease run out."""
    turn = await take_turn(messages.session, conversation_id)
    await messages.append(conversation_id, message("answer", "Ho", role="assistant", state="incomplete"))
    return turn


async def test_the_holder_of_the_turn_changes_its_answer_also_after_the_lease(
    messages: MessageHistoryRepository, conversation: Conversation, step: Step
) -> None:
    turn = await begin(messages, conversation.id)

    changed = await step(messages, turn.token)

    assert (changed.content, changed.state) != ("Ho", "incomplete")
    assert await step(messages, turn.token) is changed, "a retry"


async def test_a_lost_turn_changes_nothing(
    messages: MessageHistoryRepository, conversation: Conversation, step: Step
) -> None:
    lost = await begin(messages, conversation.id)
    new = await take_turn(messages.session, conversation.id)

    with pytest.raises(
        StaleDataError, match=f"turn must be the conversation's last token, {new.token}, got {lost.token}"
    ):
        await step(messages, lost.token)

    found = await messages.get_by_message_id("answer")
    assert found is not None
    assert (found.content, found.state) == ("Ho", "incomplete")
    await step(messages, new.token)
    with pytest.raises(StaleDataError, match="turn must be the conversation's last"):
        await step(messages, lost.token)  # also a retry of a stored piece


async def test_the_turn_of_another_conversation_is_rejected(
    messages: MessageHistoryRepository, conversation: Conversation, step: Step
) -> None:
    turn = await begin(messages, conversation.id)
    other, _ = await ConversationRepository(messages.session).get_or_start(conversation.user_id, "web")
    for _ in range(2):
        elsewhere = await take_turn(messages.session, other.id)

    with pytest.raises(StaleDataError):
        await step(messages, elsewhere.token)
    await step(messages, turn.token)


async def test_a_missing_message_is_not_found_under_a_turn_either(
    messages: MessageHistoryRepository, conversation: Conversation, step: Step
) -> None:
    with pytest.raises(NotFoundError):
        await step(messages, 0)


@pytest.mark.parametrize("kind", ["Turn", "float", "str", "bool", "2^64", "-1"])
async def test_an_invalid_token_is_rejected_with_the_remedy(
    messages: MessageHistoryRepository, conversation: Conversation, kind: str
) -> None:
    turn = await begin(messages, conversation.id)
    wrong: dict[str, Any] = {"Turn": turn, "float": 1.0, "str": "1", "bool": True, "2^64": 2**64, "-1": -1}

    for call in (
        messages.append(conversation.id, message("x"), turn=wrong[kind]),
        messages.append_many(conversation.id, [], turn=wrong[kind]),
        messages.pop(conversation.id, turn=wrong[kind]),
        *(step(messages, wrong[kind]) for step in STEPS.values()),
    ):
        with pytest.raises(ValueError, match=r"turn must be a token.*pass `turn\.token`"):
            await call


async def start() -> UUID:
    async with get_db() as session:
        user, _ = await UserRepository(session).get_or_create_by_telegram_id(1)
        return (await ConversationRepository(session).get_or_start(user.id, "telegram"))[0].id


@pytest.mark.usefixtures("cloned_database")
async def test_a_claim_that_is_committed_first_wins(step: Step) -> None:
    conversation_id = await start()
    async with get_db() as session:
        lost = await begin(MessageHistoryRepository(session), conversation_id)

    async with get_db() as claiming, get_db() as writing:
        await take_turn(claiming, conversation_id)
        late = asyncio.ensure_future(step(MessageHistoryRepository(writing), lost.token))
        await asyncio.sleep(0.1)
        assert not late.done(), "the change waits for the claim"
        await claiming.commit()
        with pytest.raises(StaleDataError, match="turn must be the conversation's last"):
            await late


@pytest.mark.usefixtures("cloned_database")
async def test_a_claim_waits_for_a_change_that_is_under_way(step: Step) -> None:
    conversation_id = await start()
    async with get_db() as session:
        turn = await begin(MessageHistoryRepository(session), conversation_id)

    async with get_db() as writing, get_db() as claiming:
        await step(MessageHistoryRepository(writing), turn.token)
        claim = asyncio.ensure_future(take_turn(claiming, conversation_id))
        await asyncio.sleep(0.1)
        assert not claim.done()
        await writing.commit()
        assert (await claim).token == turn.token + 1


@pytest.mark.usefixtures("cloned_database")
async def test_concurrent_copies_of_a_piece_are_added_once() -> None:
    conversation_id = await start()
    async with get_db() as session:
        turn = await begin(MessageHistoryRepository(session), conversation_id)

    async def send() -> None:
        async with get_db() as session:
            await STEPS["extend"](MessageHistoryRepository(session), turn.token)

    await asyncio.gather(*(send() for _ in range(4)))

    async with get_db() as session:
        found = await MessageHistoryRepository(session).get_by_message_id("answer")
    assert found is not None
    assert found.content == "Hola"


@pytest.mark.usefixtures("cloned_database")
async def test_a_piece_counts_from_when_it_was_written_and_not_from_where_its_transaction_began() -> None:
    conversation_id = await start()
    async with get_db() as session:
        await begin(MessageHistoryRepository(session), conversation_id)

    async with get_db() as session:
        await session.scalar(select(func.now()))
        await asyncio.sleep(1)
        await MessageHistoryRepository(session).extend("answer", "", offset=2)

    async with get_db() as session:
        assert await MessageHistoryRepository(session).interrupt_stale(older_than=timedelta(seconds=0.9)) == []
