"""Steps of notes and events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from src.database.base import uuid7
from src.database.models import Event, Note
from src.database.repositories import EventRepository, NoteRepository
from src.database.session import AsyncSession
from tests.acceptance.model.memory import Dated, Jotted
from tests.acceptance.model.steps import PICK, TENANT, Steps, change, nothing, pick

DUE = datetime(2026, 1, 1, tzinfo=UTC)
FAR = datetime(2126, 1, 1, tzinfo=UTC)
LEASE = timedelta(hours=1)


class Keeping(Steps):
    """The rules of notes, events and reminders."""

    @rule(tenant=TENANT, number=PICK, content=st.sampled_from(["milk", "bank"]), tags=st.sets(st.sampled_from("ab")))
    def jot(self, tenant: int, number: int, content: str, tags: set[str]) -> None:
        memory = self.memories[tenant]
        if user := pick(memory.users, number):
            note = Note(user_id=user.id, content=content, tags=sorted(tags))
            added = self.call(tenant, lambda s: NoteRepository(s).add(note))
            memory.notes.append(Jotted(added.id, user.id, content, sorted(tags)))

    @rule(tenant=TENANT, number=PICK)
    def throw_away(self, tenant: int, number: int) -> None:
        if note := pick(self.memories[tenant].notes, number):
            got = self.call(tenant, lambda s: NoteRepository(s).delete(note.id))
            self.expect(got, lambda: change(note, "deleted", True))

    @rule(tenant=TENANT, number=PICK, does=st.sampled_from(["pin", "archive", "unarchive", "restore"]))
    def handle(self, tenant: int, number: int, does: str) -> None:
        if note := pick(self.memories[tenant].notes, number):
            got = self.call(tenant, lambda s: nothing(getattr(NoteRepository(s), does)(note.id)))
            if does == "restore":
                assert got is None
                note.deleted = False
            else:
                name, value = {"pin": ("pinned", True), "archive": ("archived", True)}.get(does, ("archived", False))
                self.expect(got, lambda: change(note, name, value))

    @rule(tenant=TENANT, number=PICK)
    def look_for(self, tenant: int, number: int) -> None:
        memory = self.memories[tenant]
        if user := pick(memory.users, number):

            async def look(session: AsyncSession) -> tuple[dict[str, int], set[Any], int]:
                notes = NoteRepository(session)
                tags = {one.tag: one.count for one in await notes.tags(user.id)}
                return (
                    tags,
                    {hit.note.id for hit in await notes.search(user.id, "mil")},
                    len(await notes.archived(user.id)),
                )

            mine = [note for note in memory.notes if note.user == user.id and not note.deleted]
            found = {note.id for note in mine if note.content == "milk" and not note.archived}
            assert self.call(tenant, look) == (memory.tags(user.id), found, sum(note.archived for note in mine))

    @rule(tenant=TENANT, number=PICK, minute=st.integers(0, 3), is_due=st.booleans())
    def plan(self, tenant: int, number: int, minute: int, is_due: bool) -> None:
        memory = self.memories[tenant]
        if user := pick(memory.users, number):
            at = (DUE if is_due else FAR) + timedelta(minutes=minute)
            event = Event(user_id=user.id, title="x", start_datetime=at, reminder_datetime=at)
            added = self.call(tenant, lambda s: EventRepository(s).add(event))
            memory.events.append(Dated(added.id, user.id, at, is_due))

    @rule(tenant=TENANT, limit=st.integers(1, 3))
    def claim(self, tenant: int, limit: int) -> None:
        memory = self.memories[tenant]
        got = self.call(tenant, lambda s: EventRepository(s).claim_due_reminders("w", limit=limit, lease=LEASE))
        expected = memory.claimable()[:limit]
        assert [event.id for event in got] == [one.id for one in expected]
        for event, one in zip(got, expected, strict=True):
            one.token = event.reminder_token
            one.attempts += 1
            assert event.reminder_attempts == one.attempts

    @rule(tenant=TENANT, number=PICK, acks=st.booleans(), is_late=st.booleans())
    def answer(self, tenant: int, number: int, acks: bool, is_late: bool) -> None:
        memory = self.memories[tenant]
        if one := pick(memory.events, number):
            token = uuid7() if is_late or one.token is None else one.token

            async def reply(session: AsyncSession) -> None:
                events = EventRepository(session)
                await (events.ack_reminder(one.id, token) if acks else events.release_reminder(one.id, token))

            self.expect(self.call(tenant, reply), lambda: memory.let_go(one, token, sent=acks))

    @rule(tenant=TENANT, number=PICK)
    def call_off(self, tenant: int, number: int) -> None:
        if one := pick(self.memories[tenant].events, number):
            assert not isinstance(self.call(tenant, lambda s: EventRepository(s).cancel(one.id)), type)
            one.status, one.token = "cancelled", None

    @rule(tenant=TENANT, number=PICK)
    def look_ahead(self, tenant: int, number: int) -> None:
        memory = self.memories[tenant]
        if user := pick(memory.users, number):
            upcoming = self.call(tenant, lambda s: EventRepository(s).upcoming(user.id))
            mine = [
                one for one in memory.events if one.user == user.id and not one.is_due and one.status == "scheduled"
            ]
            assert [one.id for one in upcoming] == [one.id for one in sorted(mine, key=lambda one: (one.start, one.id))]
            missed = self.call(tenant, lambda s: EventRepository(s).missed())
            due = [one for one in memory.pending() if one.token is None]
            assert [one.id for one in missed] == [one.id for one in due]
