"""What happens, in any order: each rule does one thing through a repository and in the model, and compares."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from src.database.base import utc_now
from src.database.errors import NotFoundError
from src.database.models import Note
from src.database.repositories import (
    ConversationRepository,
    MessageHistoryRepository,
    NewMessage,
    NoteRepository,
    UserRepository,
)
from src.database.repositories.turns import Turn
from src.database.tenancy import AsyncSession
from tests.acceptance.model.memory import Jotted, Memory, Person, Talk
from tests.acceptance.model.world import World

T = TypeVar("T")

TENANT = st.sampled_from([0, 1])
PICK = st.integers(0, 20)
KEY = st.sampled_from([f"k{number}" for number in range(8)])
CONTENT = st.sampled_from(["", "a", "ab", "b", "canción\N{SMILING FACE WITH SMILING EYES}"])
CHAT = st.sampled_from([None, "1"])
MESSAGE = st.tuples(KEY, st.sampled_from(["user", "assistant"]), CONTENT, st.sampled_from(["complete", "incomplete"]))


class Machine(RuleBasedStateMachine):
    """Two tenants over one database; `world` is set by the test."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.edits = 0

    @initialize()
    def begin(self) -> None:
        self.tenants = [self.world.register(), self.world.register()]
        self.memories = [Memory(), Memory()]
        for tenant in (0, 1):  # else most of the steps find nobody to do something with
            for telegram_id in (1, 2):
                self.meet(tenant, telegram_id, None)
                self.start(tenant, telegram_id - 1, None)

    def call(self, tenant: int, work: Callable[[AsyncSession], Awaitable[Any]]) -> Any:
        return self.world.call(self.tenants[tenant], work)

    def expect(self, got: Any, known: Callable[[], T]) -> T | None:
        """Compare an outcome: the same result, or the same error."""
        try:
            expected: Any = known()
        except Exception as error:  # noqa: BLE001 - whatever it is, the repository has to raise it too
            expected = type(error)
        assert got == expected
        return expected if not isinstance(expected, type) else None

    @rule(tenant=TENANT, telegram_id=st.integers(1, 3), name=st.sampled_from([None, "Ada"]))
    def meet(self, tenant: int, telegram_id: int, name: str | None) -> None:
        memory = self.memories[tenant]
        known = memory.user_of(telegram_id)
        values = {} if name is None else {"display_name": name}
        user, created = self.call(
            tenant, lambda s: UserRepository(s).get_or_create_by_telegram_id(telegram_id, **values)
        )
        assert created == (known is None)
        if known is None:
            memory.users.append(Person(user.id, telegram_id, name))
        else:
            assert user.id == known.id

    @rule(tenant=TENANT, pick=PICK, name=st.sampled_from(["Ada", "Bob"]))
    def rename(self, tenant: int, pick: int, name: str) -> None:
        if user := _pick(self.memories[tenant].users, pick):
            got = self.call(tenant, lambda s: _nothing(UserRepository(s).update(user.id, display_name=name)))
            self.expect(got, lambda: _set(user, "name", name))

    @rule(tenant=TENANT, pick=PICK)
    def forget(self, tenant: int, pick: int) -> None:
        if user := _pick(self.memories[tenant].users, pick):
            got = self.call(tenant, lambda s: UserRepository(s).delete(user.id))
            self.expect(got, lambda: _set(user, "deleted", True))

    @rule(tenant=TENANT, pick=PICK)
    def bring_back(self, tenant: int, pick: int) -> None:
        memory = self.memories[tenant]
        if user := _pick(memory.users, pick):
            got = self.call(tenant, lambda s: _nothing(UserRepository(s).restore(user.id)))
            self.expect(got, lambda: memory.restore_user(user))

    @rule(tenant=TENANT)
    def count(self, tenant: int) -> None:
        memory = self.memories[tenant]
        assert self.call(tenant, lambda s: UserRepository(s).count()) == sum(not one.deleted for one in memory.users)
        assert self.call(tenant, lambda s: MessageHistoryRepository(s).count()) == sum(
            not one.deleted for one in memory.messages
        )

    @rule(tenant=TENANT, pick=PICK, chat=CHAT)
    def start(self, tenant: int, pick: int, chat: str | None) -> None:
        memory = self.memories[tenant]
        if user := _pick(memory.users, pick):
            known = memory.active(user.id, chat)
            got = self.call(tenant, lambda s: ConversationRepository(s).get_or_start(user.id, "telegram", chat))
            if known is not None:
                assert (got[0].id, got[1]) == (known.id, False)
            elif isinstance(got, type):
                self.expect(got, lambda: memory.may_start(user))
            else:
                assert got[1]
                assert not user.deleted
                memory.talks.append(Talk(got[0].id, user.id, chat))

    @rule(tenant=TENANT, pick=PICK)
    def close(self, tenant: int, pick: int) -> None:
        if talk := _pick(self.memories[tenant].talks, pick):
            self.call(tenant, lambda s: ConversationRepository(s).close(talk.id, reason="done"))
            talk.active = False

    @rule(tenant=TENANT, pick=PICK, upto=st.integers(0, 6), expected=st.integers(0, 3))
    def summarize(self, tenant: int, pick: int, upto: int, expected: int) -> None:
        memory = self.memories[tenant]
        if talk := _pick(memory.talks, pick):
            got = self.call(
                tenant,
                lambda s: _nothing(
                    ConversationRepository(s).set_summary(talk.id, "so far", upto_seq=upto, expected_upto=expected)
                ),
            )
            self.expect(got, lambda: memory.set_summary(talk, "so far", upto, expected))

    @rule(tenant=TENANT, pick=PICK, worker=st.sampled_from(["w1", "w2"]))
    def take_turn(self, tenant: int, pick: int, worker: str) -> None:
        memory = self.memories[tenant]
        if talk := _pick(memory.talks, pick):
            lease = timedelta(hours=1)
            turn = self.call(tenant, lambda s: ConversationRepository(s).claim_turn(talk.id, worker, lease=lease))
            self.expect(turn and turn.token, lambda: memory.claim_turn(talk, worker))

    @rule(tenant=TENANT, pick=PICK, behind=st.integers(0, 1))
    def give_turn(self, tenant: int, pick: int, behind: int) -> None:
        memory = self.memories[tenant]
        if (talk := _pick(memory.talks, pick)) and talk.token > behind:
            turn = Turn(conversation_id=talk.id, worker="w1", token=talk.token - behind, until=utc_now())
            got = self.call(tenant, lambda s: ConversationRepository(s).release_turn(turn))
            self.expect(got, lambda: memory.release_turn(talk, turn.token))

    @rule(
        tenant=TENANT, pick=PICK, batch=st.lists(MESSAGE, min_size=1, max_size=3), behind=st.sampled_from([None, 0, 1])
    )
    def say(self, tenant: int, pick: int, batch: list[tuple[str, str, str, str]], behind: int | None) -> None:
        memory = self.memories[tenant]
        if talk := _pick(memory.talks, pick):
            turn = None if behind is None else talk.token - behind
            messages = [NewMessage(message_id=k, role=r, content=c, state=s) for k, r, c, s in batch]  # type: ignore[arg-type] # drawn

            async def append(session: AsyncSession) -> list[bool]:
                done = await MessageHistoryRepository(session).append_many(talk.id, messages, turn=turn)
                return [one.inserted for one in done]

            self.expect(self.call(tenant, append), lambda: memory.append(talk, batch, turn))

    @rule(tenant=TENANT, pick=PICK, key=KEY, content=CONTENT)
    def begin_answer(self, tenant: int, pick: int, key: str, content: str) -> None:
        self.say(tenant, pick, [(key, "assistant", content, "incomplete")], 0)

    @rule(tenant=TENANT, pick=PICK, after=st.integers(0, 6), limit=st.integers(1, 4))
    def read(self, tenant: int, pick: int, after: int, limit: int) -> None:
        memory = self.memories[tenant]
        if talk := _pick(memory.talks, pick):

            async def windows(session: AsyncSession) -> list[list[int]]:
                messages = MessageHistoryRepository(session)
                return [
                    [one.seq for one in window]
                    for window in (
                        await messages.tail(talk.id, after, limit=limit),
                        await messages.recent(talk.id, limit=limit),
                        await messages.after(talk.id, after, limit=limit),
                        await messages.before(talk.id, after, limit=limit),
                    )
                ]

            seqs = [one.seq for one in memory.of(talk)]
            assert self.call(tenant, windows) == [
                memory.tail(talk, after, limit),
                seqs[-limit:],
                [seq for seq in seqs if seq > after][:limit],
                [seq for seq in seqs if seq < after][-limit:],
            ]

    @rule(tenant=TENANT, key=KEY, content=CONTENT)
    def edit(self, tenant: int, key: str, content: str) -> None:
        self.edits += 1
        at = utc_now() + timedelta(seconds=self.edits)
        got = self.call(tenant, lambda s: _nothing(MessageHistoryRepository(s).edit(key, content, edited_at=at)))
        self.expect(got, lambda: self.memories[tenant].edit(key, content))

    @rule(tenant=TENANT, key=KEY, piece=CONTENT, offset=st.integers(0, 3))
    def extend(self, tenant: int, key: str, piece: str, offset: int) -> None:
        got = self.call(tenant, lambda s: _nothing(MessageHistoryRepository(s).extend(key, piece, offset=offset)))
        self.expect(got, lambda: self.memories[tenant].extend(key, piece, offset))

    @rule(tenant=TENANT, key=KEY, state=st.sampled_from(["complete", "interrupted"]))
    def end(self, tenant: int, key: str, state: str) -> None:
        def mark(session: AsyncSession) -> Awaitable[Any]:
            messages = MessageHistoryRepository(session)
            return messages.mark_complete(key) if state == "complete" else messages.mark_interrupted(key)

        got = self.call(tenant, lambda s: _nothing(mark(s)))
        self.expect(got, lambda: self.memories[tenant].end(key, state))

    @rule(tenant=TENANT, pick=PICK)
    def pop(self, tenant: int, pick: int) -> None:
        memory = self.memories[tenant]
        if talk := _pick(memory.talks, pick):
            popped = self.call(tenant, lambda s: MessageHistoryRepository(s).pop_last(talk.id))
            self.expect(popped and popped.seq, lambda: memory.pop_last(talk))

    @rule(tenant=TENANT, pick=PICK, content=st.sampled_from(["milk", "bank"]), tags=st.sets(st.sampled_from("ab")))
    def jot(self, tenant: int, pick: int, content: str, tags: set[str]) -> None:
        memory = self.memories[tenant]
        if user := _pick(memory.users, pick):
            note = Note(user_id=user.id, content=content, tags=sorted(tags))
            added = self.call(tenant, lambda s: NoteRepository(s).add(note))
            memory.notes.append(Jotted(added.id, user.id, content, sorted(tags)))

    @rule(tenant=TENANT, pick=PICK)
    def throw_away(self, tenant: int, pick: int) -> None:
        if note := _pick(self.memories[tenant].notes, pick):
            got = self.call(tenant, lambda s: NoteRepository(s).delete(note.id))
            self.expect(got, lambda: _set(note, "deleted", True))

    @rule(tenant=TENANT, pick=PICK)
    def meddle(self, tenant: int, pick: int) -> None:
        """Nobody finds another tenant's rows by their ids."""
        other = self.memories[1 - tenant]
        for kind, ids in (
            (UserRepository, [user.id for user in other.users]),
            (ConversationRepository, [talk.id for talk in other.talks]),
        ):
            if row_id := _pick(ids, pick):
                assert self.call(tenant, lambda s: kind(s).get(row_id)) is NotFoundError  # noqa: B023 - called at once
                assert self.call(tenant, lambda s: kind(s).delete(row_id)) is NotFoundError  # noqa: B023 - the same

    @invariant()
    def the_database_is_the_model(self) -> None:
        for tenant_id, memory in zip(getattr(self, "tenants", []), getattr(self, "memories", []), strict=True):
            assert self.world.rows(tenant_id) == memory.rows()


def _pick(rows: list[T], number: int) -> T | None:
    return rows[number % len(rows)] if rows else None


def _set(row: Any, name: str, value: Any) -> None:
    """Change a row that is there; a deleted one is not."""
    if row.deleted:
        raise NotFoundError("")
    setattr(row, name, value)


async def _nothing(call: Awaitable[Any]) -> None:
    await call
