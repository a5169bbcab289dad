"""Messages: appended, read in windows, changed as little as can be, and gone in the end."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NoReturn
from uuid import UUID

from src.database.models import MessageHistory
from src.database.repositories.message_appending import Appended, MessageAppending
from src.database.repositories.message_streaming import MessageStreaming
from src.database.repositories.message_usage import MessageUsage
from src.database.repositories.message_windows import MessageWindows
from src.database.statements import message_changes
from src.database.statements.new_message import VERSIONS, NewMessage, check_extra
from src.database.statements.split_characters import SPLIT

__all__ = ["Appended", "MessageHistoryRepository", "NewMessage"]

_FIXED: Final[Mapping[str, str]] = dict.fromkeys(
    ("conversation_id", "user_id", "seq", "message_id", "fingerprint"), "it never changes"
) | {
    "state": "use `mark_complete` or `mark_interrupted`",
    "content": "use `edit`, which keeps what was there before",
    "edited_at": "use `edit`",
}


class MessageHistoryRepository(MessageAppending, MessageWindows, MessageStreaming, MessageUsage):
    """The messages of the acting tenant."""

    async def get_by_message_id(self, message_id: str) -> MessageHistory | None:
        """Return the message with this idempotency key, or None."""
        found: MessageHistory | None = await self.session.scalar(self._select(MessageHistory.message_id == message_id))
        return found

    async def edit(self, message_id: str, content: str | None, *, edited_at: datetime) -> bool:
        """Bring a message up to a later version; what was there before is kept in `extra["versions"]`, oldest first.

        Its `token_count` is forgotten with the content that it counted.

        Returns:
            Whether it changed: an edit that came late or twice does nothing. Of two with one time, the later call wins.

        Raises:
            NotFoundError: This tenant has no such message.
            ValueError: `edited_at` is naive.
        """
        return await message_changes.edit(self.session, message_id, content, edited_at=edited_at)

    async def pop_last(
        self, conversation_id: UUID, *, seq: int | None = None, turn: int | None = None
    ) -> MessageHistory | None:
        """Soft-delete the last message of a conversation, as one does to have it said anew.

        Its `seq` and its key stay its own: append what replaces it under another key, `restore` it to undo this.

        Args:
            conversation_id: Which conversation.
            seq: Only if this is the last one's number: a second call, or a retry, then takes no other.
            turn: As in `append_many`.

        Returns:
            What was deleted, or None where there is nothing, or something else.

        Raises:
            NotFoundError: This tenant has no such conversation.
            StaleDataError: Another worker has claimed the turn since.
        """
        return await message_changes.pop_last(self.session, conversation_id, seq=seq, turn=turn)

    async def purge(
        self,
        before: datetime,
        *,
        user_id: UUID | None = None,
        only_deleted: bool = False,
        limit: int = 1000,
        dry_run: bool = False,
    ) -> int:
        """Erase the oldest messages that were said before an instant, soft-deleted ones too: one batch.

        Commit, and call again until it returns 0; it goes on where it was, after a crash too. Notes and answers that
        refer to what is erased stay, without the reference. A `seq` is not given again. A key is free again: what
        is delivered once more after that is appended as new. What another transaction holds is passed over.

        Args:
            before: Exclusive.
            user_id: Only this user's.
            only_deleted: Only what was soft-deleted before that instant, whenever it was said.
            limit: The batch's size, 1 to 1000.
            dry_run: Erase nothing, and count all that the calls would erase, in all batches.

        Returns:
            How many were erased, or would be.

        Raises:
            ValueError: `before` is naive, or the limit is not from 1 to 1000.
        """
        return await message_changes.purge(
            self.session, before, user_id=user_id, only_deleted=only_deleted, limit=limit, dry_run=dry_run
        )

    async def update(self, row_id: UUID, /, **values: Any) -> MessageHistory:
        """Change attributes of a message, as `Repository.update` does; the versions in `extra` stay.

        Raises:
            NotFoundError: This tenant has none.
            ValueError: An attribute is unknown, never changes, or has a method of its own.
        """
        if "extra" not in values:
            return await super().update(row_id, **values)
        self._check_attributes(values)
        check_extra(values["extra"])
        row = await self.get(row_id)
        kept = {name: row.extra[name] for name in (VERSIONS, SPLIT) if name in row.extra}
        for name, value in (values | {"extra": values["extra"] | kept}).items():
            setattr(row, name, value)
        await self.session.flush()
        return row

    async def restore(self, row_id: UUID) -> MessageHistory:
        """Bring a deleted message back; one that was not deleted stays as it is.

        What was incomplete is interrupted: its writer was told that it is gone, and those who follow the conversation
        may have passed it.

        Raises:
            NotFoundError: This tenant has none, or its conversation is deleted; `restore` that first.
        """
        return await super().restore(row_id)

    async def add_many(self, rows: Sequence[MessageHistory]) -> NoReturn:
        """Refuse: a message is numbered under its conversation's lock.

        Raises:
            ValueError: Always; `append` it.
        """
        _refuse_to_bypass("add")

    async def upsert(self, values: Mapping[str, Any], *, key: Collection[str]) -> NoReturn:
        """Refuse, as `add_many` does.

        Raises:
            ValueError: Always; `append` a message, `edit` one that is there.
        """
        _refuse_to_bypass("upsert")

    def _check_attributes(self, values: Mapping[str, Any]) -> None:
        super()._check_attributes(values)
        for name in values:
            if name in _FIXED:
                raise ValueError(f"MessageHistory.{name} cannot be set: {_FIXED[name]}")


def _refuse_to_bypass(method: str) -> NoReturn:
    raise ValueError(f"messages cannot be written by `{method}`, which numbers nothing; use `append` or `append_many`")
