"""Conversations: at most one is active for a user, a channel and a chat."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Select, bindparam

from src.database.models import Conversation
from src.database.repositories.base import Condition, Repository
from src.database.statements import InSession, Page, Turn, conversations

_OF_METHODS: Final[Mapping[str, str]] = (
    {"last_seq": "`append` counts"}
    | dict.fromkeys(("summary", "summary_upto_seq"), "use `set_summary`")
    | dict.fromkeys(("turn_token", "turn_claimed_by", "turn_claimed_until"), "use `claim_turn`")
)


class ConversationRepository(Repository[Conversation]):
    """The conversations of the current tenant. A worker that answers holds the turn, and no connection meanwhile."""

    model = Conversation

    async def update(self, row_id: UUID, /, **values: Any) -> Conversation:
        """Change attributes of a conversation, as `Repository.update` does; it stays its user's.

        Raises:
            NotFoundError: This tenant has none.
            ValueError: An attribute is unknown, never changes, or has a method of its own.
        """
        if "user_id" in values:
            raise ValueError("Conversation.user_id cannot be set: it never changes")
        return await super().update(row_id, **values)

    def _check_attributes(self, values: Mapping[str, Any]) -> None:
        super()._check_attributes(values)
        for name in values:
            if name in _OF_METHODS:
                raise ValueError(f"Conversation.{name} cannot be set: {_OF_METHODS[name]}")

    async def get_by_session_id(self, session_id: str) -> Conversation | None:
        """Return the conversation with this session id, closed ones too, or None."""
        found: Conversation | None = await self.session.scalar(self._select(Conversation.session_id == session_id))
        return found

    async def get_active(self, user_id: UUID, channel: str, external_chat_id: str | None = None) -> Conversation | None:
        """Return the active conversation of a user in a chat, or None."""
        chat: dict[str, Any] = {"user_id": user_id, "channel": channel}
        # As it is now: an idleness that an earlier look found may be over.
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
        """Return the active conversation of a user in a chat, started where there is none; any number may ask.

        Args:
            user_id: Whose.
            channel: Where, e.g. `telegram`.
            external_chat_id: The chat's id there; None is one chat too.
            idle_timeout: After so long without a message the conversation is closed and another one started.
            now: The time to measure the idleness by, for history that is imported; by default the server's present.

        Returns:
            The conversation, and whether this call started it.

        Raises:
            ForeignKeyError: This tenant has no such user, or a deleted one, to start a conversation for.
            ValueError: The timeout is negative, or `now` is naive or too early.
        """
        return await conversations.get_or_start_conversation(
            InSession(self.session), user_id, channel, external_chat_id, idle_timeout=idle_timeout, now=now
        )

    async def close(self, conversation_id: UUID, *, reason: str | None = None) -> Conversation:
        """Close a conversation; one that is closed stays as it was closed. It still takes messages on their way.

        Raises:
            NotFoundError: This tenant has no such conversation.
        """
        return await conversations.close(self.session, conversation_id, reason) or await self.get(conversation_id)

    async def close_stale(
        self, idle_for: timedelta, *, limit: int = 100, now: datetime | None = None
    ) -> list[Conversation]:
        """Close conversations without a message for so long, a batch of them; call it, and commit, until none is left.

        What another worker closes, or what is being appended to, is passed over.

        Args:
            idle_for: For how long nothing was said, at least.
            limit: At most so many.
            now: The time to measure the idleness by; by default the present, by the server's clock.

        Returns:
            The conversations that this call closed, the longest idle first.

        Raises:
            ValueError: `idle_for` is negative, the limit is not from 1 to 1000, or `now` is naive or too early.
        """
        return await conversations.close_stale(self.session, idle_for, limit=limit, now=now)

    async def page_for_user(self, user_id: UUID, *, after: str | None = None, limit: int = 50) -> Page[Conversation]:
        """Return one page of a user's conversations, open and closed, newest first; as `page` does otherwise."""
        if after is None:
            return await self._newest_page(ConversationRepository._first_page, limit, user_id=user_id)
        return await self.page(Conversation.user_id == user_id, after=after, limit=limit, descending=True)

    async def set_summary(
        self, conversation_id: UUID, summary: str, *, upto_seq: int, expected_upto: int
    ) -> Conversation:
        """Replace the summary, unless another writer has done so since this one read it.

        Args:
            conversation_id: Of which conversation.
            summary: What was said so far.
            upto_seq: The last message that it covers.
            expected_upto: `summary_upto_seq` as it was when the work on this summary began.

        Raises:
            StaleDataError: Another writer was faster.
            NotFoundError: This tenant has no such conversation.
            ValueError: `upto_seq` does not go beyond `expected_upto`, goes beyond the last message, or is not whole.
        """
        return await conversations.set_summary(
            self.session, conversation_id, summary, upto_seq=upto_seq, expected_upto=expected_upto
        )

    async def claim_turn(
        self, conversation_id: UUID, worker: str, *, lease: timedelta = conversations.LEASE
    ) -> Turn | None:
        """Claim the turn to answer in a conversation, for a while.

        Commit, and hold no connection while the model thinks. Each claim has a greater token than the one before:
        append the answer with it, and who comes back after another worker took the turn is refused there. Time is the
        server's. A claim waits for a write under the turn that is under way, and its lease is shorter by as much.

        Args:
            conversation_id: Which conversation; a closed one may still have to be answered.
            worker: Who answers, for people to read: the same name does not get the turn twice.
            lease: For how long, at most a day.

        Returns:
            The turn, or None: it is held, and its lease has not run out.

        Raises:
            NotFoundError: This tenant has no such conversation.
            ValueError: The worker has no name, or the lease is not more than zero and at most a day.
        """
        return await conversations.claim_turn(self.session, conversation_id, worker, lease)

    async def renew_turn(self, turn: Turn, *, lease: timedelta = conversations.LEASE) -> Turn:
        """Prolong a turn from now on; one that ran out too, unless another worker has claimed it.

        Raises:
            StaleDataError: Another worker has taken it, or it was released.
            ValueError: The lease is not more than zero and at most a day.
        """
        return await conversations.renew_turn(self.session, turn, lease)

    async def release_turn(self, turn: Turn) -> None:
        """Release a turn before its lease runs out; a second call does nothing.

        Raises:
            StaleDataError: Another worker has taken it.
        """
        await conversations.release_turn(self.session, turn)

    def _active(self, *of_chat: Condition) -> Select[Any]:
        of_user = (Conversation.user_id == bindparam("user_id"), Conversation.channel == bindparam("channel"))
        return self._select(*of_user, Conversation.is_active, *of_chat)

    def _active_in_chat(self) -> Select[Any]:
        return self._active(Conversation.external_chat_id == bindparam("external_chat_id"))

    def _active_in_no_chat(self) -> Select[Any]:  # of its own: IS NOT DISTINCT FROM uses no index
        return self._active(Conversation.external_chat_id.is_(None))

    def _first_page(self) -> Select[Any]:
        of_user = self._select(Conversation.user_id == bindparam("user_id"))
        return of_user.order_by(Conversation.id.desc()).limit(bindparam("limit"))
