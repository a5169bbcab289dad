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
from tests.acceptance.model.steps import PICK, TENANT, Steps, change, pick, without_result
from tests.acceptance.model.tenant_model import EventRow, NoteRow

DUE = datetime(2026, 1, 1, tzinfo=UTC)
FAR = datetime(2126, 1, 1, tzinfo=UTC)
LEASE = timedelta(hours=1)


class NoteSteps(Steps):
    """The rules of notes, events and reminders."""

    @rule(tenant=TENANT, number=PICK, content=st.sampled_from(["milk", "bank"]), tags=st.sets(st.sampled_from("ab")))
    def add_note(self, tenant: int, number: int, content: str, tags: set[str]) -> None:
        model = self.models[tenant]
        if user := pick(model.users, number):
            note = Note(user_id=user.id, content=content, tags=sorted(tags))
            added = self.call(tenant, lambda s: NoteRepository(s).add(note))
            model.notes.append(NoteRow(added.id, user.id, content, sorted(tags)))

    @rule(tenant=TENANT, number=PICK)
    def delete_note(self, tenant: int, number: int) -> None:
        if note := pick(self.models[tenant].notes, number):
            got = self.call(tenant, lambda s: NoteRepository(s).delete(note.id))
            self.expect(got, lambda: change(note, "deleted", True))

    @rule(tenant=TENANT, number=PICK, does=st.sampled_from(["pin", "archive", "unarchive", "restore"]))
    def change_note(self, tenant: int, number: int, does: str) -> None:
        if note := pick(self.models[tenant].notes, number):
            got = self.call(tenant, lambda s: without_result(getattr(NoteRepository(s), does)(note.id)))
            if does == "restore":
                assert got is None
                note.deleted = False
            else:
                name, value = {"pin": ("pinned", True), "archive": ("archived", True)}.get(does, ("archived", False))
                self.expect(got, lambda: change(note, name, value))

    @rule(tenant=TENANT, number=PICK)
    def search_notes(self, tenant: int, number: int) -> None:
        model = self.models[tenant]
        if user := pick(model.users, number):

            async def read_notes(session: AsyncSession) -> tuple[dict[str, int], set[Any], int]:
                notes = NoteRepository(session)
                tags = {one.tag: one.count for one in await notes.tags(user.id)}
                return (
                    tags,
                    {hit.note.id for hit in await notes.search(user.id, "mil")},
                    len(await notes.archived(user.id)),
                )

            mine = [note for note in model.notes if note.user == user.id and not note.deleted]
            found = {note.id for note in mine if note.content == "milk" and not note.archived}
            assert self.call(tenant, read_notes) == (model.tags(user.id), found, sum(note.archived for note in mine))

    @rule(tenant=TENANT, number=PICK, minute=st.integers(0, 3), is_due=st.booleans())
    def add_event(self, tenant: int, number: int, minute: int, is_due: bool) -> None:
        model = self.models[tenant]
        if user := pick(model.users, number):
            at = (DUE if is_due else FAR) + timedelta(minutes=minute)
            event = Event(user_id=user.id, title="x", start_datetime=at, reminder_datetime=at)
            added = self.call(tenant, lambda s: EventRepository(s).add(event))
            model.events.append(EventRow(added.id, user.id, at, is_due))

    @rule(tenant=TENANT, limit=st.integers(1, 3))
    def claim_reminders(self, tenant: int, limit: int) -> None:
        model = self.models[tenant]
        got = self.call(tenant, lambda s: EventRepository(s).claim_due_reminders("w", limit=limit, lease=LEASE))
        expected = model.claimable()[:limit]
        assert [event.id for event in got] == [one.id for one in expected]
        for event, one in zip(got, expected, strict=True):
            one.token = event.reminder_token
            one.attempts += 1
            assert event.reminder_attempts == one.attempts

    @rule(tenant=TENANT, number=PICK, acks=st.booleans(), is_late=st.booleans())
    def acknowledge_or_release_reminder(self, tenant: int, number: int, acks: bool, is_late: bool) -> None:
        model = self.models[tenant]
        if one := pick(model.events, number):
            token = uuid7() if is_late or one.token is None else one.token

            async def acknowledge_or_release(session: AsyncSession) -> None:
                events = EventRepository(session)
                await (events.ack_reminder(one.id, token) if acks else events.release_reminder(one.id, token))

            self.expect(
                self.call(tenant, acknowledge_or_release), lambda: model.release_reminder(one, token, sent=acks)
            )

    @rule(tenant=TENANT, number=PICK)
    def cancel_event(self, tenant: int, number: int) -> None:
        if one := pick(self.models[tenant].events, number):
            assert not isinstance(self.call(tenant, lambda s: EventRepository(s).cancel(one.id)), type)
            one.status, one.token = "cancelled", None

    @rule(tenant=TENANT, number=PICK)
    def list_events(self, tenant: int, number: int) -> None:
        model = self.models[tenant]
        if user := pick(model.users, number):
            upcoming = self.call(tenant, lambda s: EventRepository(s).upcoming(user.id))
            mine = [one for one in model.events if one.user == user.id and not one.is_due and one.status == "scheduled"]
            assert [one.id for one in upcoming] == [one.id for one in sorted(mine, key=lambda one: (one.start, one.id))]
            missed = self.call(tenant, lambda s: EventRepository(s).missed())
            due = [one for one in model.pending() if one.token is None]
            assert [one.id for one in missed] == [one.id for one in due]
