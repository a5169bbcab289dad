"""StoredConversations: the contract of pydantic-ai's ConversationStore, as its in-memory store keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from pydantic_ai import Agent, ModelMessage, ModelRequest, ModelResponse, UserPromptPart
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationRecord,
    ConversationStore,
    InMemoryConversationStore,
)
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import TextPart
from pydantic_ai.models.test import TestModel

from src.database import get_db, tenant_context
from src.database.base import uuid7
from src.database.errors import ForeignKeyError
from src.database.integrations.pydantic_ai import StoredConversations
from src.database.models import User
from src.database.repositories import MessageHistoryRepository, UserRepository
from src.database.statements import NewMessage
from src.database.store import get_store


async def new_user(telegram_id: int) -> UUID:
    async with get_db() as session:
        return (await UserRepository(session).add(User(telegram_id=telegram_id))).id


@pytest.fixture
async def ours(tenants: dict[str, UUID]) -> AsyncIterator[StoredConversations]:
    with tenant_context(tenants["acme"]):
        yield StoredConversations(await new_user(1))


@pytest.fixture(params=["in memory", "ours"])
def store(request: pytest.FixtureRequest) -> ConversationStore:
    if request.param == "in memory":
        return InMemoryConversationStore()
    found: ConversationStore = request.getfixturevalue("ours")
    return found


def says(text: str) -> list[ModelMessage]:
    """Return a question and its answer."""
    return [ModelRequest(parts=[UserPromptPart(text)]), ModelResponse(parts=[TextPart(f"re: {text}")])]


def texts(conversation: Conversation | None) -> list[str]:
    assert conversation is not None
    return [
        str(part.content) for message in conversation.messages for part in message.parts if hasattr(part, "content")
    ]


async def saved(store: ConversationStore, *questions: str, conversation_id: str = "c", **options: Any) -> Conversation:
    messages = [message for text in questions for message in says(text)]
    conversation = Conversation(conversation_id=conversation_id, messages=messages)
    await store.save(conversation, **options)
    return conversation


async def loaded(store: ConversationStore, conversation_id: str = "c", **options: Any) -> Conversation:
    conversation = await store.load(conversation_id, **options)
    assert conversation is not None
    return conversation


class TestContract:
    """The behavior of both stores."""

    async def test_a_conversation_comes_back_equal(self, store: ConversationStore) -> None:
        agent = Agent(TestModel(), system_prompt="Be brief.")

        @agent.tool_plain
        def weather(city: str) -> dict[str, str]:
            return {"city": city, "text": "\0 \ufdd0 ☀"}

        result = await agent.run("How is the weather?", conversation=Conversation(conversation_id="c"))
        await store.save(result)

        conversation = await loaded(store)
        assert conversation == result.conversation
        assert conversation.messages == result.all_messages()
        assert conversation.usage == result.usage

    async def test_an_unknown_conversation_is_none(self, store: ConversationStore) -> None:
        assert await store.load("c") is None
        assert await store.load_entries("c") is None
        await store.delete("c")
        with pytest.raises(UserError, match="not in the store"):
            await store.fork("c")

    async def test_a_save_appends_only_the_new_messages(self, store: ConversationStore) -> None:
        first = await saved(store, "one")
        entries = await store.load_entries("c")
        first.messages += says("two")
        new = await store.save(first)

        assert len(new) == 2
        assert await store.load_entries("c") == [*(entries or []), *new]
        assert [entry.parent_id for entry in new] == [(entries or [])[-1].id, new[0].id]

    async def test_a_conversation_without_messages_is_saved(self, store: ConversationStore) -> None:
        await saved(store)

        assert (await loaded(store)).messages == []

    async def test_the_second_of_two_stale_writers_conflicts(self, store: ConversationStore) -> None:
        await saved(store, "one")
        one, other = await loaded(store), await loaded(store)
        one.messages += says("two")
        other.messages += says("three")
        await store.save(one)
        with pytest.raises(ConversationConflict):
            await store.save(other)

        assert texts(await store.load("c")) == ["one", "re: one", "two", "re: two"]

    async def test_of_concurrent_writers_one_saves(self, store: ConversationStore) -> None:
        await saved(store, "one")
        copies = [await loaded(store) for _ in range(4)]
        for number, copy in enumerate(copies):
            copy.messages += says(f"writer {number}")
        outcomes = await asyncio.gather(*map(store.save, copies), return_exceptions=True)

        assert [type(one) for one in outcomes if not isinstance(one, list)] == [ConversationConflict] * 3
        assert len((await loaded(store)).messages) == 4

    async def test_of_concurrent_first_saves_one_creates_the_conversation(self, store: ConversationStore) -> None:
        outcomes = await asyncio.gather(*(saved(store, f"{one}") for one in range(4)), return_exceptions=True)

        assert sum(isinstance(one, ConversationConflict) for one in outcomes) == 3
        assert len((await loaded(store)).messages) == 2

    async def test_the_last_messages_are_loaded_and_a_save_appends_to_all(self, store: ConversationStore) -> None:
        await saved(store, "one", "two")
        window = await loaded(store, limit=1)
        assert texts(window) == ["re: two"]
        window.messages += says("three")
        await store.save(window)

        assert texts(await store.load("c"))[-4:] == ["two", "re: two", "three", "re: three"]
        assert (await loaded(store, limit=0)).messages == []
        entries = await store.load_entries("c")
        assert await store.load_entries("c", limit=2) == (entries or [])[-2:]

    async def test_a_rewritten_history_leaves_a_branch(self, store: ConversationStore) -> None:
        await saved(store, "one", "two")
        kept = (await store.load_entries("c") or [])[-1].id
        revision = (await loaded(store)).revision
        rewritten = Conversation(
            conversation_id="c", messages=[*(await loaded(store)).messages[:2], *says("instead")], revision=revision
        )
        await store.save(rewritten)

        assert texts(await store.load("c")) == ["one", "re: one", "instead", "re: instead"]
        [record] = await store.list_conversations()
        assert record.branches == [kept]

    async def test_a_conversation_branches_and_branches_back(self, store: ConversationStore) -> None:
        await saved(store, "one", "two", "three")
        all_entries = await store.load_entries("c") or []
        revision = (await loaded(store)).revision
        branch = await store.branch("c", at=2, expected_revision=revision)
        assert texts(await store.load("c")) == ["one", "re: one"]
        branch.messages += says("new")
        await store.save(branch)
        assert texts(await store.load("c")) == ["one", "re: one", "new", "re: new"]

        back = await store.branch("c", from_entry=all_entries[3].id, expected_revision=branch.revision)
        assert texts(back) == ["one", "re: one", "two", "re: two"]
        back.messages += says("four")
        await store.save(back)
        assert texts(await store.load("c")) == [
            "one", "re: one", "two", "re: two", "four", "re: four",
        ]  # fmt: skip
        whole = await store.branch("c", from_entry=all_entries[-1].id, expected_revision=back.revision)
        assert await store.load_entries("c") == all_entries
        with pytest.raises(ConversationConflict):
            await store.branch("c", at=0, expected_revision=back.revision)
        empty = await store.branch("c", at=0, expected_revision=whole.revision)
        empty.messages += says("fresh")
        await store.save(empty)
        assert texts(await store.load("c")) == ["fresh", "re: fresh"]
        [entry, last] = await store.load_entries("c") or []
        assert entry.parent_id is None
        assert await store.load_entries("c", limit=1) == [last]

    async def test_an_entry_of_another_conversation_is_no_branch(self, store: ConversationStore) -> None:
        conversation = await saved(store, "one")
        await saved(store, "other", conversation_id="d")
        [_, foreign] = await store.load_entries("d") or []
        with pytest.raises(UserError, match="is not in the history"):
            await store.branch("c", from_entry=foreign.id, expected_revision=conversation.revision)

    async def test_a_fork_has_the_history_and_goes_its_own_way(self, store: ConversationStore) -> None:
        conversation = await saved(store, "one", "two", scope="ada")
        fork = await store.fork("c", at=2, new_conversation_id="f")
        assert await store.load_entries("f") == (await store.load_entries("c") or [])[:2]
        fork.messages += says("forked")
        conversation.messages += says("three")
        await store.save(fork)
        await store.save(conversation)

        assert texts(await store.load("f")) == ["one", "re: one", "forked", "re: forked"]
        assert texts(await store.load("c")) == ["one", "re: one", "two", "re: two", "three", "re: three"]
        [record] = [one for one in await store.list_conversations(scope="ada") if one.conversation_id == "f"]
        assert record.forked_from == "c"
        assert record.forked_at == (await store.load_entries("c") or [])[1].id
        with pytest.raises(ConversationConflict):
            await store.fork("c", new_conversation_id="f")

    async def test_forks_of_everything_nothing_and_a_branch(self, store: ConversationStore) -> None:
        await saved(store, "one", "two")
        entries = await store.load_entries("c") or []
        branch = await store.branch("c", at=2, expected_revision=(await loaded(store)).revision)
        branch.messages += says("new")
        await store.save(branch)

        assert texts(await store.fork("c", new_conversation_id="all")) == ["one", "re: one", "new", "re: new"]
        assert texts(await store.load("all")) == ["one", "re: one", "new", "re: new"]
        await store.fork("c", at=0, new_conversation_id="none")
        assert (await loaded(store, "none")).messages == []
        await store.fork("c", from_entry=entries[2].id, new_conversation_id="left")
        assert texts(await store.load("left")) == ["one", "re: one", "two"]
        again = await store.fork("all", at=3, new_conversation_id="again")
        assert texts(again) == texts(await store.load("again")) == ["one", "re: one", "new"]
        assert len(await store.list_conversations()) == 5

    async def test_a_fork_outlives_its_origin(self, store: ConversationStore) -> None:
        await saved(store, "one")
        await store.fork("c", new_conversation_id="f")
        await store.delete("c")

        assert await store.load("c") is None
        assert texts(await store.load("f")) == ["one", "re: one"]
        again = await store.fork("f", new_conversation_id="g")
        assert texts(again) == ["one", "re: one"]

    async def test_a_deleted_conversation_is_created_again_and_a_copy_of_it_conflicts(
        self, store: ConversationStore
    ) -> None:
        old = await saved(store, "one")
        await store.delete("c")
        with pytest.raises(ConversationConflict):
            await store.save(old)
        await saved(store, "two")
        with pytest.raises(ConversationConflict):
            await store.save(old)

        assert texts(await store.load("c")) == ["two", "re: two"]

    async def test_scopes(self, store: ConversationStore) -> None:
        await saved(store, "one", scope="ada")
        assert await store.list_conversations(scope="\0") == []
        await saved(store, "two", conversation_id="d", scope="bob")
        assert await store.load("c", scope="bob") is None
        await store.delete("c", scope="bob")
        conversation = await loaded(store, scope="ada")
        with pytest.raises(ConversationConflict):
            await store.save(conversation, scope="bob")
        await store.save(conversation)

        assert [one.conversation_id for one in await store.list_conversations(scope="ada")] == ["c"]
        assert [one.conversation_id for one in await store.list_conversations()] == ["c", "d"]
        assert [one.conversation_id for one in await store.list_conversations(limit=1)] == ["c"]

    async def test_a_record_is_deleted_by_its_revision(self, store: ConversationStore) -> None:
        conversation = await saved(store, "one")
        stale = conversation.revision or ""
        await store.save(conversation)
        with pytest.raises(ConversationConflict):
            await store.delete_record("c", expected_revision=stale)
        await store.delete_record("c", expected_revision=conversation.revision or "")
        with pytest.raises(ConversationConflict):
            await store.delete_record("c", expected_revision=conversation.revision or "")

        assert await store.list_conversations() == []

    async def test_an_entry_is_read_by_its_id(self, store: ConversationStore) -> None:
        await saved(store, "one", "two")
        entries = await store.load_entries("c") or []

        assert [await store.read_entry(str(entry.id)) for entry in entries] == entries
        assert await store.read_history(str(entries[2].id)) == entries[:3]
        assert await store.read_history(None) == []
        with pytest.raises(LookupError):
            await store.read_entry("missing")

    async def test_a_long_history_and_a_long_id(self, store: ConversationStore) -> None:
        await saved(store, *map(str, range(600)), conversation_id="x" * 1000)

        assert len((await loaded(store, "x" * 1000)).messages) == 1200
        assert [one.conversation_id for one in await store.list_conversations()] == ["x" * 1000]


class TestOtherWriters:
    """The changes by other writers of the conversation."""

    async def test_what_others_append_is_an_entry_and_makes_a_stale_save_conflict(
        self, ours: StoredConversations
    ) -> None:
        await saved(ours, "one")
        stale = await loaded(ours)
        await append("c", ours, "from the channel")
        stale.messages += says("two")
        with pytest.raises(ConversationConflict):
            await ours.save(stale)
        conversation = await loaded(ours)
        conversation.messages += says("two")
        await ours.save(conversation)

        assert texts(await ours.load("c")) == ["one", "re: one", "from the channel", "two", "re: two"]
        entries = await ours.load_entries("c") or []
        assert await ours.read_entry(str(entries[2].id)) == entries[2]

    async def test_what_others_append_to_a_branch_follows_the_branch(self, ours: StoredConversations) -> None:
        await saved(ours, "one", "two")
        await ours.branch("c", at=2, expected_revision=(await loaded(ours)).revision)
        await append("c", ours, "from the channel")
        conversation = await loaded(ours)
        assert texts(conversation) == ["one", "re: one", "from the channel"]
        conversation.messages += says("three")
        await ours.save(conversation)
        await ours.fork("c", new_conversation_id="f")

        for conversation_id in ("c", "f"):
            assert texts(await ours.load(conversation_id)) == [
                "one",
                "re: one",
                "from the channel",
                "three",
                "re: three",
            ]

    async def test_a_conversation_that_others_have_opened_is_continued(self, ours: StoredConversations) -> None:
        await append("c", ours, "first")
        await get_store().open_conversation("empty", ours._user_id)
        assert texts(await loaded(ours, "empty")) == []
        conversation = await loaded(ours)
        conversation.messages += says("second")
        await ours.save(conversation)
        with pytest.raises(ConversationConflict):
            await saved(ours, "new", conversation_id="empty")

        assert texts(await ours.load("c")) == ["first", "second", "re: second"]
        assert await ours.load("c", scope="ada") is None

    async def test_a_conversation_that_others_clear_is_empty_and_a_stale_save_conflicts(
        self, ours: StoredConversations
    ) -> None:
        stale = await saved(ours, "one", "two")
        kept = await ours.fork("c", new_conversation_id="f")
        await get_store().clear(await conversation_id_of("c", ours))
        stale.messages += says("three")
        with pytest.raises(ConversationConflict):
            await ours.save(stale)
        cleared = await loaded(ours)
        assert cleared.messages == []
        cleared.messages += says("again")
        await ours.save(cleared)

        assert texts(await ours.load("c")) == ["again", "re: again"]
        assert texts(await ours.load("f")) == texts(kept)

    async def test_what_others_delete_from_the_end_is_no_part_of_the_history(self, ours: StoredConversations) -> None:
        await saved(ours, "one", "two")
        entries = await ours.load_entries("c") or []
        async with get_db() as session:
            await MessageHistoryRepository(session).pop(await conversation_id_of("c", ours))

        assert await ours.load_entries("c") == entries[:3]
        with pytest.raises(LookupError):
            await ours.read_entry(entries[3].id)
        with pytest.raises(UserError, match="is not in the history"):
            await ours.fork("c", from_entry=entries[3].id, new_conversation_id="f")

    async def test_a_copy_that_the_repository_makes_is_a_conversation_of_its_own(
        self, ours: StoredConversations
    ) -> None:
        await saved(ours, "one", "two")
        await get_store().fork(await conversation_id_of("c", ours), upto_seq=3, session_id="copy")
        await saved(ours, "one", conversation_id="x" * 300)
        unnamed = await get_store().fork(await conversation_id_of("x" * 300, ours))
        copy = await loaded(ours, "copy")
        assert texts(copy) == ["one", "re: one", "two"]
        copy.messages += says("three")
        await ours.save(copy)

        listed = [one.conversation_id for one in await ours.list_conversations()]
        assert sorted(listed) == sorted(["c", "copy", "x" * 300, unnamed.session_id])
        assert texts(await ours.load("c")) == ["one", "re: one", "two", "re: two"]


class TestRaces:
    """Concurrent calls leave either result, and never a part of one."""

    async def test_fork_and_delete(self, ours: StoredConversations) -> None:
        for number in range(5):
            await saved(ours, "one", "two", conversation_id=f"{number}")
            fork, _ = await asyncio.gather(
                ours.fork(f"{number}", new_conversation_id=f"fork {number}"),
                ours.delete(f"{number}"),
                return_exceptions=True,
            )

            assert isinstance(fork, Conversation | UserError)
            copy = await ours.load(f"fork {number}")
            assert (copy and len(copy.messages)) == (4 if isinstance(fork, Conversation) else None)

    async def test_clear_and_append(self, ours: StoredConversations) -> None:
        for number in range(5):
            conversation = await saved(ours, "one", conversation_id=f"{number}")
            row_id = await conversation_id_of(f"{number}", ours)
            conversation.messages += says("two")
            outcome, _ = await asyncio.gather(
                ours.save(conversation), get_store().clear(row_id), return_exceptions=True
            )

            assert isinstance(outcome, list | ConversationConflict)
            assert (await loaded(ours, f"{number}")).messages == []

    async def test_a_cancelled_save_stores_everything_or_nothing(self, ours: StoredConversations) -> None:
        conversation = await saved(ours, "0")
        for number in range(1, 12):
            conversation.messages += says(str(number))
            save = asyncio.create_task(ours.save(conversation))
            await asyncio.sleep(number / 500)
            save.cancel()
            await asyncio.wait([save])
            conversation = await loaded(ours)

            assert len(conversation.messages) % 2 == 0
            assert await stored_messages("c", ours) == len(conversation.messages)


class TestIsolation:
    """Tenants and users."""

    async def test_tenants_share_no_conversation(self, ours: StoredConversations, tenants: dict[str, UUID]) -> None:
        await saved(ours, "acme's")
        with tenant_context(tenants["globex"]):
            user_id = await new_user(1)
        theirs = StoredConversations(user_id, tenant_id=tenants["globex"])
        [entry, _] = await ours.load_entries("c") or []
        assert await theirs.load("c") is None
        with pytest.raises(LookupError):
            await theirs.read_entry(str(entry.id))
        await saved(theirs, "globex's")

        assert texts(await theirs.load("c")) == ["globex's", "re: globex's"]
        assert texts(await ours.load("c")) == ["acme's", "re: acme's"]
        assert len(await theirs.list_conversations()) == 1

    async def test_users_share_no_conversation(self, ours: StoredConversations) -> None:
        conversation = await saved(ours, "ada's")
        [entry, last] = await ours.load_entries("c") or []
        theirs = StoredConversations(await new_user(2))
        with pytest.raises(ConversationConflict):
            await saved(theirs, "bob's")
        with pytest.raises(ConversationConflict):
            await theirs.save(conversation)
        with pytest.raises(ConversationConflict):
            await theirs.delete_record("c", expected_revision=conversation.revision or "")
        for entry_id in (entry.id, str(entry.id)):
            record = ConversationRecord(conversation_id="stolen", head_id=entry_id)
            with pytest.raises(ConversationConflict):
                await theirs.write_record(record, expected_revision=None)
            with pytest.raises(LookupError):
                await theirs.read_entry(entry_id)

        assert await theirs.load("c") is None
        assert await theirs.list_conversations() == []
        assert texts(await ours.load("c")) == ["ada's", "re: ada's"]
        assert await ours.load("stolen") is None
        assert last.parent_id == entry.id

    async def test_a_user_that_does_not_exist_is_an_error(self, ours: StoredConversations) -> None:
        with pytest.raises(ForeignKeyError, match="no User with id"):
            await saved(StoredConversations(uuid7()), "hello")
        with pytest.raises(ValueError, match="user_id must be"):
            StoredConversations("7")  # type: ignore[arg-type]


async def conversation_id_of(session_id: str, store: StoredConversations) -> UUID:
    conversation, _ = await get_store().open_conversation(session_id, store._user_id)
    return conversation.id


async def append(session_id: str, store: StoredConversations, text: str) -> None:
    """Append a message as a service does, without an SDK."""
    message = NewMessage(message_id=str(uuid7()), role="user", content=text)
    await get_store().append(await conversation_id_of(session_id, store), message)


async def stored_messages(session_id: str, store: StoredConversations) -> int:
    return len(await get_store().last(await conversation_id_of(session_id, store), 1000))
