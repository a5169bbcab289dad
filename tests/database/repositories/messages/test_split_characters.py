"""MessageHistoryRepository.extend: a character whose surrogate halves come in two pieces is stored as one."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime

import pytest

from src.database import get_db
from src.database.base import clean_text
from src.database.errors import StaleDataError
from src.database.models import Conversation, MessageHistory
from src.database.repositories import MessageHistoryRepository, UserRepository
from src.database.store import get_store
from tests.database.repositories.messages.conftest import message

HIGH, LOW = "\ud83d", "\ude42"
SMILE, LONE = "\N{SLIGHTLY SMILING FACE}", "\N{REPLACEMENT CHARACTER}"


@pytest.fixture
async def answer(messages: MessageHistoryRepository, conversation: Conversation) -> MessageHistory:
    begun = message("answer", None, role="assistant", state="incomplete", extra={"of": "ours"})
    return (await messages.append(conversation.id, begun)).message


async def send(messages: MessageHistoryRepository, *pieces: str, offset: int = 0) -> str | None:
    """Extend the answer by pieces, each one twice, as a sender does that counts by `len`."""
    content = None
    for piece in pieces:
        for _ in range(2):
            content = (await messages.extend("answer", piece, offset=offset)).content
        offset += len(piece)
    return content


async def test_halves_in_two_pieces_are_joined(messages: MessageHistoryRepository, answer: MessageHistory) -> None:
    assert await send(messages, "hi ", HIGH) == f"hi {LONE}"
    assert await send(messages, LOW, offset=4) == f"hi {SMILE}"
    assert await send(messages, "!", f" and {SMILE} {HIGH}", f"{LOW}{HIGH}", LOW, " end", offset=5) == (
        f"hi {SMILE}! and {SMILE} {SMILE}{SMILE} end"
    )
    assert answer.extra["of"] == "ours"


async def test_a_piece_that_is_sent_again_after_the_end_is_a_duplicate(
    messages: MessageHistoryRepository, answer: MessageHistory
) -> None:
    pieces = ("a", HIGH, f"{LOW}b", "c")
    await send(messages, *pieces)
    await messages.mark_complete("answer")

    assert await send(messages, *pieces) == f"a{SMILE}bc"
    with pytest.raises(StaleDataError, match="is complete"):
        await messages.extend("answer", "d", offset=5)


@pytest.mark.parametrize(
    ("pieces", "stored"),
    [
        ((HIGH, "x"), f"{LONE}x"),
        ((LOW, HIGH), f"{LONE}{LONE}"),
        ((HIGH, HIGH, LOW), f"{LONE}{SMILE}"),
        ((HIGH, "", LOW, LOW), f"{SMILE}{LONE}"),
        ((f"{HIGH}{LOW}", "x", "\0"), f"{SMILE}x{LONE}"),
        ((f"x{HIGH}",), f"x{LONE}"),
    ],
)
async def test_a_half_without_its_other_half_becomes_the_replacement_character(
    messages: MessageHistoryRepository, answer: MessageHistory, pieces: tuple[str, ...], stored: str
) -> None:
    assert await send(messages, *pieces) == stored


async def test_pieces_that_do_not_follow_are_refused(
    messages: MessageHistoryRepository, answer: MessageHistory
) -> None:
    await send(messages, "a", HIGH, LOW, "b")

    for piece, offset in (("c", 5), (LOW, 5), ("x", 0), ("x", 3), (HIGH, 3)):
        with pytest.raises(
            StaleDataError, match=f"the piece at {offset} does not continue the stored text, which has 4"
        ):
            await messages.extend("answer", piece, offset=offset)
    assert (await messages.extend("answer", "", offset=4)).content == f"a{SMILE}b"


async def test_the_count_of_tokens_is_forgotten_with_the_content_that_it_counted(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    begun = message("answer", "a", role="assistant", state="incomplete", token_count=1)
    await messages.append(conversation.id, begun)
    kept = (await messages.extend("answer", "a", offset=0)).token_count

    assert (kept, (await messages.extend("answer", HIGH, offset=1)).token_count) == (1, None)


async def test_the_first_half_may_come_with_the_message_and_in_every_split(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    dice = random.Random(7)  # noqa: S311 - a shuffle that repeats
    text = f"{HIGH}{LOW}a{HIGH}{LOW}{HIGH}{LOW}é{SMILE}{HIGH}{LOW}"
    for number in range(12):
        cuts = sorted(dice.sample(range(1, len(text)), dice.randint(1, 5)))
        first, *rest = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        begun = message(f"{number}", first, role="assistant", state="incomplete")
        await messages.append(conversation.id, begun)
        offset = len(first)
        for piece in rest:
            content = (await messages.extend(f"{number}", piece, offset=offset)).content
            offset += len(piece)

        assert content == f"{SMILE}a{SMILE}{SMILE}é{SMILE}{SMILE}"
        assert not (await messages.append(conversation.id, begun)).inserted


async def test_an_edit_resets_the_count(messages: MessageHistoryRepository, answer: MessageHistory) -> None:
    await send(messages, HIGH, LOW)
    await messages.edit("answer", "new", edited_at=datetime.now(UTC))

    assert (await messages.extend("answer", "!", offset=3)).content == "new!"


async def test_an_update_of_extra_keeps_the_count(messages: MessageHistoryRepository, answer: MessageHistory) -> None:
    await send(messages, HIGH, LOW)
    await messages.update(answer.id, extra={"of": "theirs"})

    assert (await messages.extend("answer", "!", offset=2)).content == f"{SMILE}!"
    assert answer.extra["of"] == "theirs"


@pytest.mark.usefixtures("cloned_database")
async def test_concurrent_writers_of_the_same_pieces_and_the_store_agree() -> None:
    pieces = ("b", HIGH, LOW, "c", HIGH, f"{LOW}d")
    async with get_db() as session:
        await UserRepository(session).get_or_create_by_telegram_id(1)
    begun = message("answer", f"a{HIGH}", role="assistant", state="incomplete")
    turn = await get_store().turn(1, "telegram", None, [message("1"), begun])

    async def write() -> None:
        offset = 2
        for piece in (LOW, *pieces):
            async with get_db() as session:
                await MessageHistoryRepository(session).extend("answer", piece, offset=offset)
            offset += len(piece)

    await asyncio.gather(*(write() for _ in range(3)))

    [_, stored] = await get_store().recent(turn.conversation.id)
    assert stored.content == f"a{SMILE}b{SMILE}c{SMILE}d"


def test_text_is_cleaned_of_lone_halves_alone() -> None:
    dice = random.Random(8)  # noqa: S311 - a shuffle that repeats
    for _ in range(500):
        text = "".join(dice.choices([HIGH, LOW, "a", "\0", "é", SMILE], k=6))
        pairs = text.replace(f"{HIGH}{LOW}", SMILE)
        assert clean_text(text) == "".join(LONE if one in {HIGH, LOW, "\0"} else one for one in pairs)
