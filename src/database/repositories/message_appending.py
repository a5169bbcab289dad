"""Messages are appended: once each, without gaps, in the order in which they are committed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from operator import itemgetter
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from src.database.base import utc_now, uuid7
from src.database.errors import IdempotencyConflictError, NotFoundError
from src.database.models import Conversation, MessageHistory, User
from src.database.repositories.message_rows import MessageRows
from src.database.repositories.new_message import NewMessage
from src.database.repositories.turns import check_is_last, check_token, is_there, statement_time

__all__ = ["KEY", "Appended", "MessageAppending", "check_batch", "first_of_each_key"]

MAX_BATCH: Final = 1000

KEY: Final = "uq_message_history_tenant_id_message_id"
_COPIED: Final = tuple(field.name for field in fields(NewMessage) if field.name != "created_at")


@dataclass(frozen=True, slots=True)
class Appended:
    """The message as it is stored, and whether this call stored it: False is a duplicate, and no error.

    `is_there` is False for a duplicate that nobody reads any more: the message is deleted, or its conversation.
    """

    message: MessageHistory
    inserted: bool
    is_there: bool = True


class MessageAppending(MessageRows):
    """How messages come in."""

    async def append(self, conversation_id: UUID, message: NewMessage, *, turn: int | None = None) -> Appended:
        """Append a message to a conversation; as `append_many` does with one."""
        return (await self.append_many(conversation_id, [message], turn=turn))[0]

    async def append_many(
        self, conversation_id: UUID, messages: Sequence[NewMessage], *, turn: int | None = None
    ) -> list[Appended]:
        """Append messages in this order, each one once, however often and from wherever it is sent.

        The conversation's row is locked until the transaction ends: `seq` has no gap, and whoever follows it skips
        nothing. A closed conversation takes messages too: one may have been on its way. Append to several
        conversations in one transaction in the order of their ids, or two callers can wait for each other.

        Args:
            conversation_id: Which conversation.
            messages: At most 1000.
            turn: The token of the turn that the caller holds, if it holds one: who has lost it appends nothing.

        Returns:
            For each message, in the same order, the stored one and whether it is new. A message that an earlier
            conversation of the same chat has (one that was closed or deleted meanwhile, or whose user was) is a
            duplicate, and comes back from where it is. So is a message that was deleted: it holds its key. What is
            deleted so is not answered again; `is_there` says it.

        Raises:
            IdempotencyConflictError: A key is taken by a message with other content, or by another chat's.
            NotFoundError: This tenant has no such conversation.
            StaleDataError: Another worker has claimed the turn since.
            ValueError: There are more than 1000, or `turn` is no token but the turn itself.
        """
        check_batch(messages)
        first = first_of_each_key(messages)
        conversation = await self._lock(conversation_id, turn)
        while True:
            stored = await self._stored(first)
            gone = await self._check_stored(conversation, messages, stored)
            missing = [message for key, message in first.items() if key not in stored]
            inserted = await self._insert(conversation, missing)
            if len(inserted) == len(missing):
                break
            # Another conversation took a key meanwhile. What was inserted has wrong numbers: take it back.
            await self._take_back(inserted)
        await self._advance(conversation, inserted)
        new = {row.message_id: row for row in inserted}
        results = []
        for message in messages:
            row = new.pop(message.message_id, None)  # a second one of the same batch is a duplicate
            if row is not None:
                stored[message.message_id] = row
            known = stored[message.message_id]
            is_there = known.deleted_at is None and known.conversation_id not in gone
            results.append(Appended(message=known, inserted=row is not None, is_there=is_there))
        return results

    async def _lock(self, conversation_id: UUID, turn: int | None) -> Conversation:
        """Lock the conversation's row in a statement of its own: the next one then sees what its last holder wrote."""
        check_token(turn)
        conversation: Conversation | None = await self.session.scalar(
            select(Conversation)
            .where(*is_there(self.session, conversation_id))
            .with_for_update()
            .execution_options(populate_existing=True)
        )
        if conversation is None:
            raise NotFoundError(f"this tenant has no Conversation with id {conversation_id}")
        check_is_last(turn, conversation.turn_token)
        return conversation

    async def _stored(self, keys: Collection[str]) -> dict[str, MessageHistory]:
        """Find what is stored under these keys; a deleted message still holds its own."""
        statement = self._select(MessageHistory.message_id.in_(list(keys)), include_deleted=True)
        rows = await self.session.scalars(statement.execution_options(populate_existing=True))
        return {row.message_id: row for row in rows}

    async def _insert(self, conversation: Conversation, messages: Sequence[NewMessage]) -> list[MessageHistory]:
        """Insert with the numbers that follow; the rows whose key somebody else holds do not come back."""
        if not messages:
            return []
        now = utc_now()
        rows: list[dict[str, Any]] = [
            {name: getattr(message, name) for name in _COPIED}
            | {
                "tenant_id": self.session.tenant_id,
                "id": uuid7(),
                "conversation_id": conversation.id,
                "user_id": conversation.user_id,
                "seq": seq,
                "fingerprint": message.fingerprint(),
                "created_at": message.created_at or now,
            }
            for seq, message in enumerate(messages, start=conversation.last_seq + 1)
        ]
        statement = (
            insert(MessageHistory)
            # Not by `now()`, when the transaction began: an answer just begun would look stale to `interrupt_stale`.
            .values(updated_at=statement_time())
            .on_conflict_do_nothing(index_elements=[MessageHistory.tenant_id, MessageHistory.message_id])
            .returning(MessageHistory)
        )
        # By key, so that two batches that share keys wait for each other in one direction only.
        return list(await self.session.scalars(statement, sorted(rows, key=itemgetter("message_id"))))

    async def _take_back(self, rows: Sequence[MessageHistory]) -> None:
        for row in rows:
            self.session.expunge(row)
        await self.session.execute(
            delete(MessageHistory).where(
                MessageHistory.tenant_id == self.session.tenant_id,
                MessageHistory.id.in_([row.id for row in rows]),
            ),
            execution_options={"synchronize_session": False},
        )

    async def _advance(self, conversation: Conversation, rows: Sequence[MessageHistory]) -> None:
        if not rows:
            return
        last_said = max(row.created_at for row in rows)
        await self.session.execute(
            update(Conversation)
            .where(Conversation.tenant_id == self.session.tenant_id, Conversation.id == conversation.id)
            .values(
                last_seq=Conversation.last_seq + len(rows),
                last_message_at=func.greatest(Conversation.last_message_at, last_said),
            )
            .returning(Conversation)
            .execution_options(populate_existing=True, synchronize_session=False)
        )

    async def _check_stored(
        self, conversation: Conversation, messages: Sequence[NewMessage], stored: Mapping[str, MessageHistory]
    ) -> set[UUID]:
        """Refuse keys that other messages have, before anything is inserted; return what conversations are deleted."""
        elsewhere: set[UUID] = set()
        for message in messages:
            if (row := stored.get(message.message_id)) is None:
                continue
            _refuse_another(message, row, row.fingerprint)
            if row.conversation_id != conversation.id:
                elsewhere.add(row.conversation_id)
        earlier = await self._earlier(conversation, elsewhere) if elsewhere else {}
        if len(earlier) < len(elsewhere):
            raise IdempotencyConflictError(
                "a message_id is taken by a message of another chat",
                constraint=KEY,
                hint="the key names its chat: <channel>:<account>:<chat>:<id>",
            )
        return {one for one, deleted_at in earlier.items() if deleted_at is not None}

    async def _earlier(self, conversation: Conversation, others: set[UUID]) -> dict[UUID, datetime | None]:
        """Tell which of these are conversations of the same chat, and when they were deleted.

        A user who was deleted and came back is another row. An unnamed chat is a person's own, so there that row must
        have the same Telegram id.
        """
        tenant_id, chat = self.session.tenant_id, conversation.external_chat_id
        left: list[ColumnElement[bool]] = [User.deleted_at.is_not(None)]
        if chat is None:
            own_id = select(User.telegram_id).where(User.tenant_id == tenant_id, User.id == conversation.user_id)
            left.append(User.telegram_id == own_id.scalar_subquery())
        rows = await self.session.execute(
            select(Conversation.id, Conversation.deleted_at)
            .join(User, (User.tenant_id == Conversation.tenant_id) & (User.id == Conversation.user_id))
            .where(
                Conversation.tenant_id == tenant_id,
                User.tenant_id == tenant_id,
                Conversation.id.in_(others),
                Conversation.channel == conversation.channel,
                Conversation.external_chat_id.is_not_distinct_from(chat),
                or_(Conversation.user_id == conversation.user_id, and_(*left)),
            )
        )
        return {row.id: row.deleted_at for row in rows}


def check_batch(messages: Sequence[NewMessage]) -> None:
    """Refuse more messages than one call can bring.

    Raises:
        ValueError: There are more than 1000.
    """
    if len(messages) > MAX_BATCH:
        raise ValueError(f"messages must be at most {MAX_BATCH} a call, got {len(messages)}")


def first_of_each_key(messages: Sequence[NewMessage]) -> dict[str, NewMessage]:
    """Return the messages by their keys; a second one of a key has to be the same."""
    first: dict[str, NewMessage] = {}
    for message in messages:
        before = first.setdefault(message.message_id, message)
        if before is not message:
            _refuse_another(message, before, before.fingerprint())
    return first


def _refuse_another(message: NewMessage, known: NewMessage | MessageHistory, fingerprint: bytes | None) -> None:
    """Refuse a message whose key another one has; of a later version only who speaks can be compared."""
    said = message.fingerprint()
    differs = said is not None and fingerprint is not None and said != fingerprint
    speaker, other = ((one.role, one.tool_call_id, one.tool_name) for one in (message, known))
    if differs or speaker != other:
        raise IdempotencyConflictError(
            f"message_id {message.message_id!r} is taken by a message with other content",
            constraint=KEY,
            hint="a changed message keeps its key: `edit` it; another message needs a key of its own",
        )
