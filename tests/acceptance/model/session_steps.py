"""Steps of conversations under a caller's session id: opened, cleared, copied, listed and searched."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import rule

from src.database.base import uuid7
from src.database.statements import Identity, NewMessage
from src.database.store import get_store
from tests.acceptance.model.steps import MESSAGE, PICK, STORED, TENANT, Steps, pick
from tests.acceptance.model.tenant_model import MessageRow
from tests.database.store.paths import ROW, Path

BEGIN = datetime(2000, 1, 1, tzinfo=UTC)


class SessionSteps(Steps):
    """The rules of sessions and turns, through the store or the repositories."""

    @rule(tenant=TENANT, number=PICK, name=st.sampled_from(["s1", "s2"]), stored=STORED)
    def open(self, tenant: int, number: int, name: str, *, stored: bool) -> None:
        model = self.models[tenant]
        if user := pick(model.users, number):
            got = self.by(tenant, lambda p: p.open(name, user.id, channel="telegram"), stored=stored)
            new_id = got[0] if isinstance(got, tuple) else None
            self.expect(got, lambda: model.open(name, user, new_id))

    @rule(tenant=TENANT, number=PICK, stored=STORED)
    def clear(self, tenant: int, number: int, *, stored: bool) -> None:
        model = self.models[tenant]
        if conversation := pick(model.conversations, number):
            got = self.by(tenant, lambda p: p.clear(conversation.id), stored=stored)
            self.expect(got, lambda: model.clear(conversation))

    @rule(tenant=TENANT, number=PICK, upto=st.integers(0, 4), stored=STORED)
    def fork(self, tenant: int, number: int, upto: int, *, stored: bool) -> None:
        model = self.models[tenant]
        if conversation := pick(model.conversations, number):

            async def copy(path: Path) -> UUID:
                copied: UUID = (await path.fork(conversation.id, upto_seq=upto))["id"]
                return copied

            got = self.by(tenant, copy, stored=stored)
            self.expect(got, lambda: model.fork(conversation, upto, got))

    @rule(tenant=TENANT, number=PICK, word=st.sampled_from(["a", "ab", "canción"]), stored=STORED)
    def list_and_search(self, tenant: int, number: int, word: str, *, stored: bool) -> None:
        model = self.models[tenant]
        if user := pick(model.users, number):

            async def read(path: Path) -> list[Any]:
                latest = (await path.latest(user.id)).items
                since = (await path.page_since(BEGIN, user_id=user.id)).items
                found = (await path.search(user.id, word)).items
                return [
                    [(one.conversation.id, one.last_message and one.last_message.seq) for one in latest],
                    [(one.conversation_id, one.seq) for one in since],
                    [(one.conversation_id, one.seq) for one in found],
                ]

            everything = model.messages_of_user(user)
            assert self.by(tenant, read, stored=stored) == [
                model.latest(user),
                _places(everything),
                _places([one for one in everything[::-1] if word in one.content.split()]),
            ]

    @rule(tenant=TENANT, number=PICK, after=st.integers(0, 4), stored=STORED)
    def stream_and_last(self, tenant: int, number: int, after: int, *, stored: bool) -> None:
        model = self.models[tenant]
        if conversation := pick(model.conversations, number):
            rows = self.by(tenant, lambda p: p.stream(conversation.id, after_seq=after), stored=stored)
            last = self.by(tenant, lambda p: p.last(conversation.id, after + 1), stored=stored)
            seqs = [one.seq for one in model.messages_of(conversation)]
            assert [row[ROW.index("seq")] for row in rows] == [seq for seq in seqs if seq > after]
            assert last == seqs[-after - 1 :]

    @rule(
        tenant=TENANT,
        sender=st.sampled_from([1, 2, 3, "a", "b"]),
        chat=st.sampled_from([None, "1"]),
        batch=st.lists(MESSAGE, min_size=1, max_size=2),
    )
    def turn(self, tenant: int, sender: int | str, chat: str | None, batch: list[tuple[str, str, str, str]]) -> None:
        """Take a turn in the store, which is one call for three of the repositories."""
        model = self.models[tenant]
        messages = [NewMessage(message_id=k, role=r, content=c, state=s) for k, r, c, s in batch]  # type: ignore[arg-type] # drawn

        async def take(_path: Path) -> tuple[UUID, UUID, list[tuple[bool, bool]]]:
            identity = Identity("google", sender) if isinstance(sender, str) else sender
            turn = await get_store().turn(identity, "telegram", chat, messages)
            return turn.user.id, turn.conversation.id, [(one.inserted, one.is_there) for one in turn.appended]

        got = self.by(tenant, take, stored=True)
        new_ids = (uuid7(), uuid7()) if isinstance(got, type) else got[:2]
        self.expect(got, lambda: model.turn(sender, chat, batch, new_ids))


def _places(messages: list[MessageRow]) -> list[tuple[UUID, int]]:
    return [(one.conversation.id, one.seq) for one in messages]
