"""The turn of a conversation: leased to one worker, under a token that only increases."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, select, text

from src.database import get_db
from src.database.base import utc_now, uuid7
from src.database.errors import NotFoundError, StaleDataError
from src.database.models import Conversation, User
from src.database.repositories import ConversationRepository, MessageHistoryRepository, Turn, UserRepository
from src.database.session import AsyncSession
from tests.acceptance.calls import a_message

A_MOMENT = timedelta(milliseconds=1)


@pytest.fixture
async def conversation(session: AsyncSession, user: User) -> Conversation:
    return (await ConversationRepository(session).get_or_start(user.id, "telegram"))[0]


@pytest.fixture
def conversations(session: AsyncSession) -> ConversationRepository:
    return ConversationRepository(session)


async def claimed(repository: ConversationRepository, conversation: Conversation, worker: str = "w") -> Turn:
    turn = await repository.claim_turn(conversation.id, worker)
    assert turn is not None
    return turn


async def expire_lease(repository: ConversationRepository, turn: Turn) -> None:
    await repository.renew_turn(turn, lease=A_MOMENT)
    await asyncio.sleep(0.02)


async def test_a_held_turn_cannot_be_claimed(conversations: ConversationRepository, conversation: Conversation) -> None:
    before = utc_now()

    turn = await claimed(conversations, conversation, "first")

    assert (turn.conversation_id, turn.worker, turn.token) == (conversation.id, "first", 1)
    assert timedelta(seconds=59) < turn.until - before < timedelta(seconds=61)
    assert await conversations.claim_turn(conversation.id, "second") is None
    assert await conversations.claim_turn(conversation.id, "first") is None, "the name of the worker is not enough"
    await conversations.session.refresh(conversation)
    assert (conversation.turn_claimed_by, conversation.turn_claimed_until) == ("first", turn.until)


async def test_a_claim_updates_the_conversation_in_the_session(
    conversations: ConversationRepository, conversation: Conversation
) -> None:
    def held() -> tuple[object, ...]:
        return (conversation.turn_token, conversation.turn_claimed_by, conversation.turn_claimed_until)

    turn = await claimed(conversations, conversation)
    assert held() == (1, "w", turn.until)
    renewed = await conversations.renew_turn(turn, lease=timedelta(minutes=5))
    assert held() == (1, "w", renewed.until)
    await conversations.release_turn(renewed)
    assert held() == (1, None, None)


async def test_a_released_turn_can_be_claimed_and_released_again(
    conversations: ConversationRepository, conversation: Conversation
) -> None:
    turn = await claimed(conversations, conversation)

    await conversations.release_turn(turn)
    await conversations.release_turn(turn)

    with pytest.raises(StaleDataError):
        await conversations.renew_turn(turn)
    assert (await claimed(conversations, conversation)).token == 2


async def test_an_old_holder_loses_the_turn_to_a_later_claim(
    conversations: ConversationRepository, conversation: Conversation
) -> None:
    old = await claimed(conversations, conversation, "old")
    await expire_lease(conversations, old)

    new = await claimed(conversations, conversation, "new")

    assert new.token > old.token
    for step in (conversations.renew_turn, conversations.release_turn):
        with pytest.raises(StaleDataError, match=f"the turn of conversation {conversation.id} is not held"):
            await step(old)
    assert (await conversations.renew_turn(new)).token == new.token, "the old holder has not changed it"


async def test_an_expired_turn_can_be_renewed_until_it_is_claimed(
    conversations: ConversationRepository, conversation: Conversation
) -> None:
    turn = await claimed(conversations, conversation)
    await expire_lease(conversations, turn)

    renewed = await conversations.renew_turn(turn, lease=timedelta(minutes=5))

    assert renewed.until - turn.until > timedelta(minutes=3)
    assert (renewed.token, renewed.worker) == (turn.token, turn.worker)
    assert await conversations.claim_turn(conversation.id, "other") is None


async def test_the_turn_of_a_closed_conversation_can_be_claimed_but_not_of_a_deleted_one(
    conversations: ConversationRepository, conversation: Conversation
) -> None:
    await conversations.close(conversation.id)
    turn = await claimed(conversations, conversation)

    await conversations.delete(conversation.id)

    for one in (conversation.id, uuid7()):
        with pytest.raises(NotFoundError):
            await conversations.claim_turn(one, "w")
    with pytest.raises(StaleDataError):
        await conversations.renew_turn(turn)


@pytest.mark.parametrize("lease", [timedelta(0), timedelta(seconds=-1), timedelta(days=1, seconds=1), timedelta.max])
async def test_rejects_an_invalid_lease(
    conversations: ConversationRepository, conversation: Conversation, lease: timedelta
) -> None:
    turn = await claimed(conversations, conversation)

    for step in (
        conversations.claim_turn(conversation.id, "w", lease=lease),
        conversations.renew_turn(turn, lease=lease),
    ):
        with pytest.raises(ValueError, match="lease must be more than zero and at most 1 day"):
            await step
    with pytest.raises(ValueError, match="worker must be the name of the worker"):
        await conversations.claim_turn(conversation.id, "")


async def start() -> UUID:
    async with get_db() as session:
        user, _ = await UserRepository(session).get_or_create_by_telegram_id(1)
        return (await ConversationRepository(session).get_or_start(user.id, "telegram"))[0].id


@pytest.mark.usefixtures("cloned_database")
async def test_a_lease_counts_from_the_claim_and_not_from_where_its_transaction_began() -> None:
    conversation_id = await start()

    async with get_db() as session:
        await session.scalar(select(func.now()))
        await asyncio.sleep(0.2)
        turn = await ConversationRepository(session).claim_turn(conversation_id, "w", lease=timedelta(seconds=1))
        began = await session.scalar(select(func.now()))

    assert turn is not None
    assert began is not None
    assert turn.until - began >= timedelta(seconds=1.2)


@pytest.mark.usefixtures("cloned_database")
async def test_a_claim_waits_for_an_append_that_is_under_way() -> None:
    conversation_id = await start()

    async with get_db() as appending:
        await MessageHistoryRepository(appending).append(conversation_id, a_message("a"))
        async with get_db() as claiming:
            claim = asyncio.create_task(ConversationRepository(claiming).claim_turn(conversation_id, "w"))
            await asyncio.sleep(0.1)
            assert not claim.done()
            await appending.commit()
            turn = await claim
            row = await ConversationRepository(claiming).get(conversation_id)

    assert turn is not None
    assert (row.last_seq, row.turn_token) == (1, turn.token), "both changes are stored"


class Answering:
    """Workers that answer in one conversation; every fourth holder stops, and continues after another claim."""

    def __init__(self, conversation_id: UUID, answers: int) -> None:
        self.conversation_id = conversation_id
        self.wanted = answers
        self.answered: list[int] = []
        self.lost: list[int] = []
        self.refused: list[int] = []

    async def work(self, worker: str) -> None:
        lease = timedelta(milliseconds=100)
        while len(self.answered) < self.wanted:
            async with get_db() as session:
                turn = await ConversationRepository(session).claim_turn(self.conversation_id, worker, lease=lease)
            if turn is None:
                await asyncio.sleep(0.02)
            elif turn.token % 4 == 0:
                self.lost.append(turn.token)
                await self.wait_for_the_next_claim(turn)
                await self.answer(turn)
            else:
                await self.answer(turn)

    async def wait_for_the_next_claim(self, turn: Turn) -> None:
        token = turn.token
        while token == turn.token and len(self.answered) < self.wanted:
            await asyncio.sleep(0.02)
            async with get_db() as session:
                token = (await ConversationRepository(session).get(self.conversation_id)).turn_token

    async def answer(self, turn: Turn) -> None:
        try:
            async with get_db() as session:
                await ConversationRepository(session).renew_turn(turn)  # the fence, here without a message
                await ConversationRepository(session).release_turn(turn)
        except StaleDataError:
            self.refused.append(turn.token)
        else:
            self.answered.append(turn.token)


@pytest.mark.slow
@pytest.mark.usefixtures("cloned_database")
async def test_one_of_8_workers_at_a_time_has_the_turn_and_a_dead_one_is_replaced() -> None:
    answering = Answering(await start(), answers=10)

    async with asyncio.timeout(30):
        await asyncio.gather(*(answering.work(f"w{n}") for n in range(8)))

    assert answering.answered == sorted(set(answering.answered)), "in the order of the tokens, and each once"
    assert len(answering.lost) >= 3
    assert len(set(answering.lost) & set(answering.refused)) >= len(answering.lost) - 1, (
        "all but the last holder, after whom no worker claimed the turn"
    )


@pytest.mark.usefixtures("cloned_database")
async def test_one_of_8_concurrent_claims_gets_the_turn() -> None:
    conversation_id = await start()

    async def claim(worker: str) -> Turn | None:
        async with get_db() as session:
            return await ConversationRepository(session).claim_turn(conversation_id, worker)

    turns = await asyncio.gather(*(claim(f"w{n}") for n in range(8)))

    assert [turn.token for turn in turns if turn is not None] == [1]


async def test_claims_of_turns_leave_the_indexes_as_they_are(
    conversations: ConversationRepository, session: AsyncSession, user: User
) -> None:
    """Heap-only updates take room in the page, which new rows leave."""
    made = [
        Conversation(user_id=user.id, session_id=f"s{n}", channel="web", external_chat_id=f"{n}") for n in range(200)
    ]
    await conversations.add_many(made)

    for conversation in made[::10]:
        await claimed(conversations, conversation)

    table = text("'conversations'::regclass")
    counted = select(func.pg_stat_get_xact_tuples_updated(table), func.pg_stat_get_xact_tuples_hot_updated(table))
    assert tuple((await session.execute(counted)).one()) == (20, 20)
