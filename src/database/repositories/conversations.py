"""Conversations: at most one is active per user, channel and chat; their summaries, and the turn to answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack
from uuid import UUID

from sqlalchemy import Select, bindparam

from src.database.models import Conversation
from src.database.repositories.base import Condition, Repository, Upserted
from src.database.statements import InSession, Latest, Page, Turn, conversation_changes, conversations, history, turns

if TYPE_CHECKING:
    from src.database.models import attributes


class ConversationRepository(Repository[Conversation]):
    """The conversations of the current tenant. A worker holds the turn while it answers, without a connection."""

    model = Conversation
    insert_only = ("user_id",)
    read_only = (
        {"last_seq": "`append` counts"}
        | dict.fromkeys(("summary", "summary_upto_seq"), "use `set_summary`")
        | dict.fromkeys(("turn_token", "turn_claimed_by", "turn_claimed_until"), "use `claim_turn`")
    )

    if TYPE_CHECKING:

        async def update(  # type: ignore[override] # only its attributes
            self,
            row_id: UUID,
            /,
            *,
            expected: attributes.ConversationAttributes | None = None,
            **values: Unpack[attributes.ConversationChanges],
        ) -> Conversation:
            """Update attributes of a conversation, except its user and those that methods of this class set."""

        async def upsert(  # type: ignore[override] # only its attributes
            self, values: attributes.ConversationUpsert, *, key: Collection[str]
        ) -> Upserted[Conversation]:
            """Insert or update a conversation; see `Repository.upsert`."""

    async def get_by_session_id(self, session_id: str) -> Conversation | None:
        """Return the conversation with this session id, open or closed, or None.

        Raises:
            ValueError: The session id is empty.
        """
        key, _ = conversation_changes.stored_session_id(session_id)
        return await self._built(ConversationRepository._by_session_id).first(self.session, session_id=key)

    async def get_active(self, user_id: UUID, channel: str, external_chat_id: str | None = None) -> Conversation | None:
        """Return the active conversation of a user in a chat, or None."""
        chat: dict[str, Any] = {"user_id": user_id, "channel": channel}
        # Refreshed, because the idle time of an entity that was read earlier in the session may be over.
        build = ConversationRepository._active_in_no_chat
        if external_chat_id is not None:
            build, chat["external_chat_id"] = ConversationRepository._active_in_chat, external_chat_id
        return await self._built(build).first(self.session, refresh=True, **chat)

    async def get_or_start(
        self,
        user_id: UUID,
        channel: str,
        external_chat_id: str | None = None,
        *,
        idle_timeout: timedelta | None = None,
        now: datetime | None = None,
    ) -> tuple[Conversation, bool]:
        """Return the active conversation of a user in a chat, starting one if there is none.

        Concurrent calls start one conversation.

        Args:
            user_id: The user's id.
            channel: The channel, e.g. `telegram`.
            external_chat_id: The id of the chat in the channel; None is one chat too.
            idle_timeout: If the last message is older than this, the conversation is closed and a new one is started.
            now: The time by which idleness is measured; by default the current time of the server. Set it to import
                history.

        Returns:
            The conversation, and True if this call started it.

        Raises:
            ForeignKeyError: There is no active conversation, and the tenant has no such user or the user is deleted.
            ValueError: The timeout is negative, or `now` is naive or too early.

        Example:
            conversation, is_new = await ConversationRepository(session).get_or_start(
                user.id, "telegram", "7", idle_timeout=timedelta(hours=6)
            )
        """
        return await conversations.get_or_start_conversation(
            InSession(self.session), user_id, channel, external_chat_id, idle_timeout=idle_timeout, now=now
        )

    async def open(
        self,
        session_id: str,
        user_id: UUID,
        *,
        channel: str = conversation_changes.SESSION_CHANNEL,
        extra: Mapping[str, Any] | None = None,
    ) -> tuple[Conversation, bool]:
        """Return the conversation with this session id, opening one if there is none.

        Concurrent calls open one conversation. It is not the active conversation of a chat: `get_or_start` does not
        return it, and `close_stale` does not close it. After a conversation is deleted, its session id opens another
        one.

        Args:
            session_id: The id, unique within the tenant. If the id has more than 255 characters, has characters that
                PostgreSQL cannot store, or begins with `sha256:` or `deleted:`, `Conversation.session_id` is a hash,
                and `extra["session_id"]` is the id.
            user_id: The user's id.
            channel: The channel of a conversation that is opened.
            extra: The `extra` of a conversation that is opened.

        Returns:
            The conversation, and True if this call opened it.

        Raises:
            DuplicateKeyError: The session id belongs to a conversation of another user.
            ForeignKeyError: There is no such conversation, and the tenant has no such user or the user is deleted.
            ValueError: The session id is empty, the channel is too long, or `extra` is no JSON object or has the key
                `session_id`.

        Example:
            conversation, is_new = await ConversationRepository(session).open("agent-42", user.id)
        """
        send = partial(InSession(self.session).entities, conversation_changes.OPEN, Conversation, refresh=True)
        return await conversation_changes.open_by_session_id(send, session_id, user_id, channel, extra)

    async def clear(self, conversation_id: UUID, *, turn: int | None = None) -> int:
        """Delete all messages of a conversation softly, and its summary; return the number of messages.

        `seq` continues, and the keys of the messages stay taken: a message that is delivered again is a duplicate, and
        does not return. Retention deletes the messages permanently.

        Args:
            conversation_id: The conversation's id.
            turn: The token of the turn that the caller has claimed, if any.

        Raises:
            NotFoundError: The tenant has no such conversation.
            StaleDataError: Another worker has claimed the turn.
        """
        return await conversation_changes.clear_in_session(self.session, conversation_id, turn)

    async def fork(
        self, conversation_id: UUID, *, upto_seq: int | None = None, session_id: str | None = None
    ) -> Conversation:
        """Copy a conversation with its messages, and return the copy.

        The copy is independent of its origin, and is not the active conversation of the chat. Its messages have the
        same `seq`, and new ids and keys (`fork:<id of the copy>:<seq>`). An answer that is being streamed is copied as
        interrupted. `extra["forked_from"]` of the copy is the id of the origin.

        Args:
            conversation_id: The conversation's id.
            upto_seq: The `seq` of the last message to copy; by default all messages are copied.
            session_id: The session id of the copy, as `open` takes it; by default a new one.

        Raises:
            DuplicateKeyError: The session id is taken.
            NotFoundError: The tenant has no such conversation.
            ValueError: `upto_seq` is negative, or the session id is empty.
        """
        send = partial(InSession(self.session).entities, conversation_changes.FORK, Conversation, refresh=True)
        return await conversation_changes.fork(send, conversation_id, upto_seq, session_id)

    async def close(self, conversation_id: UUID, *, reason: str | None = None) -> Conversation:
        """Close a conversation. A closed conversation is unchanged, and messages can still be appended to it.

        Raises:
            NotFoundError: The tenant has no such conversation.
        """
        return await conversations.close(self.session, conversation_id, reason) or await self.get(conversation_id)

    async def close_stale(
        self, idle_for: timedelta, *, limit: int = 100, now: datetime | None = None
    ) -> list[Conversation]:
        """Close a batch of idle conversations. Call it and commit until it returns an empty list.

        Conversations that another transaction has locked, to close them or to append to them, are skipped.

        Args:
            idle_for: The shortest time without a message.
            limit: The largest number of conversations, 1 to 1000.
            now: The time by which idleness is measured; by default the current time of the server.

        Returns:
            The closed conversations, the longest idle first.

        Raises:
            ValueError: `idle_for` is negative, the limit is out of range, or `now` is naive or too early.
        """
        return await conversations.close_stale(self.session, idle_for, limit=limit, now=now)

    async def page_for_user(self, user_id: UUID, *, after: str | None = None, limit: int = 50) -> Page[Conversation]:
        """Return one page of a user's conversations, open and closed, the newest first.

        Args:
            user_id: The user's id.
            after: The `next_cursor` of the previous page.
            limit: The largest number of conversations in the page, 1 to 1000.

        Raises:
            InvalidCursorError: The cursor is not from this query.
            ValueError: The limit is out of range.
        """
        if after is None:
            return await self._newest_page(ConversationRepository._first_page, limit, user_id=user_id)
        return await self.page(Conversation.user_id == user_id, after=after, limit=limit, descending=True)

    async def latest(self, user_id: UUID, *, after: str | None = None, limit: int = 50) -> Page[Latest[Conversation]]:
        """Return one page of a user's conversations, open and closed, each with its last message.

        The conversation with the latest message is first. A conversation without a message has the time of its
        creation. The server sorts all conversations of the user for each page. A conversation that gets a message
        between two pages moves to the front.

        Args:
            user_id: The user's id.
            after: The `next_cursor` of the previous page.
            limit: The largest number of conversations in the page, 1 to 1000.

        Raises:
            InvalidCursorError: The cursor is not from this query.
            ValueError: The limit is out of range.

        Example:
            for one in (await ConversationRepository(session).latest(user.id, limit=10)).items:
                last = one.last_message
                print(one.conversation.title, "is empty" if last is None else last.content)
        """
        return await history.latest_page(self._sends_tuples, self.session.tenant_id, user_id, after=after, limit=limit)

    async def set_summary(
        self, conversation_id: UUID, summary: str, *, upto_seq: int, expected_upto: int
    ) -> Conversation:
        """Replace the summary of a conversation, unless it was replaced since the caller read it.

        Args:
            conversation_id: The conversation's id.
            summary: The summary.
            upto_seq: The `seq` of the last message that the summary covers.
            expected_upto: The `summary_upto_seq` that the caller read before it began to summarize.

        Raises:
            StaleDataError: Another writer has replaced the summary.
            NotFoundError: The tenant has no such conversation.
            ValueError: `upto_seq` is not a whole number, is not greater than `expected_upto`, or is greater than the
                `seq` of the last message.
        """
        return await conversations.set_summary(
            self.session, conversation_id, summary, upto_seq=upto_seq, expected_upto=expected_upto
        )

    async def delete(self, row_id: UUID, *, hard: bool = False) -> None:
        """Delete a conversation, by default softly; see `Repository.delete`."""
        if hard:
            await super().delete(row_id, hard=True)
        else:
            await conversation_changes.delete(InSession(self.session), row_id)

    async def claim_turn(
        self,
        conversation_id: UUID,
        worker: str,
        *,
        lease: timedelta = turns.LEASE,
        wait_seconds: float | None = None,
    ) -> Turn | None:
        """Claim the turn to answer in a conversation, for the time of a lease.

        Commit, and hold no connection while the language model works. Each claim has a greater token than the one
        before: pass it to `append`, which then fails if another worker has claimed the turn meanwhile. Leases are
        measured with the server's clock. A claim waits for a running transaction that writes under the turn, and that
        time counts towards the lease.

        Args:
            conversation_id: The conversation's id. A closed conversation can still have a question to answer.
            worker: The name of the worker, for operators. It gives no right to the turn: a second claim under the same
                name fails too.
            lease: The duration of the claim, more than zero and at most a day.
            wait_seconds: If another claim holds the turn, try again for this time, at most a day. The session must have
                no transaction and no changes: it holds no connection between two attempts. None and 0 do not wait.

        Returns:
            The turn, or None if another claim holds it and the call does not wait.

        Raises:
            LockNotAvailable: Another claim still held the turn after `wait_seconds`.
            NotFoundError: The tenant has no such conversation.
            ValueError: `worker` is empty, the lease or `wait_seconds` is out of range, or the call has to wait and the
                session has a transaction.

        Example:
            conversations = ConversationRepository(session)
            if turn := await conversations.claim_turn(conversation.id, "worker-1"):
                await session.commit()
                answer = NewMessage(message_id="assistant:7:2", role="assistant", content="Hello, Ada!")
                await MessageHistoryRepository(session).append(conversation.id, answer, turn=turn.token)
                await conversations.release_turn(turn)
        """
        return await turns.claim_in_session(self.session, conversation_id, worker, lease, wait_seconds)

    async def renew_turn(self, turn: Turn, *, lease: timedelta = turns.LEASE) -> Turn:
        """Renew the lease of a turn, counted from now. An expired turn can be renewed until another worker claims it.

        Raises:
            StaleDataError: Another worker has claimed the turn, or the turn was released.
            ValueError: The lease is out of range.
        """
        return await turns.renew_turn(InSession(self.session), turn, lease)

    async def release_turn(self, turn: Turn) -> None:
        """Release a turn before its lease ends. Releasing a released turn does nothing.

        Raises:
            StaleDataError: Another worker has claimed the turn.
        """
        await turns.release_turn(InSession(self.session), turn)

    def _active(self, *of_chat: Condition) -> Select[Any]:
        of_user = (Conversation.user_id == bindparam("user_id"), Conversation.channel == bindparam("channel"))
        return self._select(*of_user, Conversation.is_active, *of_chat)

    def _by_session_id(self) -> Select[Any]:
        return self._select(Conversation.session_id == bindparam("session_id"))

    def _active_in_chat(self) -> Select[Any]:
        return self._active(Conversation.external_chat_id == bindparam("external_chat_id"))

    def _active_in_no_chat(self) -> Select[Any]:
        # A statement of its own, because PostgreSQL uses no index for IS NOT DISTINCT FROM.
        return self._active(Conversation.external_chat_id.is_(None))

    def _first_page(self) -> Select[Any]:
        of_user = self._select(Conversation.user_id == bindparam("user_id"))
        return of_user.order_by(Conversation.id.desc()).limit(bindparam("limit"))
