"""Conversations under a caller's session id, emptied and copied: the same through the store and the repositories."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from src.database import get_db
from src.database.base import uuid7
from src.database.errors import DuplicateKeyError, ForeignKeyError, NotFoundError, StaleDataError
from src.database.models import Conversation, MessageHistory
from src.database.repositories import ConversationRepository, MessageHistoryRepository
from tests.database.store.paths import Path, new_message

LONG = "a" * 300


@pytest.fixture
async def user_id(path: Path) -> UUID:
    created, _ = await path.get_or_create_user(1)
    return created


async def conversation(conversation_id: UUID) -> Conversation:
    async with get_db() as session:
        return await ConversationRepository(session).get(conversation_id)


async def seqs(path: Path, conversation_id: UUID) -> list[int]:
    return [row[3] for row in await path.recent(conversation_id)]


@pytest.mark.parametrize("session_id", ["s", LONG, "a\0", "\ud83d", "sha256:x", "deleted:x", "😀" * 255])
async def test_opens_one_conversation_under_a_session_id(path: Path, user_id: UUID, session_id: str) -> None:
    opened = await asyncio.gather(*(path.open(session_id, user_id) for _ in range(4)))
    other, is_new = await path.open(f"{session_id}2", user_id)

    assert len({one for one, _ in opened}) == 1
    assert [is_new for _, is_new in opened].count(True) == 1
    assert (is_new, other != opened[0][0]) == (True, True)
    row = await conversation(opened[0][0])
    assert row.extra.get("session_id", row.session_id) == session_id
    assert (row.channel, row.is_active, row.closed_at) == ("session", False, None)
    async with get_db() as session:
        found = await ConversationRepository(session).get_by_session_id(session_id)
    assert found is not None
    assert found.id == row.id


async def test_a_session_id_of_another_user_is_refused(path: Path, user_id: UUID) -> None:
    another, _ = await path.get_or_create_user(2)
    await path.open("s", user_id)

    with pytest.raises(DuplicateKeyError, match="the session id is taken by a conversation of another user"):
        await path.open("s", another)
    with pytest.raises(ForeignKeyError, match="no User with id"):
        await path.open("new", uuid7())


@pytest.mark.parametrize("session_id", ["", None, 7])
async def test_a_session_id_is_a_string(path: Path, user_id: UUID, session_id: Any) -> None:
    with pytest.raises(ValueError, match="session_id must be a string that is not empty, got"):
        await path.open(session_id, user_id)


@pytest.mark.parametrize("session_id", ["s", LONG])
async def test_only_a_conversation_that_is_opened_gets_extra(path: Path, user_id: UUID, session_id: str) -> None:
    opened, _ = await path.open(session_id, user_id, extra={"app": {"nul \0": 1}})
    assert await path.open(session_id, user_id, extra={"app": 2}) == (opened, False)

    row = await conversation(opened)
    assert row.extra.pop("session_id", session_id) == session_id
    assert row.extra == {"app": {"nul \0": 1}}


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ([1], "extra must be a dict, got list"),
        ({"session_id": "x"}, "extra must have no 'session_id'"),
        ({"x": {1}}, r"extra .* set"),
    ],
)
async def test_a_wrong_extra_opens_nothing(path: Path, user_id: UUID, extra: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        await path.open("s", user_id, extra=extra)
    assert (await path.latest(user_id)).items == []


async def test_after_a_deletion_the_session_id_opens_another_conversation(path: Path, user_id: UUID) -> None:
    first, _ = await path.open("s", user_id)
    async with get_db() as session:
        await ConversationRepository(session).delete(first)

    second, is_new = await path.open("s", user_id)

    assert is_new
    assert second != first
    async with get_db() as session:
        restored = await ConversationRepository(session).restore(first)
    assert restored.session_id == f"deleted:{first}"


async def test_an_opened_conversation_can_be_closed(path: Path, user_id: UUID) -> None:
    opened, _ = await path.open("s", user_id)
    async with get_db() as session:
        closed = await ConversationRepository(session).close(opened, reason="done")

    assert (closed.close_reason, closed.closed_at is None) == ("done", False)
    assert (await path.open("s", user_id)) == (opened, False)


async def test_a_cleared_conversation_is_empty_and_continues(path: Path, conversation_id: UUID) -> None:
    await path.append_many(conversation_id, [new_message(number) for number in range(3)])
    async with get_db() as session:
        await ConversationRepository(session).set_summary(conversation_id, "s", upto_seq=2, expected_upto=0)

    assert await path.clear(conversation_id) == 3
    assert await path.clear(conversation_id) == 0
    assert await seqs(path, conversation_id) == []
    row = await conversation(conversation_id)
    assert (row.summary, row.summary_upto_seq, row.last_seq) == (None, 0, 3)
    [again, new] = await path.append_many(conversation_id, [new_message(0), new_message("new")])
    assert (again.inserted, again.is_there) == (False, False)
    assert (new.inserted, new.seq) == (True, 4)
    assert await seqs(path, conversation_id) == [4]


async def test_clearing_checks_the_conversation_and_the_turn(path: Path, conversation_id: UUID) -> None:
    with pytest.raises(NotFoundError):
        await path.clear(uuid7())
    with pytest.raises(StaleDataError, match="last token, 0, got 7"):
        await path.clear(conversation_id, turn=7)
    with pytest.raises(ValueError, match="turn must be a token"):
        await path.clear(conversation_id, turn=-1)


async def test_entities_of_the_session_are_cleared_too(conversation_id: UUID, path: Path) -> None:
    await path.append_many(conversation_id, [new_message(0)])
    async with get_db() as session:
        [message] = await MessageHistoryRepository(session).recent(conversation_id)
        row = await ConversationRepository(session).get(conversation_id)
        await ConversationRepository(session).clear(conversation_id)

        assert message.deleted_at is not None
        assert message.updated_at == row.updated_at == message.deleted_at


async def test_appends_that_race_with_a_clear_are_before_it_or_after_it(path: Path, conversation_id: UUID) -> None:
    appends = [path.append_many(conversation_id, [new_message(number)]) for number in range(8)]
    _, cleared = await asyncio.gather(asyncio.gather(*appends), path.clear(conversation_id))

    left = await seqs(path, conversation_id)
    assert len(left) == 8 - cleared
    assert left == list(range(9 - len(left), 9))


async def test_a_fork_is_a_copy_that_is_independent(path: Path, conversation_id: UUID) -> None:
    first = new_message("k1", "one", parts=[{"type": "text", "text": "\0"}], extra={"a": 1})
    await path.append_many(conversation_id, [first, new_message("k2", "two"), new_message("k3", "three")])
    async with get_db() as session:
        messages = MessageHistoryRepository(session)
        rows = {one.message_id: one for one in await messages.recent(conversation_id)}
        await messages.update(rows["k2"].id, parent_id=rows["k1"].id)
        await ConversationRepository(session).set_summary(conversation_id, "s", upto_seq=1, expected_upto=0)

    copy = await path.fork(conversation_id, upto_seq=2, session_id="branch")

    assert copy["session_id"] == "branch"
    assert (copy["channel"], copy["external_chat_id"], copy["last_seq"]) == ("telegram", "1", 2)
    assert (copy["summary"], copy["summary_upto_seq"]) == ("s", 1)
    copied = await messages_of(copy["id"])
    assert [(one.seq, one.content, one.message_id) for one in copied] == [
        (1, "one", f"fork:{copy['id']}:1"),
        (2, "two", f"fork:{copy['id']}:2"),
    ]
    assert (copied[0].parts, copied[0].extra) == ([{"type": "text", "text": "\0"}], {"a": 1})
    assert copied[1].parent_id == copied[0].id
    assert {one.id for one in copied}.isdisjoint({one.id for one in rows.values()})
    assert [one.id.version for one in copied] == [7, 7]
    assert copied[0].id < copied[1].id
    row = await conversation(copy["id"])
    assert (row.is_active, row.extra) == (False, {"forked_from": str(conversation_id)})
    await path.append_many(copy["id"], [new_message("k4")])
    await path.clear(conversation_id)
    assert await seqs(path, copy["id"]) == [1, 2, 3]


async def test_a_fork_has_the_live_messages_under_their_numbers(path: Path, conversation_id: UUID) -> None:
    streamed = new_message("k3", "par", role="assistant", state="incomplete")
    await path.append_many(conversation_id, [new_message("k1"), new_message("k2"), streamed])
    async with get_db() as session:
        messages = MessageHistoryRepository(session)
        found = await messages.get_by_message_id("k2")
        assert found is not None
        await messages.delete(found.id)

    copy = await path.fork(conversation_id)

    assert [(one.seq, one.state) for one in await messages_of(copy["id"])] == [(1, "complete"), (3, "interrupted")]
    assert copy["last_seq"] == 3


@pytest.mark.slow
async def test_many_messages_are_copied_in_the_order_of_their_ids(path: Path, conversation_id: UUID) -> None:
    await path.append_many(conversation_id, [new_message(number) for number in range(1000)])

    copy = await path.fork(conversation_id)

    async with get_db() as session:
        stream = MessageHistoryRepository(session).stream(MessageHistory.conversation_id == copy["id"])
        assert [one.seq async for one in stream] == list(range(1, 1001))


async def test_a_fork_needs_an_origin_and_a_free_session_id(path: Path, conversation_id: UUID, user_id: UUID) -> None:
    await path.open("taken", user_id)

    with pytest.raises(NotFoundError):
        await path.fork(uuid7())
    with pytest.raises(DuplicateKeyError, match="session ids are unique within a tenant"):
        await path.fork(conversation_id, session_id="taken")
    with pytest.raises(ValueError, match="upto_seq must be an integer from 0"):
        await path.fork(conversation_id, upto_seq=-1)


async def test_a_fork_that_races_with_a_deletion_is_whole_or_fails(path: Path, conversation_id: UUID) -> None:
    async def delete() -> None:
        async with get_db() as session:
            await ConversationRepository(session).delete(conversation_id)

    await path.append_many(conversation_id, [new_message(number) for number in range(5)])
    forks = asyncio.gather(*(path.fork(conversation_id) for _ in range(4)), return_exceptions=True)
    copies, _ = await asyncio.gather(forks, delete())

    for copy in copies:
        if isinstance(copy, BaseException):
            assert isinstance(copy, NotFoundError)
        else:
            assert await seqs(path, copy["id"]) == [1, 2, 3, 4, 5]


async def test_popped_messages_are_deleted_and_returned_whole(path: Path, conversation_id: UUID) -> None:
    last = new_message("k3", "three", parts=[{"type": "text", "text": "\0"}], extra={"a": 1}, tool_name="t")
    await path.append_many(conversation_id, [new_message("k1"), new_message("k2"), last])
    before = await path.recent(conversation_id)

    assert await path.pop(conversation_id, 2) == before[1:]
    assert await seqs(path, conversation_id) == [1]
    [again, new] = await path.append_many(conversation_id, [last, new_message("new")])
    assert (again.inserted, again.is_there, new.seq) == (False, False, 4)
    assert [row[3] for row in await path.pop(conversation_id, 1000)] == [1, 4]
    assert await path.pop(conversation_id) == []


async def test_a_pop_that_names_the_last_message_is_repeated_without_effect(path: Path, conversation_id: UUID) -> None:
    await path.append_many(conversation_id, [new_message(number) for number in range(3)])

    popped = [await path.pop(conversation_id, last_seq=3) for _ in range(2)]

    assert [[row[3] for row in rows] for rows in popped] == [[3], []]
    assert await seqs(path, conversation_id) == [1, 2]


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"limit": 0}, "limit must be"),
        ({"limit": 1001}, "limit must be"),
        ({"last_seq": -1}, "last_seq must be an integer from 0"),
        ({"turn": "1"}, "turn must be a token"),
    ],
)
async def test_arguments_of_pop_are_checked(
    path: Path, conversation_id: UUID, options: dict[str, Any], rule: str
) -> None:
    with pytest.raises(ValueError, match=rule):
        await path.pop(conversation_id, **options)


async def test_popping_checks_the_conversation_and_the_turn(path: Path, conversation_id: UUID) -> None:
    await path.append_many(conversation_id, [new_message(0)])

    with pytest.raises(NotFoundError):
        await path.pop(uuid7())
    with pytest.raises(StaleDataError, match="last token, 0, got 7"):
        await path.pop(conversation_id, turn=7)
    assert await seqs(path, conversation_id) == [1]


async def test_pops_that_race_with_appends_return_each_message_once(path: Path, conversation_id: UUID) -> None:
    appends = [path.append_many(conversation_id, [new_message(number)]) for number in range(8)]
    pops = [path.pop(conversation_id, 2) for _ in range(8)]
    _, popped = await asyncio.gather(asyncio.gather(*appends), asyncio.gather(*pops))

    found = [row[3] for rows in popped for row in rows]
    assert sorted([*found, *await seqs(path, conversation_id)]) == list(range(1, 9))


async def test_a_message_that_is_deleted_meanwhile_is_not_popped(path: Path, conversation_id: UUID) -> None:
    await path.append_many(conversation_id, [new_message(number) for number in range(3)])
    async with get_db() as session:
        messages = MessageHistoryRepository(session)
        last = await messages.get_by_message_id("2")
        assert last is not None
        await messages.delete(last.id)
        popping = asyncio.create_task(path.pop(conversation_id))
        await asyncio.sleep(0.1)

    assert [row[3] for row in await popping] == [2]


async def test_another_tenants_conversation_is_not_found(path: Path, others_conversation: UUID) -> None:
    with pytest.raises(NotFoundError):
        await path.pop(others_conversation)
    with pytest.raises(NotFoundError):
        await path.clear(others_conversation)
    with pytest.raises(NotFoundError):
        await path.fork(others_conversation)


async def messages_of(conversation_id: UUID) -> list[MessageHistory]:
    async with get_db() as session:
        return await MessageHistoryRepository(session).recent(conversation_id)
