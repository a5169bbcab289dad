"""Append messages through a session, and return them as its entities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from src.database.models import Conversation, MessageHistory
from src.database.repositories.message_rows import MessageRows
from src.database.statements.in_session import InSession, entities, refresh
from src.database.statements.messages import Outcome, append_messages, check_batch, first_of_each_key, pack, whole
from src.database.statements.new_message import NewMessage
from src.database.statements.turn_leases import check_token

__all__ = ["Appended", "MessageAppending"]


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
        check_token(turn)
        first = first_of_each_key(messages)
        if not first:
            return []
        rows = pack(list(first.values()))
        outcomes = await append_messages(InSession(self.session), conversation_id, rows, turn=turn)
        last = next(iter(outcomes.values()))
        changed = {"last_seq": last.last_seq, "last_message_at": last.last_message_at, "updated_at": last.updated_at}
        if any(one.is_inserted for one in outcomes.values()):
            refresh(self.session, Conversation, conversation_id, **changed)
        stored = await self._stored(rows, outcomes)
        results = []
        for message in messages:
            outcome = outcomes[message.message_id]
            results.append(Appended(stored[message.message_id], inserted=outcome.is_inserted, is_there=outcome.is_live))
            outcomes[message.message_id] = outcome._replace(outcome="duplicate")  # a second one of the same call
        return results

    async def _stored(self, rows: Sequence[Any], outcomes: dict[str, Outcome]) -> dict[str, MessageHistory]:
        """Return the entities by key: of what was inserted, from what was sent; of duplicates, as they are stored."""
        inserted = []
        for row in rows:
            values = whole(row)
            outcome = outcomes[values["message_id"]]
            if outcome.is_inserted:
                places = ("conversation_id", "user_id", "seq", "updated_at")
                inserted.append(
                    values
                    | {name: getattr(outcome, name) for name in places}
                    | {"tenant_id": self.session.tenant_id, "deleted_at": None}
                )
        made = entities(self.session, MessageHistory, inserted, refresh=True)
        known = [key for key, outcome in outcomes.items() if not outcome.is_inserted]
        if known:
            made += await self._fetch(
                self._select(MessageHistory.message_id.in_(known), include_deleted=True), refresh=True
            )
        return {one.message_id: one for one in made}
