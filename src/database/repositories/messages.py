"""Messages: append, windows to read, streamed answers, edits, usage, and permanent removal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NoReturn, Unpack
from uuid import UUID

from sqlalchemy import Select, case, select
from sqlalchemy.orm import aliased

from src.database.base import check_id
from src.database.models import MessageHistory
from src.database.repositories.base import Condition, Repository
from src.database.statements import (
    NewMessage,
    Page,
    Unanswered,
    Usage,
    UsageBy,
    answers,
    append_in_session,
    check_extra,
    check_limit,
    history,
    message_changes,
    sum_usage,
    whole_pairs,
    windows,
)

if TYPE_CHECKING:
    from src.database.models import attributes


@dataclass(frozen=True, slots=True)
class Appended:
    """The stored message. `inserted` is False for a duplicate, which is not an error.

    `is_there` is False for a duplicate that is not readable any more: the message or its conversation is deleted.
    """

    message: MessageHistory
    inserted: bool
    is_there: bool = True


class MessageHistoryRepository(Repository[MessageHistory]):
    """The messages of the current tenant. Deleted messages, and messages of deleted conversations, count as missing.

    A window is a list in the order of `seq`, the oldest first. A `seq` as an argument is a position: no message needs
    to have it, and a window far back costs the same as a recent one. Windows overwrite the attributes of messages that
    the session has already.

    A message that is appended with `state="incomplete"` can be extended until it is complete or interrupted; both are
    final. `extend`, `mark_complete` and `mark_interrupted` take the token of a turn. With a token, the call locks the
    conversation's row until the transaction ends, as an append does: the call fails if another claim was committed
    before, and a later claim waits.
    """

    model = MessageHistory
    read_only = dict.fromkeys(
        ("conversation_id", "user_id", "seq", "message_id", "fingerprint"), "it never changes"
    ) | {
        "state": "use `mark_complete` or `mark_interrupted`",
        "content": "use `edit`, which keeps the earlier versions",
        "edited_at": "use `edit`",
    }

    async def get_by_message_id(self, message_id: str) -> MessageHistory | None:
        """Return the message with this idempotency key, or None."""
        statement = self._select(MessageHistory.message_id == message_id)
        message: MessageHistory | None = await self.session.scalar(statement)
        return message

    async def append(
        self,
        conversation_id: UUID,
        message: NewMessage,
        *,
        turn: int | None = None,
        expected_last_seq: int | None = None,
    ) -> Appended:
        """Append a message to a conversation; see `append_many`.

        Example:
            message = NewMessage(message_id="telegram:my_bot:7:2", role="user", content="What is on today?")
            appended = await MessageHistoryRepository(session).append(conversation.id, message)
            is_new = appended.inserted  # False for a repeated delivery
        """
        [appended] = await self.append_many(conversation_id, [message], turn=turn, expected_last_seq=expected_last_seq)
        return appended

    async def append_many(
        self,
        conversation_id: UUID,
        messages: Sequence[NewMessage],
        *,
        turn: int | None = None,
        expected_last_seq: int | None = None,
    ) -> list[Appended]:
        """Append messages in this order. Each is stored once, however often it is sent.

        The conversation's row stays locked until the transaction ends, so `seq` has no gaps and followers miss nothing.
        A closed conversation accepts messages too, which may have been sent before it was closed. A transaction that
        appends to several conversations must do so in the order of their ids, or two transactions can deadlock.

        Args:
            conversation_id: The conversation's id.
            messages: At most 1000 messages.
            turn: The token of the turn that the caller has claimed, if any. If the turn is lost, nothing is appended.
            expected_last_seq: The conversation's `last_seq` as the caller knows it. If another writer has appended
                messages since, nothing is appended. A call whose messages are all stored already returns duplicates.

        Returns:
            For each message, in the same order, the stored message, and whether it is new. A message is a duplicate if
            its key is stored in this conversation, in an earlier conversation of the same chat (which may be closed or
            deleted), or in a deleted message. If a duplicate is deleted, `is_there` is False: do not answer it.

        Raises:
            IdempotencyConflictError: A message with other content, or one of another chat, has the key.
            NotFoundError: The tenant has no such conversation.
            StaleDataError: Another worker has claimed the turn, or has appended messages.
            ValueError: There are more than 1000 messages, `expected_last_seq` is negative, or `turn` is no token.
        """
        appended = await append_in_session(
            self.session, conversation_id, messages, turn=turn, expected_last_seq=expected_last_seq
        )
        return [Appended(message, inserted=one.is_inserted, is_there=one.is_live) for message, one in appended]

    async def recent(
        self,
        conversation_id: UUID,
        *,
        limit: int | None = None,
        token_budget: int | None = None,
        before_seq: int | None = None,
        unanswered: Unanswered = "drop",
    ) -> list[MessageHistory]:
        """Return the last messages of a conversation for a language model, with tool calls and their results complete.

        Providers reject a result without its call, and a call without all of its results if another message follows. So
        this leaves out a message with a result whose call is before the window. If a message other than a result
        follows, this also leaves out a message with a call that has no result, together with the messages of its other
        results. If only results follow, the call is still running, and is kept. To read all, use `before` or `after`.

        A message's `parts` are in the format of an SDK or a provider; docs/tool-calls.md lists the formats.

        Args:
            conversation_id: The conversation's id.
            limit: The largest number of messages, 1 to 1000; by default 50, or 1000 with a token budget.
            token_budget: The largest sum of tokens. The list is empty if the last message alone has more. A message
                without `token_count` counts as one token for each four characters of its content and parts, rounded up.
            before_seq: Only messages with a lower `seq`.
            unanswered: "keep" keeps the calls that have no result, for a caller that adds the results itself.

        Raises:
            ValueError: The limit is out of range, a number is negative, or `unanswered` is unknown.

        Example:
            messages = await MessageHistoryRepository(session).recent(conversation.id, token_budget=4000)
            prompt = [{"role": message.role, "content": message.content} for message in messages]
        """
        limit = windows.window_limit(limit, token_budget=token_budget)
        if before_seq is None and token_budget is None:
            newest_first = await self._window(windows.newest, conversation_id, limit=limit)
            return whole_pairs(newest_first[::-1], unanswered=unanswered)
        of_conversation = self._in(conversation_id)
        if before_seq is None:
            newest = windows.newest(of_conversation, limit=limit)
        else:
            newest = windows.before(of_conversation, seq=windows.check_number("before_seq", before_seq), limit=limit)
        if token_budget is not None:
            budget = windows.check_number("token_budget", token_budget)
            newest = windows.within_budget(
                newest, lambda counted: [aliased(MessageHistory, counted)], token_budget=budget
            )
        messages = (await self._rows(newest, refresh=True))[::-1]
        whole = whole_pairs(messages, unanswered=unanswered)
        closed = whole if before_seq is None else whole_pairs(messages, is_followed=True, unanswered=unanswered)
        if before_seq is None or len(closed) == len(whole):
            return whole
        later = windows.newest(of_conversation.where(MessageHistory.seq >= before_seq), limit=1)
        return closed if await self._rows(later) else whole

    async def last(self, conversation_id: UUID, limit: int = windows.DEFAULT_LIMIT) -> list[MessageHistory]:
        """Return exactly the last messages. Unlike `recent`, this can separate a tool call from its results.

        Raises:
            ValueError: The limit is not from 1 to 1000.
        """
        check_limit(limit)
        return (await self._window(windows.newest, conversation_id, limit=limit))[::-1]

    async def before(
        self, conversation_id: UUID, seq: int, *, limit: int = windows.DEFAULT_LIMIT
    ) -> list[MessageHistory]:
        """Return the last messages before a position. Unlike `recent`, this can separate a tool call from its results.

        Args:
            conversation_id: The conversation's id.
            seq: The position: only messages with a lower `seq`.
            limit: The largest number of messages, 1 to 1000.

        Raises:
            ValueError: The limit is out of range, or `seq` is negative.
        """
        position = {"seq": windows.check_number("seq", seq), "limit": windows.window_limit(limit)}
        return (await self._window(windows.before, conversation_id, **position))[::-1]

    async def after(
        self, conversation_id: UUID, seq: int, *, limit: int = windows.DEFAULT_LIMIT
    ) -> list[MessageHistory]:
        """Return the first messages after a position; see `before`. To follow a conversation, use `tail`."""
        position = {"seq": windows.check_number("seq", seq), "limit": windows.window_limit(limit)}
        return await self._window(windows.after, conversation_id, **position)

    async def around(
        self,
        conversation_id: UUID,
        seq: int,
        *,
        before: int = windows.DEFAULT_LIMIT // 2,
        after: int = windows.DEFAULT_LIMIT // 2,
    ) -> list[MessageHistory]:
        """Return the message at a position, if it exists, with messages before and after it.

        Args:
            conversation_id: The conversation's id.
            seq: The position.
            before: The largest number of messages before the position, 0 to 1000.
            after: The largest number of messages after the position, 0 to 1000.

        Raises:
            ValueError: `before` or `after` is out of range, or `seq` is negative.
        """
        around = windows.around(self._in(conversation_id), seq, before=before, after=after)
        return await self._rows(select(MessageHistory).from_statement(around), refresh=True)

    async def tail(self, conversation_id: UUID, after_seq: int, *, limit: int = 100) -> list[MessageHistory]:
        """Return the next messages for a follower of a conversation.

        A follower gets each message once, and misses none: a lower `seq` is never committed after a higher one, and the
        list ends before the first `incomplete` message. The messages after that one wait for `mark_complete`,
        `mark_interrupted`, or `interrupt_stale` if the writer has died. Edits and deletions of messages that were
        returned are not reported, and neither is a restored message with a lower `seq`. Use READ COMMITTED, the
        default: a REPEATABLE READ transaction does not see new messages.

        Args:
            conversation_id: The conversation's id.
            after_seq: The `seq` of the last message that the follower has; 0 at first.
            limit: The largest number of messages, 1 to 1000.

        Raises:
            ValueError: The limit is out of range, or `after_seq` is negative.
        """
        messages = await self.after(conversation_id, after_seq, limit=limit)
        return list(takewhile(lambda message: message.state != "incomplete", messages))

    async def stream_conversation(self, conversation_id: UUID, *, after_seq: int = 0) -> AsyncIterator[MessageHistory]:
        """Yield all messages of a conversation in the order of `seq`, of one state; 500 are in memory at a time."""
        position = windows.check_number("after_seq", after_seq)
        statement = windows.after(self._in(conversation_id), seq=position, limit=None)
        async with aclosing(self._stream(statement)) as messages:
            async for message in messages:
                yield message

    async def page_since(
        self,
        since: datetime,
        *,
        conversation_id: UUID | None = None,
        user_id: UUID | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[MessageHistory]:
        """Return one page of the messages of a conversation or of a user since an instant, by `created_at`.

        A message that is committed later can have an earlier `created_at` than messages of an earlier page: to follow a
        conversation without missing a message, use `tail`.

        Args:
            since: The start of the time range, inclusive.
            conversation_id: The conversation's id, or
            user_id: the user's id.
            after: The `next_cursor` of the previous page.
            limit: The largest number of messages in the page, 1 to 1000.

        Raises:
            InvalidCursorError: The cursor is not from this query.
            ValueError: Both ids or none are given, `since` is naive, or the limit is out of range.
        """
        of = {"conversation_id": conversation_id, "user_id": user_id}
        return await history.since_page(self._sends, self.session.tenant_id, since, of, after=after, limit=limit)

    async def search(
        self, user_id: UUID, query: str, *, config: str = "simple", after: str | None = None, limit: int = 20
    ) -> Page[MessageHistory]:
        """Return one page of a user's messages whose content matches a query, the newest first.

        The server computes the words of each message during the search; decision 0055 has the cost.

        Args:
            user_id: The user's id.
            query: A query as in a search box: words, "a phrase", or, -not; at most 1000 characters.
            config: The text search configuration: `simple` compares words, `english` and others compare their stems.
            after: The `next_cursor` of the previous page.
            limit: The largest number of messages in the page, 1 to 1000.

        Raises:
            InvalidCursorError: The cursor is not from this query.
            ValueError: The server has no such configuration, the query is too long, or the limit is out of range.
        """
        return await history.search_page(
            self._sends, self.session.tenant_id, user_id, query, config=config, after=after, limit=limit
        )

    async def extend(self, message_id: str, content: str, *, offset: int, turn: int | None = None) -> MessageHistory:
        """Add a piece to the content of an incomplete message. A piece that is sent again is not added again.

        Each extension sets `token_count` to NULL, because it counted the earlier content.

        Args:
            message_id: The message's key.
            content: The piece. An empty piece only shows `interrupt_stale` that the writer is alive.
            offset: The number of characters before the piece: the sum of `len` of all earlier pieces. The part of the
                piece that is stored already is skipped. A piece that is stored completely is accepted even if the
                message is complete or interrupted. A surrogate pair that is split over two pieces counts as two and is
                stored as one character; until the second half arrives, U+FFFD is stored in its place.
            turn: The token of the turn that the caller has claimed, if any. If the turn is lost, nothing is added.

        Raises:
            NotFoundError: The tenant has no such message.
            StaleDataError: The message is complete or interrupted and lacks a part of the piece, an earlier piece is
                missing, other content is stored at the offset, or another worker has claimed the turn.
            ValueError: `offset` is negative, too large or not a whole number, or `turn` is not a token.

        Example:
            messages, key, offset = MessageHistoryRepository(session), "assistant:7:2", 0
            answer = NewMessage(message_id=key, role="assistant", content="", state="incomplete")
            await messages.append(conversation.id, answer)
            for piece in ["Hello, ", "Ada!"]:
                await messages.extend(key, piece, offset=offset)
                offset += len(piece)
            await messages.mark_complete(key, output_tokens=4)
        """
        return await answers.extend(self.session, message_id, content, offset=offset, turn=turn)

    async def mark_complete(
        self,
        message_id: str,
        *,
        parts: list[Any] | None = None,
        model: str | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        token_count: int | None = None,
        turn: int | None = None,
    ) -> MessageHistory:
        """Mark an incomplete message as complete, so that followers receive it. A repeated equal call is not an error.

        An argument of None leaves the attribute unchanged.

        Args:
            message_id: The message's key.
            parts: The parts of the message, such as tool calls.
            model: The name of the language model.
            input_tokens: The tokens that the model read.
            output_tokens: The tokens that the model wrote.
            token_count: The tokens of this message, for `recent(token_budget=...)`.
            turn: The token of the turn that the caller has claimed, if any. If the turn is lost, nothing is changed.

        Raises:
            NotFoundError: The tenant has no such message.
            StaleDataError: The message is interrupted, or complete with other values, or another worker has claimed the
                turn.
            ValueError: A number of tokens is negative, `parts` is not a list, or `turn` is not a token.
        """
        tokens = {"input_tokens": input_tokens, "output_tokens": output_tokens, "token_count": token_count}
        return await answers.end(self.session, message_id, "complete", turn, parts=parts, model=model, **tokens)

    async def mark_interrupted(
        self,
        message_id: str,
        *,
        model: str | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        token_count: int | None = None,
        turn: int | None = None,
    ) -> MessageHistory:
        """Mark an incomplete message as interrupted; its content stays. The arguments are those of `mark_complete`.

        Raises:
            NotFoundError: The tenant has no such message.
            StaleDataError: The message is complete, or interrupted with other values, or another worker has claimed the
                turn.
            ValueError: A number of tokens is negative, or `turn` is not a token.
        """
        tokens = {"input_tokens": input_tokens, "output_tokens": output_tokens, "token_count": token_count}
        return await answers.end(self.session, message_id, "interrupted", turn, model=model, **tokens)

    async def interrupt_stale(self, *, older_than: timedelta, limit: int = 100) -> list[MessageHistory]:
        """Interrupt a batch of incomplete messages whose writers have died: they have not changed for some time.

        A worker calls this regularly for each tenant, until it returns an empty list. Several workers may do so at the
        same time: locked messages are skipped. The time is the server's.

        Args:
            older_than: The time without a change, at most 36,500 days. Choose it longer than the longest pause of a
                living writer between two pieces.
            limit: The largest number of messages, 1 to 1000.

        Returns:
            The interrupted messages, by conversation and `seq`.

        Raises:
            ValueError: An argument is out of range.
        """
        return await answers.interrupt_stale(self.session, older_than=older_than, limit=limit)

    async def edit(self, message_id: str, content: str | None, *, edited_at: datetime) -> bool:
        """Replace the content of a message. `extra["versions"]` keeps the earlier versions, the oldest first.

        An edit sets `token_count` to NULL, because it counted the earlier content.

        Args:
            message_id: The message's key.
            content: The new content.
            edited_at: The time of the edit.

        Returns:
            True if the message changed. An edit with an earlier `edited_at` than the stored one changes nothing, nor
            does a repeated edit (same `edited_at`, same content). Of different edits at one time, the last call wins.

        Raises:
            NotFoundError: The tenant has no such message.
            ValueError: `edited_at` is naive.
        """
        return await message_changes.edit(self.session, message_id, content, edited_at=edited_at)

    async def pop(
        self, conversation_id: UUID, limit: int = 1, *, last_seq: int | None = None, turn: int | None = None
    ) -> list[MessageHistory]:
        """Soft-delete the last messages of a conversation, for example to generate an answer again.

        Concurrent calls delete different messages. The messages keep their `seq` and their keys: append a replacement
        under another key. `restore` undoes the deletion.

        Args:
            conversation_id: The conversation's id.
            limit: The largest number of messages, 1 to 1000.
            last_seq: Delete messages only if this is the `seq` of the last one, so that a retry deletes no others.
            turn: The token of the turn that the caller has claimed, if any.

        Returns:
            The deleted messages, the oldest first; none if the last message has another `seq`.

        Raises:
            NotFoundError: The tenant has no such conversation.
            StaleDataError: Another worker has claimed the turn.
            ValueError: The limit is out of range, `last_seq` is negative, or `turn` is not a token.
        """
        return await message_changes.pop_in_session(
            self.session, conversation_id, limit=limit, last_seq=last_seq, turn=turn
        )

    async def purge(
        self,
        before: datetime,
        *,
        user_id: UUID | None = None,
        only_deleted: bool = False,
        limit: int = 1000,
        dry_run: bool = False,
    ) -> int:
        """Permanently delete one batch of the oldest messages before a time, including soft-deleted ones.

        Commit, and call it again until it returns 0. It can be interrupted at any time. Notes and answers that refer to
        a deleted message stay, and their reference is set to NULL. A `seq` is not used again. A key becomes free: if
        the message is delivered again, it is appended as new. Locked messages are skipped.

        Args:
            before: The end of the time range, exclusive; compared with `created_at`.
            user_id: Only the messages of this user.
            only_deleted: Only messages that were soft-deleted before that time, whatever their `created_at`.
            limit: The size of the batch, 1 to 1000.
            dry_run: Delete nothing, and count the messages that all batches together would delete.

        Returns:
            The number of deleted messages, or of those that would be deleted.

        Raises:
            ValueError: `before` is naive, or the limit is out of range.
        """
        return await message_changes.purge(
            self.session, before, user_id=user_id, only_deleted=only_deleted, limit=limit, dry_run=dry_run
        )

    async def usage(
        self,
        *,
        user_id: UUID | None = None,
        conversation_id: UUID | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        by: Sequence[UsageBy] = (),
        timezone: str = "UTC",
        include_deleted: bool = False,
        limit: int = 1000,
    ) -> list[Usage]:
        """Count messages and sum their tokens, by the `created_at` of the messages.

        Args:
            user_id: Only the messages of this user.
            conversation_id: Only the messages of this conversation.
            since: The start of the time range, inclusive.
            until: The end of the time range, exclusive.
            by: The groups: any of `user`, `conversation`, `model` and `day`. Without groups there is one row.
            timezone: The IANA zone of the days, by the packaged zone data.
            include_deleted: Include soft-deleted messages and those of deleted conversations, whose tokens were spent
                too. Purged messages are not counted.
            limit: The largest number of groups, 1 to 1000.

        Returns:
            The groups, in the order of their keys; messages without a `model` are last.

        Raises:
            ValueError: `user_id`, `conversation_id` and `since` are all missing, which would read all messages of the
                tenant; or another argument is invalid.
        """
        return await sum_usage(
            self.session,
            {"user_id": user_id, "conversation_id": conversation_id},
            since=since, until=until, by=by, timezone=timezone, include_deleted=include_deleted, limit=limit,
        )  # fmt: skip

    if TYPE_CHECKING:

        async def update(  # type: ignore[override] # only its attributes
            self,
            row_id: UUID,
            /,
            *,
            expected: attributes.MessageHistoryAttributes | None = None,
            **values: Unpack[attributes.MessageHistoryChanges],
        ) -> MessageHistory:
            """Update attributes of a message, except those that other methods set; `extra` keeps its versions."""

    def _check_attributes(self, values: Mapping[str, Any]) -> None:
        super()._check_attributes(values)
        check_extra(values.get("extra", ()))

    def _set_attribute(self, row: MessageHistory, name: str, value: Any) -> None:
        super()._set_attribute(row, name, value | message_changes.kept_extra(row) if name == "extra" else value)

    def _check_keys(self, keys: Collection[str]) -> None:
        if reserved := sorted(message_changes.RESERVED_KEYS & set(keys)):
            raise ValueError(f"the key {reserved[0]!r} of extra cannot be changed: methods of this class write it")

    async def restore(self, row_id: UUID) -> MessageHistory:
        """Restore a soft-deleted message. Restoring a message that is not deleted changes nothing.

        An incomplete message becomes interrupted: its writer got an error when it was deleted, and followers of the
        conversation may be past it.

        Raises:
            NotFoundError: The tenant has no such message, or its conversation is deleted: restore that first.
        """
        incomplete = MessageHistory.deleted_at.is_not(None) & (MessageHistory.state == "incomplete")
        state = case((incomplete, "interrupted"), else_=MessageHistory.state)
        return await self._restore(row_id, windows.conversation_is_live(self._tenant), state=state)

    async def add_many(self, rows: Sequence[MessageHistory]) -> NoReturn:
        """Raise ValueError: use `append`, which numbers messages under the lock of their conversation."""
        _refuse_to_bypass("add")

    async def upsert(self, values: Mapping[str, Any], *, key: Collection[str]) -> NoReturn:
        """Raise ValueError: use `append` for a new message, and `edit` for an existing one."""
        _refuse_to_bypass("upsert")

    def _live(self) -> list[Condition]:
        return [*super()._live(), windows.conversation_is_live(self._tenant)]

    def _in(self, conversation_id: UUID) -> Select[Any]:
        """Return a select of the live messages of a conversation."""
        check_id("conversation_id", conversation_id)
        return windows.of_conversation((MessageHistory,), self._tenant, conversation_id)

    async def _window(self, window: windows.Window, /, conversation_id: UUID, **values: int) -> list[MessageHistory]:
        check_id("conversation_id", conversation_id)
        return await self._sends(windows.of_one(window))(conversation_id=conversation_id, **values)


def _refuse_to_bypass(method: str) -> NoReturn:
    raise ValueError(f"messages cannot be written by `{method}`, which sets no `seq`; use `append` or `append_many`")
