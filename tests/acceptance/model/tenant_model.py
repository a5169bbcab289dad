"""A model of the repositories in plain Python: the rows of one tenant in lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import Any
from uuid import UUID

from src.database.errors import (
    DuplicateKeyError,
    ForeignKeyError,
    IdempotencyConflictError,
    IntegrityError,
    LockNotAvailable,
    NotFoundError,
    StaleDataError,
)

MOST_ATTEMPTS = 5
_CLOCK = count()


@dataclass
class UserRow:
    id: UUID
    telegram_id: int | None
    name: str | None = None
    preferences: dict[str, Any] = field(default_factory=dict)
    deleted: bool = False


@dataclass
class ConversationRow:
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
    last_active: int = field(default_factory=lambda: next(_CLOCK))


@dataclass
class MessageRow:
    conversation: ConversationRow
    seq: int
    key: str
    role: str
    content: str
    state: str
    first_content: str
    at: int
    """The place in the order of time; the messages of one call have one."""
    made: int = field(default_factory=lambda: next(_CLOCK))
    deleted: bool = False


@dataclass
class NoteRow:
    id: UUID
    user: UUID
    content: str
    tags: list[str]
    pinned: bool = False
    archived: bool = False
    deleted: bool = False


@dataclass
class EventRow:
    id: UUID
    user: UUID
    start: datetime
    is_due: bool
    status: str = "scheduled"
    token: UUID | None = None
    attempts: int = 0
    sent: bool = False


@dataclass
class TenantModel:
    """The model of one tenant. Each method has the result and the errors of the method of the repository."""

    users: list[UserRow] = field(default_factory=list)
    identities: dict[str, UserRow] = field(default_factory=dict)
    conversations: list[ConversationRow] = field(default_factory=list)
    messages: list[MessageRow] = field(default_factory=list)
    notes: list[NoteRow] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)
    sessions: dict[str, ConversationRow] = field(default_factory=dict)
    entries: dict[tuple[UUID, str], tuple[Any, int]] = field(default_factory=dict)
    """The value and the version of each entry of state, by owner and key."""

    def set_entry(self, owner: UserRow, key: str, value: Any, expected: int | None, *, merges: bool) -> int:
        """Set or merge a value, and return the version."""
        _check_exists(owner)
        before, version = self.entries.get((owner.id, key), (None, 0))
        if expected is not None and expected != version:
            raise StaleDataError("")
        merged = {**before, **value} if merges and isinstance(before, dict) else value
        self.entries[owner.id, key] = (merged, version + 1)
        return version + 1

    def delete_entry(self, owner: UserRow, key: str, expected: int | None) -> bool:
        there = not owner.deleted and (owner.id, key) in self.entries
        if expected is not None and expected != (self.entries[owner.id, key][1] if there else 0):
            raise StaleDataError("")
        return there and self.entries.pop((owner.id, key), None) is not None

    def rename(self, user: UserRow, name: str, expected: Mapping[str, Any]) -> None:
        _check_exists(user)
        if expected and expected["display_name"] != user.name:
            raise StaleDataError("")
        user.name = name

    def change_preferences(self, user: UserRow, does: str, what: Any) -> None:
        _check_exists(user)
        before = user.preferences.get("k")
        if does == "remove":
            user.preferences.pop("k", None)
        elif does == "merge" and isinstance(before, dict):
            user.preferences["k"] = {**before, **what["k"]}
        else:
            user.preferences |= what

    def turn(
        self,
        sender: int | str,
        chat: str | None,
        batch: Sequence[tuple[str, str, str, str]],
        new_ids: tuple[UUID, UUID],
    ) -> tuple[UUID, UUID, list[Any]]:
        """Append to the active conversation of a sender; a user or a conversation that is missing gets its new id."""
        user = self.user_with(sender) if isinstance(sender, str) else self.user_of(sender)
        known_user = user is not None
        if user is None:
            user = UserRow(new_ids[0], None if isinstance(sender, str) else sender)
            self.users.append(user)
        conversation = self.active(user.id, chat)
        known_conversation = conversation is not None
        if conversation is None:
            conversation = ConversationRow(new_ids[1], user.id, chat)
            self.conversations.append(conversation)
        try:
            appended = self.append(conversation, batch, None, None)
        except IdempotencyConflictError:
            if not known_conversation:
                self.conversations.remove(conversation)
            if not known_user:
                self.users.remove(user)
            raise
        if isinstance(sender, str):
            self.identities[sender] = user
        return user.id, conversation.id, appended

    def user_of(self, telegram_id: int) -> UserRow | None:
        return next((one for one in self.users if one.telegram_id == telegram_id and not one.deleted), None)

    def user_with(self, subject: str) -> UserRow | None:
        owner = self.identities.get(subject)
        return None if owner is None or owner.deleted else owner

    def link(self, user: UserRow, subject: str) -> None:
        _check_exists(user)
        if self.user_with(subject) not in (None, user):
            raise DuplicateKeyError("")
        self.identities[subject] = user

    def unlink(self, user: UserRow, subject: str) -> None:
        if self.identities.get(subject) is user:
            del self.identities[subject]

    def merge(self, user: UserRow, other: UserRow) -> None:
        if user is other:
            raise ValueError
        for one in (user, other):
            _check_exists(one)
        owners = {owner.id for owner in self.identities.values()}
        if None not in (user.telegram_id, other.telegram_id) or {user.id, other.id} <= owners:
            raise IntegrityError("")
        keys = [{key for owner, key in self.entries if owner == one.id} for one in (user, other)]
        if keys[0] & keys[1]:
            raise DuplicateKeyError("")
        self.entries = {
            (user.id if owner == other.id else owner, key): entry for (owner, key), entry in self.entries.items()
        }
        for chat in {one.chat for one in self.conversations}:
            both = [found for owner in (user, other) if (found := self.active(owner.id, chat)) is not None]
            if len(both) > 1:
                min(both, key=lambda one: one.last_active).active = False
        rows: list[Any] = [*self.conversations, *self.notes, *self.events]
        for row in rows:
            row.user = user.id if row.user == other.id else row.user
        self.identities = {name: user if owner is other else owner for name, owner in self.identities.items()}
        user.telegram_id = other.telegram_id if user.telegram_id is None else user.telegram_id
        user.name = other.name if user.name is None else user.name
        user.preferences = {**other.preferences, **user.preferences}
        self.users.remove(other)

    def restore_user(self, user: UserRow) -> None:
        if user.deleted and user.telegram_id is not None and self.user_of(user.telegram_id):
            raise DuplicateKeyError("")
        user.deleted = False

    def active(self, user: UUID, chat: str | None) -> ConversationRow | None:
        wanted = (user, chat, True, False)
        return next(
            (one for one in self.conversations if (one.user, one.chat, one.active, one.deleted) == wanted), None
        )

    def open(self, name: str, user: UserRow, new_id: UUID | None) -> tuple[UUID, bool]:
        """Return the conversation under a session id, and whether it is new: then under this id."""
        known = self.sessions.get(name)
        if known is not None and not known.deleted:
            if known.user != user.id:
                raise DuplicateKeyError("")
            return known.id, False
        if user.deleted or new_id is None:
            raise ForeignKeyError("")
        self.sessions[name] = ConversationRow(new_id, user.id, None, active=False)
        self.conversations.append(self.sessions[name])
        return new_id, True

    def clear(self, conversation: ConversationRow) -> int:
        _check_exists(conversation)
        messages = self.messages_of(conversation)
        for message in messages:
            message.deleted = True
        conversation.summary, conversation.upto = None, 0
        return len(messages)

    def fork(self, conversation: ConversationRow, upto: int, new_id: UUID) -> UUID:
        """Copy a conversation under this id."""
        _check_exists(conversation)
        copy = ConversationRow(
            new_id, conversation.user, conversation.chat, active=False, last_seq=min(conversation.last_seq, upto)
        )
        if conversation.upto <= upto:
            copy.summary, copy.upto = conversation.summary, conversation.upto
        for one in self.messages_of(conversation):
            if one.seq <= upto:
                state = "interrupted" if one.state == "incomplete" else one.state
                key = f"fork:{new_id}:{one.seq}"
                self.messages.append(MessageRow(copy, one.seq, key, one.role, one.content, state, one.content, one.at))
                copy.last_active = one.at
        self.conversations.append(copy)
        return new_id

    def latest(self, user: UserRow) -> list[tuple[UUID, int | None]]:
        """Return a user's conversations, the last active one first, with the numbers of the last messages."""
        own = [one for one in self.conversations if one.user == user.id and not one.deleted]
        own.sort(key=lambda one: (one.last_active, one.id), reverse=True)
        return [(one.id, max((message.seq for message in self.messages_of(one)), default=None)) for one in own]

    def restore_conversation(self, conversation: ConversationRow) -> None:
        if conversation.deleted and conversation.active and self.active(conversation.user, conversation.chat):
            raise DuplicateKeyError("")
        conversation.deleted = False

    def close(self, conversation: ConversationRow) -> None:
        _check_exists(conversation)
        conversation.active = False

    def check_start(self, user: UserRow) -> None:
        if user.deleted:
            raise ForeignKeyError("")

    def set_summary(self, conversation: ConversationRow, summary: str, upto: int, expected: int) -> None:
        if upto <= expected:
            raise ValueError
        _check_exists(conversation)
        if conversation.upto != expected:
            raise StaleDataError("")
        if upto > conversation.last_seq:
            raise ValueError
        conversation.summary, conversation.upto = summary, upto

    def claim_turn(self, conversation: ConversationRow, worker: str, *, waits: bool) -> int | None:
        _check_exists(conversation)
        if conversation.holder is not None:
            if waits:
                raise LockNotAvailable("")
            return None
        conversation.holder = worker
        conversation.token += 1
        return conversation.token

    def release_turn(self, conversation: ConversationRow, token: int) -> None:
        if conversation.token != token or conversation.deleted:
            raise StaleDataError("")
        conversation.holder = None

    def append(
        self,
        conversation: ConversationRow,
        batch: Sequence[tuple[str, str, str, str]],
        turn: int | None,
        expected: int | None,
    ) -> list[Any]:
        """Append messages (key, role, content, state); return for each whether it is new, and whether it is visible."""
        first: dict[str, tuple[str, str]] = {}
        for key, role, content, _ in batch:
            if first.setdefault(key, (role, content)) != (role, content):
                raise IdempotencyConflictError("")
        _check_exists(conversation)
        is_behind = expected not in (None, conversation.last_seq) and not all(self.message(key) for key, *_ in batch)
        if is_behind or turn not in (None, conversation.token):
            raise StaleDataError("")
        for key, role, content, _ in batch:
            known = self.message(key)
            if known and (known.role, known.first_content) != (role, content):
                raise IdempotencyConflictError("")
        for key, *_ in batch:
            known = self.message(key)
            if known and not self.is_earlier(known.conversation, conversation):
                raise IdempotencyConflictError("")
        new, at = [], next(_CLOCK)
        for key, role, content, state in batch:
            known = self.message(key)
            new.append((known is None, known is None or not (known.deleted or known.conversation.deleted)))
            if known is None:
                conversation.last_seq += 1
                conversation.last_active = at
                self.messages.append(
                    MessageRow(conversation, conversation.last_seq, key, role, content, state, content, at)
                )
        return new

    def is_earlier(self, other: ConversationRow, conversation: ConversationRow) -> bool:
        """Return True if both are in one chat. An unnamed chat belongs to its user."""
        of = {one.id: one for one in self.users}
        left = of[other.user].deleted and (
            conversation.chat is not None or of[other.user].telegram_id == of[conversation.user].telegram_id is not None
        )
        return other.chat == conversation.chat and (other.user == conversation.user or left)

    def message(self, key: str) -> MessageRow | None:
        return next((one for one in self.messages if one.key == key), None)

    def existing(self, key: str) -> MessageRow:
        message = self.message(key)
        if message is None or message.deleted or message.conversation.deleted:
            raise NotFoundError("")
        return message

    def delete(self, message: MessageRow) -> None:
        self.existing(message.key).deleted = True

    def restore(self, message: MessageRow) -> None:
        _check_exists(message.conversation)
        if message.deleted and message.state == "incomplete":
            message.state = "interrupted"
        message.deleted = False

    def visible(self) -> list[MessageRow]:
        return [one for one in self.messages if not one.deleted and not one.conversation.deleted]

    def messages_of(self, conversation: ConversationRow) -> list[MessageRow]:
        return sorted((one for one in self.visible() if one.conversation is conversation), key=lambda one: one.seq)

    def messages_of_user(self, user: UserRow) -> list[MessageRow]:
        own = [one for one in self.visible() if one.conversation.user == user.id]
        return sorted(own, key=lambda one: (one.at, one.made))

    def tail(self, conversation: ConversationRow, after: int, limit: int) -> list[int]:
        seqs = []
        for message in [one for one in self.messages_of(conversation) if one.seq > after][:limit]:
            if message.state == "incomplete":
                break
            seqs.append(message.seq)
        return seqs

    def edit(self, key: str, content: str) -> None:
        self.existing(key).content = content

    def extend(self, key: str, piece: str, offset: int) -> None:
        message = self.existing(key)
        stored = message.content
        if stored[offset:].startswith(piece) and len(stored) >= offset + len(piece):
            return
        fits = len(stored) >= offset and piece.startswith(stored[offset:])
        if message.state != "incomplete" or not fits:
            raise StaleDataError("")
        message.content = stored[:offset] + piece

    def end(self, key: str, state: str) -> None:
        message = self.existing(key)
        if message.state not in {"incomplete", state}:
            raise StaleDataError("")
        message.state = state

    def pop(self, conversation: ConversationRow, limit: int) -> list[int]:
        _check_exists(conversation)
        last = self.messages_of(conversation)[-limit:]
        for message in last:
            message.deleted = True
        return [message.seq for message in last]

    def tags(self, user: UUID) -> dict[str, int]:
        counts: dict[str, int] = {}
        for note in self.notes:
            if note.user == user and not note.deleted and not note.archived:
                for tag in note.tags:
                    counts[tag] = counts.get(tag, 0) + 1
        return counts

    def pending(self) -> list[EventRow]:
        """Return the due reminders of existing users, the longest due first."""
        existing = {user.id for user in self.users if not user.deleted}
        pending = [one for one in self.events if one.is_due and not one.sent and one.status == "scheduled"]
        return sorted((one for one in pending if one.user in existing), key=lambda one: (one.start, one.id))

    def claimable(self) -> list[EventRow]:
        return [one for one in self.pending() if one.token is None and one.attempts < MOST_ATTEMPTS]

    def release_reminder(self, one: EventRow, token: UUID, *, sent: bool) -> None:
        if one.token != token:
            raise StaleDataError("")
        one.token, one.sent = None, sent

    def rows(self) -> dict[str, list[Any]]:
        """Return the rows of all tables, in order."""
        return {
            "users": sorted((one.id, one.telegram_id, one.name, one.preferences, one.deleted) for one in self.users),
            "user_identities": sorted((owner.id, subject) for subject, owner in self.identities.items()),
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
                for one in self.conversations
            ),
            "message_history": sorted(
                (one.conversation.id, one.seq, one.key, one.role, one.content, one.state, one.deleted)
                for one in self.messages
            ),
            "events": sorted(
                (one.id, one.user, one.start, one.status, one.token, one.attempts, one.sent) for one in self.events
            ),
            "state_entries": sorted((owner, key, *entry) for (owner, key), entry in self.entries.items()),
            "notes": sorted(
                (one.id, one.user, one.content, one.tags, one.pinned, one.archived, one.deleted) for one in self.notes
            ),
        }


def _check_exists(row: ConversationRow | UserRow) -> None:
    if row.deleted:
        raise NotFoundError("")
