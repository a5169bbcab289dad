"""A user's conversations by last activity, and messages by time and by words: the same on both paths."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from src.database import get_db
from src.database.base import uuid7
from src.database.repositories import ConversationRepository, LastMessage, MessageHistoryRepository
from src.database.statements import InvalidCursorError, Page
from tests.database.store.paths import Path, new_message

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def user_id(path: Path) -> UUID:
    created, _ = await path.get_or_create_user(1)
    return created


async def chats(path: Path, user_id: UUID, count: int) -> list[UUID]:
    return [(await path.open(f"s{number}", user_id))[0] for number in range(count)]


async def delete_message(key: str) -> None:
    async with get_db() as session:
        messages = MessageHistoryRepository(session)
        found = await messages.get_by_message_id(key)
        assert found is not None
        await messages.delete(found.id)


async def delete_conversation(conversation_id: UUID) -> None:
    async with get_db() as session:
        await ConversationRepository(session).delete(conversation_id)


async def walk(call: Callable[..., Awaitable[Page[Any]]], limit: int) -> list[Any]:
    """Return the rows of all pages; each page but the last is full."""
    found: list[Any] = []
    page = await call(limit=limit)
    while page.next_cursor is not None:
        assert len(page.items) == limit
        found += page.items
        page = await call(limit=limit, after=page.next_cursor)
    return [*found, *page.items]


def keys(rows: list[Any]) -> list[str]:
    return [row.message_id for row in rows]


async def test_conversations_are_listed_by_last_activity_with_their_last_message(path: Path, user_id: UUID) -> None:
    one, two, three, empty, gone = await chats(path, user_id, 5)
    for number, (there, minutes) in enumerate([(one, 9), (two, 8), (three, 7), (gone, 60), (two, 10), (one, 1)]):
        at = datetime.now(UTC) + timedelta(minutes=minutes)
        await path.append_many(there, [new_message(number, f"text {number}", created_at=at)])
    await delete_message("2")
    await delete_conversation(gone)
    await path.append_many(await other_conversation(path), [new_message("other")])

    [first, *rest] = (await path.latest(user_id)).items

    assert [each.conversation.id for each in (first, *rest)] == [two, one, three, empty]
    assert first.conversation.last_seq == 2
    assert (first.last_message.content, first.last_message.role, first.last_message.seq) == ("text 4", "user", 2)
    assert first.last_message.created_at == first.conversation.last_message_at
    assert [each.last_message and each.last_message.content for each in rest] == ["text 5", None, None]
    assert "text" not in repr(first.last_message)


async def other_conversation(path: Path) -> UUID:
    other, _ = await path.get_or_create_user(2)
    return (await path.open("other", other))[0]


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_pages_of_conversations_have_each_one_once(path: Path, user_id: UUID, limit: int) -> None:
    opened = await chats(path, user_id, 4)
    for number, there in enumerate(opened):  # two have the same time
        await path.append_many(there, [new_message(number, created_at=START + timedelta(days=9000 + number // 2))])

    found = await walk(lambda **options: path.latest(user_id, **options), limit)

    assert {each.conversation.id for each in found} == set(opened)
    assert [each.conversation.last_message_at for each in found] == sorted(
        (each.conversation.last_message_at for each in found), reverse=True
    )
    assert len(found) == 4


async def test_a_conversation_in_the_session_is_refreshed(path: Path, user_id: UUID) -> None:
    [there] = await chats(path, user_id, 1)
    async with get_db() as session:
        conversations = ConversationRepository(session)
        row = await conversations.get(there)
        await asyncio.create_task(path.append_many(there, [new_message("k")]))

        [latest] = (await conversations.latest(user_id)).items

        assert latest.conversation is row
        assert row.last_seq == 1
        assert isinstance(latest.last_message, LastMessage)


@pytest.mark.parametrize("of", ["conversation_id", "user_id"])
async def test_pages_since_an_instant_are_in_the_order_of_time(path: Path, user_id: UUID, of: str) -> None:
    here, there, gone = await chats(path, user_id, 3)
    ids = {"conversation_id": here, "user_id": user_id}
    await path.append_many(gone, [new_message("gone", created_at=START + timedelta(hours=1))])
    await delete_conversation(gone)
    for number in (3, 0, 2, 1, 4):
        at = START + timedelta(hours=number)
        await path.append_many(here, [new_message(f"{number}{half}", created_at=at) for half in "ab"])
    await path.append_many(there, [new_message("there", created_at=START + timedelta(hours=5))])
    await path.append_many(
        await other_conversation(path), [new_message("other", created_at=START + timedelta(hours=5))]
    )
    await delete_message("2b")

    async def since(**options: Any) -> Page[Any]:
        return await path.page_since(START + timedelta(hours=1), **{of: ids[of]}, **options)

    expected = ["1a", "1b", "2a", "3a", "3b", "4a", "4b", *(["there"] if of == "user_id" else [])]
    for limit in (1, 3, 100):
        assert keys(await walk(since, limit)) == expected
    assert keys(list((await path.page_since(START + timedelta(hours=9), **{of: ids[of]})).items)) == []


async def test_a_deleted_conversation_has_no_messages_since_an_instant(path: Path, user_id: UUID) -> None:
    [there] = await chats(path, user_id, 1)
    await path.append_many(there, [new_message("k")])
    await delete_conversation(there)

    assert list((await path.page_since(START, conversation_id=there)).items) == []


async def test_since_needs_one_id_and_an_aware_instant(path: Path, user_id: UUID) -> None:
    with pytest.raises(ValueError, match="either conversation_id or user_id, got neither"):
        await path.page_since(START)
    with pytest.raises(ValueError, match="either conversation_id or user_id, got both"):
        await path.page_since(START, user_id=user_id, conversation_id=user_id)
    with pytest.raises(ValueError, match="since must be aware"):
        await path.page_since(datetime(2026, 1, 1), user_id=user_id)  # noqa: DTZ001 - the fault


async def test_a_search_finds_words_phrases_and_alternatives(path: Path, user_id: UUID) -> None:
    here, there = await chats(path, user_id, 2)
    texts = {"1": "the red balloon", "2": "a balloon that is red", "3": "green balloons", "4": None, "5": "red wine"}
    for number, (key, text) in enumerate(texts.items()):
        at = START + timedelta(minutes=number)
        await path.append_many(here if number % 2 else there, [new_message(key, text, created_at=at)])

    async def found(query: str, **options: Any) -> list[str]:
        return keys(list((await path.search(user_id, query, **options)).items))

    assert await found("balloon red") == ["2", "1"]
    assert await found('"red balloon"') == ["1"]
    assert await found("wine or green") == ["5", "3"]
    assert await found("red -balloon") == ["5"]
    assert await found("RED balloons") == []
    assert await found("balloons", config="english") == ["3", "2", "1"]
    assert await found("") == await found("the", config="english") == []


async def test_a_search_finds_only_what_can_be_read(path: Path, user_id: UUID) -> None:
    here, gone = await chats(path, user_id, 2)
    await path.append_many(here, [new_message("deleted", "secret"), new_message("edited", "secret")])
    await path.append_many(gone, [new_message("of a deleted conversation", "secret")])
    await path.append_many(await other_conversation(path), [new_message("of another user", "secret")])
    await delete_message("deleted")
    await delete_conversation(gone)
    async with get_db() as session:
        await MessageHistoryRepository(session).edit("edited", "public", edited_at=datetime.now(UTC))

    assert list((await path.search(user_id, "secret")).items) == []
    assert keys(list((await path.search(user_id, "public")).items)) == ["edited"]


async def test_pages_of_a_search_have_each_match_once_the_newest_first(path: Path, user_id: UUID) -> None:
    [here] = await chats(path, user_id, 1)
    texts = [new_message(number, "yes" if number % 2 else "no", created_at=START) for number in range(10)]
    await path.append_many(here, texts)

    for limit in (1, 2, 5):
        assert keys(await walk(lambda **options: path.search(user_id, "yes", **options), limit)) == list("97531")


@pytest.mark.parametrize(
    "query",
    [
        "'",
        '"',
        "((",
        "a & | !",
        "-",
        "or",
        ":*",
        "\\",
        "\0",
        "\ud800",
        "a:b:c",
        "😀" * 1000,
        "- " * 500,
        "é" * 1000,
        "-" * 1000,
        '-" ' * 300,
    ],
)
async def test_no_query_is_an_error(path: Path, user_id: UUID, query: str) -> None:
    [here] = await chats(path, user_id, 1)
    await path.append_many(here, [new_message("k", query), new_message("words", "\N{SNOWMAN} ".join("abc" * 999))])

    await path.search(user_id, query)


async def test_a_long_message_can_be_searched(path: Path, user_id: UUID) -> None:
    """PostgreSQL rejects a tsvector of more than 1 MB: only the first 100,000 characters are searched."""
    [here] = await chats(path, user_id, 1)
    words = " ".join(f"first{number}-\N{GOTHIC LETTER AHSA}{number}" for number in range(60_000))
    await path.append_many(here, [new_message("k", f"{words} last")])

    assert keys(list((await path.search(user_id, "first5")).items)) == ["k"]
    assert list((await path.search(user_id, "last")).items) == []


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"config": "klingon"}, "config must be a text search configuration of the server, .* got 'klingon'"),
        ({"config": "simple; SELECT"}, "config must be a text search configuration"),
        ({"config": "3748"}, "config must be a text search configuration"),
        ({"config": None}, "config must be a text search configuration"),
        ({"limit": 0}, "limit must be from 1"),
        ({"query": "a" * 1001}, "query must be at most 1000 characters, got 1001"),
        ({"query": None}, "query must be a string, got NoneType"),
    ],
)
async def test_arguments_of_a_search_are_checked(path: Path, options: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        await path.search(uuid7(), **{"query": "x", **options})


async def test_a_cursor_belongs_to_its_query(path: Path, user_id: UUID) -> None:
    [here] = await chats(path, user_id, 1)
    await path.append_many(here, [new_message(number, "x") for number in range(2)])
    cursor = (await path.search(user_id, "x", limit=1)).next_cursor

    for call in (
        path.search(user_id, "y", after=cursor),
        path.search(user_id, "x", config="english", after=cursor),
        path.page_since(START, user_id=user_id, after=cursor),
        path.latest(user_id, after=cursor),
        path.latest(user_id, after="?"),
    ):
        with pytest.raises(InvalidCursorError):
            await call


async def test_a_conversation_is_streamed_whole_in_its_order(path: Path, user_id: UUID) -> None:
    here, there = await chats(path, user_id, 2)
    for first in range(0, 1500, 750):
        await path.append_many(here, [new_message(number) for number in range(first, first + 750)])
    await path.append_many(there, [new_message("there")])
    await delete_message("1")

    rows = await path.stream(here)

    assert [row[3] for row in rows] == [1, *range(3, 1501)]
    assert rows[-50:] == await path.recent(here)
    assert [row[3] for row in await path.stream(here, after_seq=1499)] == [1500]
    await delete_conversation(here)
    assert await path.stream(here) == []
    with pytest.raises(ValueError, match="after_seq must be an integer from 0"):
        await path.stream(here, after_seq=-1)


async def test_another_tenants_rows_are_not_found(path: Path, others_conversation: UUID) -> None:
    assert await path.stream(others_conversation) == []
    assert list((await path.page_since(START, conversation_id=others_conversation)).items) == []
