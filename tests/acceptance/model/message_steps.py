"""Steps of users, conversations and messages."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from src.database.base import utc_now
from src.database.errors import NotFoundError
from src.database.models import attributes
from src.database.repositories import (
    ConversationRepository,
    MessageHistoryRepository,
    NewMessage,
    Turn,
    UserRepository,
)
from src.database.session import AsyncSession
from tests.acceptance.model.steps import (
    CONTENT,
    KEY,
    MESSAGE,
    PICK,
    STORED,
    TENANT,
    Steps,
    change,
    pick,
    without_result,
)
from tests.acceptance.model.tenant_model import ConversationRow, UserRow
from tests.database.store.paths import ROW, Path

SUBJECT = st.sampled_from(["a", "b"])
CHAT = st.sampled_from([None, "1"])


class MessageSteps(Steps):
    """The rules of users, conversations and messages; starts with two users and a conversation of each."""

    edits = 0

    @initialize()
    def begin(self) -> None:
        super().begin()
        for tenant in (0, 1):
            for telegram_id in (1, 2):
                self.get_or_create_user(tenant, telegram_id, None)
                self.start(tenant, telegram_id - 1, None)

    @rule(tenant=TENANT, telegram_id=st.integers(1, 3), name=st.sampled_from([None, "Ada"]))
    def get_or_create_user(self, tenant: int, telegram_id: int, name: str | None) -> None:
        model = self.models[tenant]
        known = model.user_of(telegram_id)
        values: attributes.NewUser = {} if name is None else {"display_name": name}
        user, created = self.call(
            tenant, lambda s: UserRepository(s).get_or_create_by_telegram_id(telegram_id, **values)
        )
        assert created == (known is None)
        if known is None:
            model.users.append(UserRow(user.id, telegram_id, name))
        else:
            assert user.id == known.id

    @rule(
        tenant=TENANT,
        number=PICK,
        name=st.sampled_from(["Ada", "Bob"]),
        expected=st.sampled_from([{}, {"display_name": "Ada"}, {"display_name": None}]),
    )
    def rename_user(self, tenant: int, number: int, name: str, expected: attributes.UserAttributes) -> None:
        model = self.models[tenant]
        if user := pick(model.users, number):
            got = self.call(
                tenant,
                lambda s: without_result(
                    UserRepository(s).update(user.id, display_name=name, expected=expected or None)
                ),
            )
            self.expect(got, lambda: model.rename(user, name, expected))

    @rule(tenant=TENANT, number=PICK, does=st.sampled_from(["values", "merge", "remove"]), value=st.integers(0, 2))
    def change_preferences(self, tenant: int, number: int, does: str, value: int) -> None:
        model = self.models[tenant]
        if user := pick(model.users, number):
            changes: dict[str, Any] = {
                "values": {"k": value, f"only {value}": None},
                "merge": {"k": {f"deep {value}": value}},
                "remove": ["k"],
            }
            got = self.call(
                tenant,
                lambda s: without_result(
                    UserRepository(s).change_json(user.id, "preferences", **{does: changes[does]})
                ),
            )
            self.expect(got, lambda: model.change_preferences(user, does, changes[does]))

    @rule(tenant=TENANT, number=PICK)
    def delete_user(self, tenant: int, number: int) -> None:
        if user := pick(self.models[tenant].users, number):
            got = self.call(tenant, lambda s: UserRepository(s).delete(user.id))
            self.expect(got, lambda: change(user, "deleted", True))

    @rule(tenant=TENANT, number=PICK)
    def restore_user(self, tenant: int, number: int) -> None:
        model = self.models[tenant]
        if user := pick(model.users, number):
            got = self.call(tenant, lambda s: without_result(UserRepository(s).restore(user.id)))
            self.expect(got, lambda: model.restore_user(user))

    @rule(tenant=TENANT, subject=SUBJECT)
    def get_or_create_by_identity(self, tenant: int, subject: str) -> None:
        model = self.models[tenant]
        known = model.user_with(subject)
        user, created = self.call(tenant, lambda s: UserRepository(s).get_or_create_by_identity("google", subject))
        assert created == (known is None)
        if known is None:
            model.users.append(UserRow(user.id, None))
            model.identities[subject] = model.users[-1]
        else:
            assert user.id == known.id

    @rule(tenant=TENANT, number=PICK, subject=SUBJECT)
    def link(self, tenant: int, number: int, subject: str) -> None:
        model = self.models[tenant]
        if user := pick(model.users, number):
            got = self.call(tenant, lambda s: without_result(UserRepository(s).link(user.id, "google", subject)))
            self.expect(got, lambda: model.link(user, subject))

    @rule(tenant=TENANT, number=PICK, subject=SUBJECT)
    def unlink(self, tenant: int, number: int, subject: str) -> None:
        model = self.models[tenant]
        if user := pick(model.users, number):
            got = self.call(tenant, lambda s: without_result(UserRepository(s).unlink(user.id, "google", subject)))
            self.expect(got, lambda: model.unlink(user, subject))

    @rule(tenant=TENANT, number=PICK, other_number=PICK)
    def merge_users(self, tenant: int, number: int, other_number: int) -> None:
        model = self.models[tenant]
        user, other = pick(model.users, number), pick(model.users, other_number)
        if user and other:
            got = self.call(tenant, lambda s: without_result(UserRepository(s).merge(user.id, other.id)))
            self.expect(got, lambda: model.merge(user, other))

    @rule(tenant=TENANT)
    def count(self, tenant: int) -> None:
        model = self.models[tenant]
        assert self.call(tenant, lambda s: UserRepository(s).count()) == sum(not one.deleted for one in model.users)
        assert self.call(tenant, lambda s: MessageHistoryRepository(s).count()) == len(model.visible())

    @rule(tenant=TENANT, number=PICK, chat=CHAT)
    def start(self, tenant: int, number: int, chat: str | None) -> None:
        model = self.models[tenant]
        if user := pick(model.users, number):
            known = model.active(user.id, chat)
            got = self.call(tenant, lambda s: ConversationRepository(s).get_or_start(user.id, "telegram", chat))
            if known is not None:
                assert (got[0].id, got[1]) == (known.id, False)
            elif isinstance(got, type):
                self.expect(got, lambda: model.check_start(user))
            else:
                assert got[1]
                assert not user.deleted
                model.conversations.append(ConversationRow(got[0].id, user.id, chat))

    @rule(tenant=TENANT, number=PICK)
    def close(self, tenant: int, number: int) -> None:
        model = self.models[tenant]
        if conversation := pick(model.conversations, number):
            got = self.call(
                tenant, lambda s: without_result(ConversationRepository(s).close(conversation.id, reason="done"))
            )
            self.expect(got, lambda: model.close(conversation))

    @rule(tenant=TENANT, number=PICK, stored=STORED)
    def delete_conversation(self, tenant: int, number: int, *, stored: bool) -> None:
        if conversation := pick(self.models[tenant].conversations, number):
            got = self.by(tenant, lambda p: p.delete(conversation.id), stored=stored)
            self.expect(got, lambda: change(conversation, "deleted", True))

    @rule(tenant=TENANT, number=PICK)
    def restore_conversation(self, tenant: int, number: int) -> None:
        model = self.models[tenant]
        if conversation := pick(model.conversations, number):
            got = self.call(tenant, lambda s: without_result(ConversationRepository(s).restore(conversation.id)))
            self.expect(got, lambda: model.restore_conversation(conversation))

    @rule(tenant=TENANT, number=PICK, upto=st.integers(0, 6), expected=st.integers(0, 3))
    def summarize_conversation(self, tenant: int, number: int, upto: int, expected: int) -> None:
        model = self.models[tenant]
        if conversation := pick(model.conversations, number):
            got = self.call(
                tenant,
                lambda s: without_result(
                    ConversationRepository(s).set_summary(
                        conversation.id, "so far", upto_seq=upto, expected_upto=expected
                    )
                ),
            )
            self.expect(got, lambda: model.set_summary(conversation, "so far", upto, expected))

    @rule(
        tenant=TENANT,
        number=PICK,
        worker=st.sampled_from(["w1", "w2"]),
        wait_seconds=st.sampled_from([None, 0, 0.01]),
        stored=STORED,
    )
    def claim_turn(self, tenant: int, number: int, worker: str, wait_seconds: float | None, *, stored: bool) -> None:
        model = self.models[tenant]
        if conversation := pick(model.conversations, number):
            options: dict[str, Any] = {"lease": timedelta(hours=1), "wait_seconds": wait_seconds}

            async def claim(path: Path) -> int | None:
                turn = await path.claim_turn(conversation.id, worker, **options)
                return None if turn is None else turn.token

            got = self.by(tenant, claim, stored=stored)
            self.expect(got, lambda: model.claim_turn(conversation, worker, waits=bool(wait_seconds)))

    @rule(tenant=TENANT, number=PICK, behind=st.integers(0, 1), stored=STORED)
    def release_turn(self, tenant: int, number: int, behind: int, *, stored: bool) -> None:
        model = self.models[tenant]
        if (conversation := pick(model.conversations, number)) and conversation.token > behind:
            turn = Turn(
                conversation_id=conversation.id, worker="w1", token=conversation.token - behind, until=utc_now()
            )
            got = self.by(tenant, lambda p: p.release_turn(turn), stored=stored)
            self.expect(got, lambda: model.release_turn(conversation, turn.token))

    @rule(
        tenant=TENANT,
        number=PICK,
        batch=st.lists(MESSAGE, min_size=1, max_size=3),
        behind=st.sampled_from([None, 0, 1]),
        missing=st.sampled_from([None, None, 0, 1]),
        stored=STORED,
    )
    def append_messages(
        self,
        tenant: int,
        number: int,
        batch: list[tuple[str, str, str, str]],
        behind: int | None,
        missing: int | None = None,
        *,
        stored: bool = False,
    ) -> None:
        model = self.models[tenant]
        if conversation := pick(model.conversations, number):
            turn = None if behind is None or behind > conversation.token else conversation.token - behind
            expected = None if missing is None else max(conversation.last_seq - missing, 0)
            messages = [NewMessage(message_id=k, role=r, content=c, state=s) for k, r, c, s in batch]  # type: ignore[arg-type] # drawn

            async def append(path: Path) -> list[tuple[bool, bool]]:
                done = await path.append_many(conversation.id, messages, turn=turn, expected_last_seq=expected)
                return [(one.inserted, one.is_there) for one in done]

            got = self.by(tenant, append, stored=stored)
            self.expect(got, lambda: model.append(conversation, batch, turn, expected))

    @rule(tenant=TENANT, number=PICK, key=KEY, content=CONTENT)
    def append_answer(self, tenant: int, number: int, key: str, content: str) -> None:
        self.append_messages(tenant, number, [(key, "assistant", content, "incomplete")], 0)

    @rule(tenant=TENANT, number=PICK, after=st.integers(0, 6), limit=st.integers(1, 4))
    def read(self, tenant: int, number: int, after: int, limit: int) -> None:
        model = self.models[tenant]
        if conversation := pick(model.conversations, number):

            async def windows(session: AsyncSession) -> list[list[int]]:
                messages = MessageHistoryRepository(session)
                return [
                    [one.seq for one in window]
                    for window in (
                        await messages.tail(conversation.id, after, limit=limit),
                        await messages.recent(conversation.id, limit=limit),
                        await messages.after(conversation.id, after, limit=limit),
                        await messages.before(conversation.id, after, limit=limit),
                    )
                ]

            seqs = [one.seq for one in model.messages_of(conversation)]
            assert self.call(tenant, windows) == [
                model.tail(conversation, after, limit),
                seqs[-limit:],
                [seq for seq in seqs if seq > after][:limit],
                [seq for seq in seqs if seq < after][-limit:],
            ]

    @rule(tenant=TENANT, key=KEY, content=CONTENT)
    def edit(self, tenant: int, key: str, content: str) -> None:
        self.edits += 1
        at = utc_now() + timedelta(seconds=self.edits)
        got = self.call(tenant, lambda s: without_result(MessageHistoryRepository(s).edit(key, content, edited_at=at)))
        self.expect(got, lambda: self.models[tenant].edit(key, content))

    @rule(tenant=TENANT, key=KEY, piece=CONTENT, offset=st.integers(0, 3))
    def extend(self, tenant: int, key: str, piece: str, offset: int) -> None:
        got = self.call(tenant, lambda s: without_result(MessageHistoryRepository(s).extend(key, piece, offset=offset)))
        self.expect(got, lambda: self.models[tenant].extend(key, piece, offset))

    @rule(tenant=TENANT, key=KEY, state=st.sampled_from(["complete", "interrupted"]))
    def end(self, tenant: int, key: str, state: str) -> None:
        def mark(session: AsyncSession) -> Awaitable[Any]:
            messages = MessageHistoryRepository(session)
            return messages.mark_complete(key) if state == "complete" else messages.mark_interrupted(key)

        got = self.call(tenant, lambda s: without_result(mark(s)))
        self.expect(got, lambda: self.models[tenant].end(key, state))

    @rule(tenant=TENANT, number=PICK, limit=st.integers(1, 2), stored=STORED)
    def pop(self, tenant: int, number: int, limit: int, *, stored: bool) -> None:
        model = self.models[tenant]
        if conversation := pick(model.conversations, number):

            async def pop(path: Path) -> list[int]:
                return [row[ROW.index("seq")] for row in await path.pop(conversation.id, limit)]

            self.expect(self.by(tenant, pop, stored=stored), lambda: model.pop(conversation, limit))

    @rule(tenant=TENANT, key=KEY, does=st.sampled_from(["delete", "restore"]))
    def delete_or_restore_message(self, tenant: int, key: str, does: str) -> None:
        model = self.models[tenant]
        if message := model.message(key):
            row_id = self.world.id_of_message(self.tenants[tenant], key)
            got = self.call(tenant, lambda s: without_result(getattr(MessageHistoryRepository(s), does)(row_id)))
            self.expect(got, lambda: getattr(model, does)(message))

    @rule(tenant=TENANT, number=PICK)
    def call_with_ids_of_another_tenant(self, tenant: int, number: int) -> None:
        """Check that ids of another tenant's rows find nothing."""
        other = self.models[1 - tenant]
        for kind, ids in (
            (UserRepository, [user.id for user in other.users]),
            (ConversationRepository, [conversation.id for conversation in other.conversations]),
        ):
            if row_id := pick(ids, number):
                assert self.call(tenant, lambda s: kind(s).get(row_id)) is NotFoundError  # noqa: B023 - called immediately
                assert self.call(tenant, lambda s: kind(s).delete(row_id)) is NotFoundError  # noqa: B023 - the same
