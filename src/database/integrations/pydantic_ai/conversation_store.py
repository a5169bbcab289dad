"""A ConversationStore of pydantic-ai: a conversation of the SDK is a conversation here, and its log is the messages.

The messages of all branches have consecutive numbers (`seq`). `extra` of the conversation has the SDK's record and, for
each message that does not follow the message before it, the `seq` of the message that it follows. So the history up to
a message is a few ranges of `seq`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Self
from uuid import UUID

from pydantic import ConfigDict, TypeAdapter
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationEntry,
    ConversationRecord,
    ConversationStore,
)

from src.database.base import check_id
from src.database.errors import DuplicateKeyError, NotFoundError
from src.database.integrations.pydantic_ai.messages import FORMAT, dump, load, new_message
from src.database.models import Conversation, MessageHistory
from src.database.repositories import ConversationRepository, MessageHistoryRepository
from src.database.session import AsyncSession, get_db, given_tenant
from src.database.statements import MAX_BATCH, MAX_LIMIT, conversation_changes, lock_one

RECORD: Final = FORMAT
"""The key in a conversation's `extra` of the record."""
ENTRY: Final = "entry"
"""The key in a message's `extra` of the id of its entry. A copy of the message has another key, and the same entry."""
_RECORDS: Final = TypeAdapter(
    list[ConversationRecord], config=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
)

Ranges = tuple[tuple[int, int], ...]
"""Ranges of `seq`, both ends included, the last one first."""


class _EntryId(str):
    """The id of an entry, with the place of the entry. The SDK passes ids on as they are.

    Args:
        entry_id: The id.
        conversation_id: The conversation of the message.
        history: The history that ends with the message.
    """

    __slots__ = ("conversation_id", "history")

    conversation_id: UUID
    history: Ranges

    def __new__(cls, entry_id: str, conversation_id: UUID, history: Ranges) -> Self:
        """Return the id with its place."""
        one = super().__new__(cls, entry_id)
        one.conversation_id, one.history = conversation_id, history
        return one

    def __getnewargs__(self) -> tuple[str, UUID, Ranges]:  # type: ignore[override] # that of str has one element
        """Return the arguments for a copy."""
        return str(self), self.conversation_id, self.history

    @property
    def seq(self) -> int:
        """The `seq` of the message."""
        return self.history[0][1]


@dataclass
class _Log:
    """A conversation with its record.

    Args:
        conversation: The row.
        record: The record; its ids have their places.
        follows: For each message that does not follow the message before it: the `seq` of the message that it follows,
            or 0.
        origin_id: The conversation that this one has just been copied from.
    """

    conversation: Conversation
    record: ConversationRecord
    follows: dict[int, int]
    origin_id: UUID | None = None


class StoredConversations(ConversationStore):
    """A ConversationStore of pydantic-ai for the conversations of one user.

    The conversation's id is the `session_id` of a conversation, unique within the tenant. A conversation that another
    user has is read as one that does not exist, and saving under its id is a conflict. A save is one transaction: a
    conflict leaves nothing behind.

    Conversations that other SDKs or the service itself have written can be continued: each stored message is an entry.
    Appended and deleted messages change the revision, so that a stale writer gets `ConversationConflict`.

    A fork copies the history, so that it is independent of its origin. `delete` deletes a conversation with all its
    entries, softly; retention removes them permanently. Branches that a conversation has left stay among its messages,
    and other readers of the conversation see them.

    Args:
        user_id: The user, to whom new conversations belong.
        tenant_id: The tenant; by default that of the context.
    """

    def __init__(self, user_id: UUID, *, tenant_id: UUID | None = None) -> None:
        check_id("user_id", user_id)
        self._user_id = user_id
        self._tenant_id = tenant_id

    async def read_record(self, conversation_id: str) -> ConversationRecord | None:
        """Return the record of a conversation, or None."""
        async with self._session() as session:
            conversation = await ConversationRepository(session).get_by_session_id(conversation_id)
            if conversation is None or conversation.user_id != self._user_id:
                return None
            return (await _read(session, conversation)).record

    async def read_records(self, *, scope: str | None = None, limit: int | None = None) -> Sequence[ConversationRecord]:
        """Return the records of the user's conversations that were saved by this class, the last saved first.

        The records are as they were saved: they do not show what other writers have appended or deleted since.
        """
        where = (Conversation.user_id == self._user_id, Conversation.extra[RECORD].is_not(None))
        async with self._session() as session:
            records = [_record(row) async for row in ConversationRepository(session).stream(*where)]
        records = [record for record in records if scope is None or record.scope == scope]
        return sorted(records, key=lambda record: record.updated_at, reverse=True)[:limit]

    async def write_record(
        self,
        record: ConversationRecord,
        *,
        new_entries: Sequence[ConversationEntry] = (),
        expected_revision: str | None,
    ) -> None:
        """Store a record and its new entries in one transaction.

        Raises:
            CommitOutcomeUnknown: The connection was lost before the server answered: load the conversation again.
            ConversationConflict: The stored revision is another one, or an entry that the record names is deleted.
            ForeignKeyError: The tenant has no such user, or the user is deleted.
        """
        async with self._session() as session:
            if expected_revision is None:
                log = await self._create(session, record, new_entries)
            else:
                log = await self._lock(session, record.conversation_id, expected_revision)
            await self._write(session, log, record, new_entries)

    async def delete_record(self, conversation_id: str, *, expected_revision: str) -> None:
        """Delete a conversation with all its entries, softly.

        Raises:
            ConversationConflict: The stored revision is another one.
        """
        async with self._session() as session:
            log = await self._lock(session, conversation_id, expected_revision)
            await ConversationRepository(session).delete(log.conversation.id)

    async def read_entry(self, entry_id: str) -> ConversationEntry:
        """Return the entry with this id.

        Raises:
            LookupError: There is no such entry.
        """
        [entry] = await self.read_history(entry_id, limit=1)
        return entry

    async def read_history(self, head_id: str | None, *, limit: int | None = None) -> list[ConversationEntry]:
        """Return the entries up to `head_id`, in their order, or only the last `limit` of them.

        Raises:
            LookupError: There is no such entry.
        """
        if head_id is None or limit == 0:
            return []
        async with self._session() as session:
            head = await self._find(session, head_id)
            # One more: the first entry names the entry before it.
            rows = await _rows(session, head.conversation_id, head.history, limit and limit + 1)
        if not rows or rows[0].seq != head.seq or rows[0].user_id != self._user_id:
            raise LookupError(f"the entry {head_id!r} is deleted")
        return _entries(rows[::-1], head)[-limit if limit else None :]

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[AsyncSession]:
        with given_tenant(self._tenant_id):
            async with get_db() as session:
                yield session

    async def _lock(self, session: AsyncSession, conversation_id: str, expected_revision: str) -> _Log:
        """Lock a conversation, and return it if it has this revision."""
        key, _ = conversation_changes.stored_session_id(conversation_id)
        conversation = await lock_one(
            session, Conversation, Conversation.session_id == key, Conversation.deleted_at.is_(None)
        )
        if conversation is None or conversation.user_id != self._user_id:
            raise ConversationConflict(conversation_id)
        log = await _read(session, conversation)
        if log.record.revision != expected_revision:
            raise ConversationConflict(conversation_id)
        return log

    async def _create(
        self, session: AsyncSession, record: ConversationRecord, new_entries: Sequence[ConversationEntry]
    ) -> _Log:
        """Open a conversation; for a record that points at an entry of another one, copy the history up to there."""
        origin = new_entries[0].parent_id if new_entries else record.head_id
        conversations = ConversationRepository(session)
        try:
            if origin is None:
                conversation, is_new = await conversations.open(record.conversation_id, self._user_id)
                if not is_new:
                    raise ConversationConflict(record.conversation_id)
                return await _read(session, conversation)
            head = await self._find(session, origin)
            conversation = await conversations.fork(
                head.conversation_id, upto_seq=head.seq, session_id=record.conversation_id
            )
        except (DuplicateKeyError, LookupError, NotFoundError) as error:
            raise ConversationConflict(record.conversation_id) from error
        log = await _read(session, conversation)
        if conversation.user_id != self._user_id or _seq(log.record.head_id) != head.seq:
            raise ConversationConflict(record.conversation_id)  # the entry has been deleted
        return replace(log, origin_id=head.conversation_id)

    async def _find(self, session: AsyncSession, entry_id: str) -> _EntryId:
        """Return the id of an entry with its place.

        Raises:
            LookupError: There is no such entry.
        """
        if isinstance(entry_id, _EntryId):
            return entry_id
        messages = MessageHistoryRepository(session)
        row = await messages.get_by_message_id(_key(entry_id)) or await messages.get_by_message_id(entry_id)
        if row is None or row.user_id != self._user_id:
            raise LookupError(f"there is no entry {entry_id!r}")
        conversation = await ConversationRepository(session).get_or_none(row.conversation_id)
        if conversation is None:
            raise LookupError(f"the conversation of the entry {entry_id!r} is deleted")
        log = await _read(session, conversation)
        return _EntryId(entry_id, conversation.id, _history(row.seq, log.follows))

    async def _write(
        self, session: AsyncSession, log: _Log, record: ConversationRecord, new_entries: Sequence[ConversationEntry]
    ) -> None:
        """Append the entries, and save the record."""
        conversation = log.conversation
        known = {entry.id: seq for seq, entry in enumerate(new_entries, start=conversation.last_seq + 1)}

        async def seq_of(entry_id: str | None) -> int:
            if entry_id is None or entry_id in known:
                return known.get(entry_id or "", 0)
            place = await self._find(session, entry_id)
            if place.conversation_id not in (conversation.id, log.origin_id):
                raise LookupError(f"the entry {entry_id!r} is in another conversation")
            return place.seq

        try:
            follows = log.follows | {known[entry.id]: await seq_of(entry.parent_id) for entry in new_entries}
            named = {one: await seq_of(one) for one in (record.head_id, *record.branches) if one is not None}
        except LookupError as error:
            raise ConversationConflict(record.conversation_id) from error
        saved = {
            "record": _RECORDS.dump_python([record], mode="json")[0],
            "seqs": named,
            "last_seq": conversation.last_seq + len(new_entries),
            "follows": {str(seq): parent for seq, parent in follows.items() if parent != seq - 1},
        }
        await _append(session, conversation, new_entries)
        await ConversationRepository(session).change_json(conversation.id, "extra", values={RECORD: saved})


async def _append(session: AsyncSession, conversation: Conversation, entries: Sequence[ConversationEntry]) -> None:
    messages = MessageHistoryRepository(session)
    dumped = dump([entry.message for entry in entries])
    new = [
        new_message(entry.message, value, message_id=_key(entry.id), **{ENTRY: entry.id})
        for entry, value in zip(entries, dumped, strict=True)
    ]
    last_seq = conversation.last_seq
    for start in range(0, len(new), MAX_BATCH):
        batch = new[start : start + MAX_BATCH]
        await messages.append_many(conversation.id, batch, expected_last_seq=last_seq + start)


async def _read(session: AsyncSession, conversation: Conversation) -> _Log:
    """Return a conversation with its record, brought up to date with what other writers have done."""
    saved = conversation.extra.get(RECORD) or {"last_seq": 0, "seqs": {}, "follows": {}}
    record = _record(conversation)
    seqs, last_seq, follows = saved["seqs"], saved["last_seq"], {int(seq): on for seq, on in saved["follows"].items()}
    head_seq = end = seqs.get(record.head_id, 0)
    if conversation.last_seq > last_seq:
        follows |= {} if end == last_seq else {last_seq + 1: end}
        end = conversation.last_seq
    rows = await _rows(session, conversation.id, _history(min(end, conversation.last_seq), follows), 1)
    newest_seq = rows[0].seq if rows else 0
    if (conversation.last_seq, newest_seq) != (last_seq, head_seq):
        record.revision = f"{record.revision}/{conversation.last_seq}/{newest_seq}"
        record.updated_at = conversation.updated_at
    if newest_seq != head_seq:
        record.head_id = _entry_id(rows[0]) if rows else None
        record.deferred_tool_requests = None  # as `branch` does: they are those of another message
    seqs = {**seqs, record.head_id: newest_seq}
    located = partial(_EntryId, conversation_id=conversation.id)
    record.head_id = record.head_id and located(record.head_id, history=_history(newest_seq, follows))
    record.branches = [located(one, history=_history(seqs[one], follows)) for one in record.branches]
    return _Log(conversation, record, follows)


def _record(conversation: Conversation) -> ConversationRecord:
    """Return the record of a conversation as it was saved; a new one if another writer has opened the conversation."""
    conversation_id = conversation_changes.given_session_id(conversation)
    if (saved := conversation.extra.get(RECORD)) is None:
        return ConversationRecord(conversation_id=conversation_id, head_id=None, revision=str(conversation.id))
    [record] = _RECORDS.validate_python([saved["record"]])
    return replace(record, conversation_id=conversation_id)


async def _rows(
    session: AsyncSession, conversation_id: UUID, history: Ranges, limit: int | None
) -> list[MessageHistory]:
    """Return the last messages of a history, the newest first."""
    messages = MessageHistoryRepository(session)
    rows: list[MessageHistory] = []
    for low, end in history:
        high = end
        while high >= low and (limit is None or len(rows) < limit):
            size = MAX_LIMIT if limit is None else min(MAX_LIMIT, limit - len(rows))
            batch = await messages.before(conversation_id, high + 1, limit=size)
            rows.extend(row for row in reversed(batch) if row.seq >= low)
            high = batch[0].seq - 1 if len(batch) == size else 0
    return rows


def _entries(rows: Sequence[MessageHistory], head: _EntryId) -> list[ConversationEntry]:
    """Return the entries of consecutive messages, the last of which is the head."""
    entries: list[ConversationEntry] = []
    parent_id: str | None = None
    for row, message in zip(rows, load(rows), strict=True):
        name = str(head) if row.seq == head.seq else _entry_id(row)
        entry_id = _EntryId(name, head.conversation_id, _until(head.history, row.seq))
        entries.append(ConversationEntry(id=entry_id, parent_id=parent_id, message=message))
        parent_id = entry_id
    return entries


def _history(seq: int, follows: Mapping[int, int]) -> Ranges:
    """Return the history that ends with a message."""
    ranges: list[tuple[int, int]] = []
    for low in sorted(follows, reverse=True):
        if low <= seq:
            ranges.append((low, seq))
            seq = follows[low]
    return (*ranges, (1, seq)) if seq else tuple(ranges)


def _until(history: Ranges, seq: int) -> Ranges:
    """Return the part of a history that ends with one of its messages."""
    return tuple((low, min(high, seq)) for low, high in history if low <= seq)


def _seq(entry_id: str | None) -> int:
    return entry_id.seq if isinstance(entry_id, _EntryId) else 0


def _entry_id(row: MessageHistory) -> str:
    entry_id: str = row.extra.get(ENTRY, row.message_id)
    return entry_id


def _key(entry_id: str) -> str:
    """Return the idempotency key of an entry's message."""
    return f"{FORMAT}:{entry_id}"
