"""A model of the repositories in plain Python: the rows of one tenant in lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from src.database.errors import (
    DuplicateKeyError,
    ForeignKeyError,
    IdempotencyConflictError,
    NotFoundError,
    StaleDataError,
)

MOST_ATTEMPTS = 5


@dataclass
class Person:
    id: UUID
    telegram_id: int
    name: str | None = None
    deleted: bool = False


@dataclass
class Talk:
    id: UUID
    user: UUID
    chat: str | None
    active: bool = True
    last_seq: int = 0
    summary: str | None = None
    upto: int = 0
    token: int = 0
    holder: str | None = None
    deleted: bool = False


@dataclass
class Said:
    talk: Talk
    seq: int
    key: str
    role: str
    content: str
    state: str
    first_content: str
    deleted: bool = False


@dataclass
class Jotted:
    id: UUID
    user: UUID
    content: str
    tags: list[str]
    pinned: bool = False
    archived: bool = False
    deleted: bool = False


@dataclass
class Dated:
    id: UUID
    user: UUID
    start: datetime
    is_due: bool
    status: str = "scheduled"
    token: UUID | None = None
    attempts: int = 0
    sent: bool = False


@dataclass
class Memory:
    """The model of one tenant. Each method has the result and the errors of the method of the repository."""

    users: list[Person] = field(default_factory=list)
    talks: list[Talk] = field(default_factory=list)
    messages: list[Said] = field(default_factory=list)
    notes: list[Jotted] = field(default_factory=list)
    events: list[Dated] = field(default_factory=list)

    def user_of(self, telegram_id: int) -> Person | None:
        return next((one for one in self.users if one.telegram_id == telegram_id and not one.deleted), None)

    def restore_user(self, user: Person) -> None:
        if user.deleted and self.user_of(user.telegram_id):
            raise DuplicateKeyError("")
        user.deleted = False

    def active(self, user: UUID, chat: str | None) -> Talk | None:
        wanted = (user, chat, True, False)
        return next((one for one in self.talks if (one.user, one.chat, one.active, one.deleted) == wanted), None)

    def restore_talk(self, talk: Talk) -> None:
        if talk.deleted and talk.active and self.active(talk.user, talk.chat):
            raise DuplicateKeyError("")
        talk.deleted = False

    def close(self, talk: Talk) -> None:
        _check_there(talk)
        talk.active = False

    def may_start(self, user: Person) -> None:
        if user.deleted:
            raise ForeignKeyError("")

    def set_summary(self, talk: Talk, summary: str, upto: int, expected: int) -> None:
        if upto <= expected:
            raise ValueError
        _check_there(talk)
        if talk.upto != expected:
            raise StaleDataError("")
        if upto > talk.last_seq:
            raise ValueError
        talk.summary, talk.upto = summary, upto

    def claim_turn(self, talk: Talk, worker: str) -> int | None:
        _check_there(talk)
        if talk.holder is not None:
            return None
        talk.holder = worker
        talk.token += 1
        return talk.token

    def release_turn(self, talk: Talk, token: int) -> None:
        if talk.token != token or talk.deleted:
            raise StaleDataError("")
        talk.holder = None

    def append(self, talk: Talk, batch: Sequence[tuple[str, str, str, str]], turn: int | None) -> list[Any]:
        """Append messages (key, role, content, state); return for each whether it is new, and whether it is visible."""
        first: dict[str, tuple[str, str]] = {}
        for key, role, content, _ in batch:
            if first.setdefault(key, (role, content)) != (role, content):
                raise IdempotencyConflictError("")
        _check_there(talk)
        if turn is not None and turn != talk.token:
            raise StaleDataError("")
        for key, role, content, _ in batch:
            known = self.said(key)
            if known and (known.role, known.first_content) != (role, content):
                raise IdempotencyConflictError("")
        for key, *_ in batch:
            known = self.said(key)
            if known and not self.is_earlier(known.talk, talk):
                raise IdempotencyConflictError("")
        new = []
        for key, role, content, state in batch:
            known = self.said(key)
            new.append((known is None, known is None or not (known.deleted or known.talk.deleted)))
            if known is None:
                talk.last_seq += 1
                self.messages.append(Said(talk, talk.last_seq, key, role, content, state, content))
        return new

    def is_earlier(self, other: Talk, talk: Talk) -> bool:
        """Return True if both are in one chat. An unnamed chat belongs to its user."""
        of = {one.id: one for one in self.users}
        left = of[other.user].deleted and (
            talk.chat is not None or of[other.user].telegram_id == of[talk.user].telegram_id
        )
        return other.chat == talk.chat and (other.user == talk.user or left)

    def said(self, key: str) -> Said | None:
        return next((one for one in self.messages if one.key == key), None)

    def there(self, key: str) -> Said:
        said = self.said(key)
        if said is None or said.deleted or said.talk.deleted:
            raise NotFoundError("")
        return said

    def delete(self, said: Said) -> None:
        self.there(said.key).deleted = True

    def restore(self, said: Said) -> None:
        _check_there(said.talk)
        if said.deleted and said.state == "incomplete":
            said.state = "interrupted"
        said.deleted = False

    def visible(self) -> list[Said]:
        return [one for one in self.messages if not one.deleted and not one.talk.deleted]

    def of(self, talk: Talk) -> list[Said]:
        return sorted((one for one in self.visible() if one.talk is talk), key=lambda one: one.seq)

    def tail(self, talk: Talk, after: int, limit: int) -> list[int]:
        seqs = []
        for said in [one for one in self.of(talk) if one.seq > after][:limit]:
            if said.state == "incomplete":
                break
            seqs.append(said.seq)
        return seqs

    def edit(self, key: str, content: str) -> None:
        self.there(key).content = content

    def extend(self, key: str, piece: str, offset: int) -> None:
        said = self.there(key)
        stored = said.content
        if stored[offset:].startswith(piece) and len(stored) >= offset + len(piece):
            return
        fits = len(stored) >= offset and piece.startswith(stored[offset:])
        if said.state != "incomplete" or not fits:
            raise StaleDataError("")
        said.content = stored[:offset] + piece

    def end(self, key: str, state: str) -> None:
        said = self.there(key)
        if said.state not in {"incomplete", state}:
            raise StaleDataError("")
        said.state = state

    def pop_last(self, talk: Talk) -> int | None:
        _check_there(talk)
        said = self.of(talk)
        if not said:
            return None
        said[-1].deleted = True
        return said[-1].seq

    def tags(self, user: UUID) -> dict[str, int]:
        counts: dict[str, int] = {}
        for note in self.notes:
            if note.user == user and not note.deleted and not note.archived:
                for tag in note.tags:
                    counts[tag] = counts.get(tag, 0) + 1
        return counts

    def pending(self) -> list[Dated]:
        """Return the due reminders of existing users, the longest due first."""
        there = {user.id for user in self.users if not user.deleted}
        pending = [one for one in self.events if one.is_due and not one.sent and one.status == "scheduled"]
        return sorted((one for one in pending if one.user in there), key=lambda one: (one.start, one.id))

    def claimable(self) -> list[Dated]:
        return [one for one in self.pending() if one.token is None and one.attempts < MOST_ATTEMPTS]

    def let_go(self, one: Dated, token: UUID, *, sent: bool) -> None:
        if one.token != token:
            raise StaleDataError("")
        one.token, one.sent = None, sent

    def rows(self) -> dict[str, list[Any]]:
        """Return the rows of all tables, in order."""
        return {
            "users": sorted((one.id, one.telegram_id, one.name, one.deleted) for one in self.users),
            "conversations": sorted(
                (
                    one.id,
                    one.user,
                    one.chat,
                    one.active,
                    one.last_seq,
                    one.summary,
                    one.upto,
                    one.token,
                    one.holder,
                    one.deleted,
                )
                for one in self.talks
            ),
            "message_history": sorted(
                (one.talk.id, one.seq, one.key, one.role, one.content, one.state, one.deleted) for one in self.messages
            ),
            "events": sorted(
                (one.id, one.user, one.start, one.status, one.token, one.attempts, one.sent) for one in self.events
            ),
            "notes": sorted(
                (one.id, one.user, one.content, one.tags, one.pinned, one.archived, one.deleted) for one in self.notes
            ),
        }


def _check_there(talk: Talk) -> None:
    if talk.deleted:
        raise NotFoundError("")
