"""Messages: appended, read in windows, streamed, changed as little as can be, and erased in the end."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any, Final, NoReturn
from uuid import UUID

from sqlalchemy import BindParameter, Select, bindparam, case, select, union_all
from sqlalchemy.orm import aliased

from src.database.base import check_id
from src.database.calendar import check_timezone
from src.database.models import Conversation, MessageHistory
from src.database.repositories.base import Build, Condition, Repository
from src.database.statements import (
    MAX_LIMIT,
    InSession,
    NewMessage,
    Outcome,
    Usage,
    UsageBy,
    answers,
    append_messages,
    check_batch,
    check_extra,
    check_limit,
    conversations,
    first_of_each_key,
    message_changes,
    pack,
    sum_usage,
    whole,
    whole_pairs,
    windows,
)

_FIXED: Final[Mapping[str, str]] = dict.fromkeys(
    ("conversation_id", "user_id", "seq", "message_id", "fingerprint"), "it never changes"
) | {
    "state": "use `mark_complete` or `mark_interrupted`",
    "content": "use `edit`, which keeps what was there before",
    "edited_at": "use `edit`",
}


@dataclass(frozen=True, slots=True)
class Appended:
    """The message as it is stored, and whether this call stored it: False is a duplicate, and no error.

    `is_there` is False for a duplicate that nobody reads any more: the message is deleted, or its conversation.
    """

    message: MessageHistory
    inserted: bool
    is_there: bool = True


class MessageHistoryRepository(Repository[MessageHistory]):
    """The live messages of the current tenant: neither they nor their conversations are deleted.

    Windows are lists in the order of `seq`, the oldest first. A `seq` is a position and need not exist: a list goes on
    where its first or last message says, however deep that is. The rows are read again, also where the session has
    them already.

    A message that is appended with `state="incomplete"` is extended until it is complete or interrupted; neither ends.
    Under the token of a turn, each of these calls locks the conversation's row until the transaction ends, as an append
    does: a claim that was committed before wins, and a later claim waits.
    """

    model = MessageHistory

    async def get_by_message_id(self, message_id: str) -> MessageHistory | None:
        """Return the message with this idempotency key, or None."""
        found: MessageHistory | None = await self.session.scalar(self._select(MessageHistory.message_id == message_id))
        return found

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
        conversations.check_token(turn)
        first = first_of_each_key(messages)
        if not first:
            return []
        rows = pack(list(first.values()))
        sender = InSession(self.session)
        outcomes = await append_messages(sender, conversation_id, rows, turn=turn)
        last = next(iter(outcomes.values()))
        changed = {"last_seq": last.last_seq, "last_message_at": last.last_message_at, "updated_at": last.updated_at}
        if any(one.is_inserted for one in outcomes.values()):
            sender.refresh(Conversation, conversation_id, **changed)
        stored = await self._stored(sender, rows, outcomes)
        results = []
        for message in messages:
            outcome = outcomes[message.message_id]
            results.append(Appended(stored[message.message_id], inserted=outcome.is_inserted, is_there=outcome.is_live))
            outcomes[message.message_id] = outcome._replace(outcome="duplicate")  # a second one of the same call
        return results

    async def recent(
        self,
        conversation_id: UUID,
        *,
        limit: int | None = None,
        token_budget: int | None = None,
        before_seq: int | None = None,
    ) -> list[MessageHistory]:
        """Return the last messages of a conversation, as a model is given them: tools' calls and results kept together.

        A result (role `tool`) whose call was cut off is left out. So is a call without all of its results, with
        the results that it has, where a later message exists: it was never answered, or its result comes after the
        window, and a model's provider rejects either. A call that only results follow is still running, and is kept.
        To read every message, use `before` or `after`.

        A call is an assistant's message whose `parts` hold an object with the result's `tool_call_id` as its `id`,
        `call_id`, `tool_call_id` or `toolCallId`, or whose own `tool_call_id` is that. A result without a
        `tool_call_id` belongs to the message before it. A user's message whose `parts` are all results
        (`tool_use_id`) is one.

        Args:
            conversation_id: Which conversation.
            limit: At most so many, 1 to 1000; by default 50, or with a budget 1000.
            token_budget: At most so many tokens in all: none where the last message alone has more. A message
                without `token_count` counts one token for every four characters, begun ones too, of its content and
                its parts.
            before_seq: What was recent then: only messages with a lower `seq`.

        Raises:
            ValueError: The limit is not from 1 to 1000, or a number is negative.
        """
        limit = windows.window_limit(limit, token_budget=token_budget)
        if before_seq is None and token_budget is None:
            newest_first = await self._window(MessageHistoryRepository._newest, conversation_id, limit=limit)
            return whole_pairs(newest_first[::-1])
        messages_of_it = self._in(conversation_id)
        if before_seq is None:
            newest = windows.newest(messages_of_it, limit=limit)
        else:
            newest = windows.before(messages_of_it, seq=windows.check_number("before_seq", before_seq), limit=limit)
        if token_budget is not None:
            budget = windows.check_number("token_budget", token_budget)
            newest = windows.within_budget(
                newest, lambda counted: [aliased(MessageHistory, counted)], token_budget=budget
            )
        messages = (await self._rows(newest, refresh=True))[::-1]
        whole = whole_pairs(messages)
        if before_seq is None or len(closed := whole_pairs(messages, is_followed=True)) == len(whole):
            return whole
        return closed if await self._has_from(conversation_id, before_seq) else whole

    async def before(
        self, conversation_id: UUID, seq: int, *, limit: int = windows.DEFAULT_LIMIT
    ) -> list[MessageHistory]:
        """Return the last messages before a number; a page cuts where the limit says, between call and result too.

        Raises:
            ValueError: The limit is not from 1 to 1000, or the number is negative.
        """
        position = {"seq": windows.check_number("seq", seq), "limit": windows.window_limit(limit)}
        return (await self._window(MessageHistoryRepository._before, conversation_id, **position))[::-1]

    async def after(
        self, conversation_id: UUID, seq: int, *, limit: int = windows.DEFAULT_LIMIT
    ) -> list[MessageHistory]:
        """Return the first messages after a number; as `before` otherwise. To follow a conversation, use `tail`."""
        position = {"seq": windows.check_number("seq", seq), "limit": windows.window_limit(limit)}
        return await self._window(MessageHistoryRepository._after, conversation_id, **position)

    async def around(
        self,
        conversation_id: UUID,
        seq: int,
        *,
        before: int = windows.DEFAULT_LIMIT // 2,
        after: int = windows.DEFAULT_LIMIT // 2,
    ) -> list[MessageHistory]:
        """Return the message of a number, where it is there, with at most so many before and so many after it.

        Raises:
            ValueError: `before` or `after` is not from 0 to 1000, or the number is negative.
        """
        for name, count in (("before", before), ("after", after)):
            if type(count) is not int or not 0 <= count <= MAX_LIMIT:
                raise ValueError(f"{name} must be from 0 to {MAX_LIMIT}, got {count!r}")
        of_conversation, anchor = self._in(conversation_id), windows.check_number("seq", seq)
        earlier = windows.before(of_conversation, seq=anchor, limit=before)
        later = windows.after(of_conversation, seq=anchor, limit=after)
        both = union_all(earlier, of_conversation.where(MessageHistory.seq == anchor), later).order_by("seq")
        return await self._rows(select(MessageHistory).from_statement(both), refresh=True)

    async def tail(self, conversation_id: UUID, after_seq: int, *, limit: int = 100) -> list[MessageHistory]:
        """Return the next messages after the last one that a follower has seen; begin with 0.

        No message is skipped: a lower `seq` is never committed after a higher one, and the list ends before the first
        message that is `incomplete`. So a follower gets each message once, when it is whole; the rest waits for
        `mark_complete`, `mark_interrupted` or, where the writer has died, for `interrupt_stale`. What is edited or
        deleted after it was seen is not told, and neither is a deleted one with a lower `seq` than the last that was
        seen, when it is restored. Read in READ COMMITTED, the default.

        Raises:
            ValueError: The limit is not from 1 to 1000, or the number is negative.
        """
        messages = await self.after(conversation_id, after_seq, limit=limit)
        return list(takewhile(lambda message: message.state != "incomplete", messages))

    async def extend(self, message_id: str, content: str, *, offset: int, turn: int | None = None) -> MessageHistory:
        """Add a piece to the content of an incomplete message, once, however often it is sent.

        Its `token_count` is forgotten with the content that it counted.

        Args:
            message_id: The message's key.
            content: The piece; an empty one says that the writer is alive.
            offset: How many characters stand before the piece: the sum of `len` over all that was sent before it. What
                is stored of the piece already is not added again, also after the message's end. A surrogate pair that
                is split over two pieces counts two and is stored as one character; until its second half arrives,
                U+FFFD stands in its place.
            turn: The token of the turn that the caller holds, if it holds one: who has lost it adds nothing.

        Raises:
            NotFoundError: This tenant has no such message.
            StaleDataError: The message is not incomplete any more, a piece is missing before this one, another writer
                has written something else there, or another worker has claimed the turn since.
            ValueError: The offset is negative, beyond what a text can hold or not whole, or `turn` is no token.
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
        """End an incomplete message: it is whole, and those who follow get it. Once more with the same is no error.

        Args:
            message_id: The message's key.
            parts: What there is beside the content, its tool calls above all; None leaves it as it is, here and below.
            model: Which model answered.
            input_tokens: What it read.
            output_tokens: What it wrote.
            token_count: What the message counts in a window.
            turn: The token of the turn that the caller holds, if it holds one: who has lost it ends nothing.

        Raises:
            NotFoundError: This tenant has no such message.
            StaleDataError: It was interrupted, is complete with other values, or another worker has claimed the turn
                since.
            ValueError: A number of tokens is negative, `parts` is no list, or `turn` is no token but the turn itself.
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
        """End an incomplete message with what it has: nothing more will come. As `mark_complete` otherwise.

        Raises:
            NotFoundError: This tenant has no such message.
            StaleDataError: It is complete, was interrupted with other values, or another worker has claimed the turn
                since.
            ValueError: A number of tokens is negative, `parts` is no list, or `turn` is no token but the turn itself.
        """
        tokens = {"input_tokens": input_tokens, "output_tokens": output_tokens, "token_count": token_count}
        return await answers.end(self.session, message_id, "interrupted", turn, model=model, **tokens)

    async def interrupt_stale(self, *, older_than: timedelta, limit: int = 100) -> list[MessageHistory]:
        """Interrupt messages that are incomplete and have not changed for longer than this: their writers have died.

        A worker calls it now and then for each tenant, until nothing comes back. Any number may at once: what
        another one has in hand, or its writer, is passed over. Time is the server's.

        Args:
            older_than: Longer than the longest silence between two pieces.
            limit: At most so many, 1 to 1000.

        Returns:
            What was interrupted, by conversation and `seq`.

        Raises:
            ValueError: The time is not positive or over 36,500 days, or the limit is not from 1 to 1000.
        """
        return await answers.interrupt_stale(self.session, older_than=older_than, limit=limit)

    async def edit(self, message_id: str, content: str | None, *, edited_at: datetime) -> bool:
        """Update a message to a later version; what was there before is kept in `extra["versions"]`, oldest first.

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
        """Add messages and tokens up, by the time at which the messages were said.

        Args:
            user_id: Only this user's.
            conversation_id: Only this conversation's.
            since: From then on.
            until: Before then.
            by: What to group by: `user`, `conversation`, `model`, `day`; by nothing there is one row.
            timezone: The IANA zone that the days are of, by the packaged zone data.
            include_deleted: Soft-deleted messages too, and deleted conversations': what was spent is spent. What
                was purged is gone.
            limit: At most so many groups, 1 to 1000.

        Returns:
            The groups, in the order of what they are grouped by; a model that nobody named is last.

        Raises:
            ValueError: There is no user, no conversation and no `since`, which would read all that the tenant has; or
                a group, the zone, a datetime or the limit cannot serve.
        """
        check_limit(limit)
        check_timezone(timezone)
        if user_id is None and conversation_id is None and since is None:
            raise ValueError("usage must be narrowed by user_id, conversation_id or since, got none of them")
        statement = (
            self._select(include_deleted=True)
            if include_deleted
            else windows.among_many((MessageHistory,), self._tenant)
        )
        if user_id is not None:
            statement = statement.where(MessageHistory.user_id == user_id)
        if conversation_id is not None:
            statement = statement.where(MessageHistory.conversation_id == conversation_id)
        return await sum_usage(self.session, statement, since=since, until=until, by=by, timezone=timezone, limit=limit)

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
        for name, value in (values | {"extra": values["extra"] | message_changes.kept_extra(row)}).items():
            setattr(row, name, value)
        await self.session.flush()
        return row

    async def restore(self, row_id: UUID) -> MessageHistory:
        """Restore a deleted message; one that was not deleted stays as it is.

        What was incomplete is interrupted: its writer was told that it is gone, and those who follow the conversation
        may have passed it.

        Raises:
            NotFoundError: This tenant has none, or its conversation is deleted; `restore` that first.
        """
        incomplete = MessageHistory.deleted_at.is_not(None) & (MessageHistory.state == "incomplete")
        state = case((incomplete, "interrupted"), else_=MessageHistory.state)
        return await self._restore(row_id, windows.conversation_is_live(self._tenant), state=state)

    async def add_many(self, rows: Sequence[MessageHistory]) -> NoReturn:
        """Raise: a message is numbered under its conversation's lock.

        Raises:
            ValueError: Always; `append` it.
        """
        _refuse_to_bypass("add")

    async def upsert(self, values: Mapping[str, Any], *, key: Collection[str]) -> NoReturn:
        """Raise, as `add_many` does.

        Raises:
            ValueError: Always; `append` a message, `edit` one that is there.
        """
        _refuse_to_bypass("upsert")

    def _live(self) -> list[Condition]:
        return [*super()._live(), windows.conversation_is_live(self._tenant)]

    def _in(self, conversation_id: UUID | BindParameter[UUID]) -> Select[Any]:
        """Return a select of one conversation's live messages."""
        if not isinstance(conversation_id, BindParameter):
            check_id("conversation_id", conversation_id)
        return windows.of_conversation((MessageHistory,), self._tenant, conversation_id)

    def _newest(self) -> Select[Any]:
        return windows.newest(self._in(bindparam("conversation_id")))

    def _before(self) -> Select[Any]:
        return windows.before(self._in(bindparam("conversation_id")))

    def _after(self) -> Select[Any]:
        return windows.after(self._in(bindparam("conversation_id")))

    async def _window(self, build: Build, /, conversation_id: UUID, **values: int) -> list[MessageHistory]:
        check_id("conversation_id", conversation_id)
        return await self._built(build).rows(self.session, refresh=True, conversation_id=conversation_id, **values)

    async def _has_from(self, conversation_id: UUID, seq: int) -> bool:
        """Return True if the conversation has a message with this number or a later one."""
        later = self._in(conversation_id).where(MessageHistory.seq >= seq).limit(1)
        return await self.session.scalar(later.with_only_columns(MessageHistory.seq)) is not None

    async def _stored(
        self, sender: InSession, rows: Sequence[Any], outcomes: Mapping[str, Outcome]
    ) -> dict[str, MessageHistory]:
        """Return the entities by key: of what was inserted, from what was sent; of duplicates, as they are stored."""
        inserted = []
        for values in map(whole, rows):
            outcome = outcomes[values["message_id"]]
            if outcome.is_inserted:
                place = {name: getattr(outcome, name) for name in ("conversation_id", "user_id", "seq", "updated_at")}
                inserted.append({**values, **place, "tenant_id": self.session.tenant_id, "deleted_at": None})
        made = sender.load(MessageHistory, inserted, refresh=True)
        if known := [key for key, outcome in outcomes.items() if not outcome.is_inserted]:
            stored = self._select(MessageHistory.message_id.in_(known), include_deleted=True)
            made += await self._rows(stored, refresh=True)
        return {one.message_id: one for one in made}

    def _check_attributes(self, values: Mapping[str, Any]) -> None:
        super()._check_attributes(values)
        for name in values:
            if name in _FIXED:
                raise ValueError(f"MessageHistory.{name} cannot be set: {_FIXED[name]}")


def _refuse_to_bypass(method: str) -> NoReturn:
    raise ValueError(f"messages cannot be written by `{method}`, which numbers nothing; use `append` or `append_many`")
