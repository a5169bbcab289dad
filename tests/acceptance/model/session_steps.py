"""Steps of conversations under a caller's session id: opened, cleared, copied, listed and searched."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import rule

from src.database.repositories import ConversationRepository, MessageHistoryRepository
from src.database.session import AsyncSession
from tests.acceptance.model.steps import PICK, TENANT, Steps, pick
from tests.acceptance.model.tenant_model import MessageRow

BEGIN = datetime(2000, 1, 1, tzinfo=UTC)


class SessionSteps(Steps):
    """The rules of sessions."""

    @rule(tenant=TENANT, number=PICK, name=st.sampled_from(["s1", "s2"]))
    def open(self, tenant: int, number: int, name: str) -> None:
        model = self.models[tenant]
        if user := pick(model.users, number):

            async def opened(session: AsyncSession) -> tuple[UUID, bool]:
                found, is_new = await ConversationRepository(session).open(name, user.id, channel="telegram")
                return found.id, is_new

            got = self.call(tenant, opened)
            new_id = got[0] if isinstance(got, tuple) else None
            self.expect(got, lambda: model.open(name, user, new_id))

    @rule(tenant=TENANT, number=PICK)
    def clear(self, tenant: int, number: int) -> None:
        model = self.models[tenant]
        if conversation := pick(model.conversations, number):
            got = self.call(tenant, lambda s: ConversationRepository(s).clear(conversation.id))
            self.expect(got, lambda: model.clear(conversation))

    @rule(tenant=TENANT, number=PICK, upto=st.integers(0, 4))
    def fork(self, tenant: int, number: int, upto: int) -> None:
        model = self.models[tenant]
        if conversation := pick(model.conversations, number):

            async def copy(session: AsyncSession) -> UUID:
                return (await ConversationRepository(session).fork(conversation.id, upto_seq=upto)).id

            got = self.call(tenant, copy)
            self.expect(got, lambda: model.fork(conversation, upto, got))

    @rule(tenant=TENANT, number=PICK, word=st.sampled_from(["a", "ab", "canción"]))
    def list_and_search(self, tenant: int, number: int, word: str) -> None:
        model = self.models[tenant]
        if user := pick(model.users, number):

            async def read(session: AsyncSession) -> list[Any]:
                messages = MessageHistoryRepository(session)
                latest = (await ConversationRepository(session).latest(user.id)).items
                since = (await messages.page_since(BEGIN, user_id=user.id)).items
                found = (await messages.search(user.id, word)).items
                return [
                    [(one.conversation.id, one.last_message and one.last_message.seq) for one in latest],
                    [(one.conversation_id, one.seq) for one in since],
                    [(one.conversation_id, one.seq) for one in found],
                ]

            everything = model.messages_of_user(user)
            assert self.call(tenant, read) == [
                model.latest(user),
                _places(everything),
                _places([one for one in everything[::-1] if word in one.content.split()]),
            ]


def _places(messages: list[MessageRow]) -> list[tuple[UUID, int]]:
    return [(one.conversation.id, one.seq) for one in messages]
