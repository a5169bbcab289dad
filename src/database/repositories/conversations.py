"""Conversations: at most one is active for a user, a channel and a chat."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import CTE, ColumnElement, Interval, Select, bindparam, func, literal, select, update

from src.database.base import UtcDateTime
from src.database.errors import NotFoundError, StaleDataError
from src.database.models import Conversation
from src.database.pagination import MAX_LIMIT, Page, check_limit
from src.database.repositories.base import Condition
from src.database.repositories.conversation_turns import ConversationTurns
from src.database.statements.conversations import check_silence, get_or_start_conversation
from src.database.statements.in_session import InSession
from src.database.statements.turn_leases import Turn, is_there, statement_time

__all__ = ["ConversationRepository", "Turn"]

MAX_SEQ: Final = 2**63 - 1
IDLE: Final = "idle"
_OF_METHODS: Final[Mapping[str, str]] = (
    {"last_seq": "`append` counts"}
    | dict.fromkeys(("summary", "summary_upto_seq"), "use `set_summary`")
    | dict.fromkeys(("turn_token", "turn_claimed_by", "turn_claimed_until"), "use `claim_turn`")
)


class ConversationRepository(ConversationTurns):
    """The conversations of the acting tenant."""

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
        if external_chat_id is None:
            return await self._first(ConversationRepository._active_in_no_chat, refresh=True, **chat)
        return await self._first(
            ConversationRepository._active_in_chat, refresh=True, **chat, external_chat_id=external_chat_id
        )

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
        return await get_or_start_conversation(
            InSession(self.session), user_id, channel, external_chat_id, idle_timeout=idle_timeout, now=now
        )

    async def close(self, conversation_id: UUID, *, reason: str | None = None) -> Conversation:
        """Close a conversation; one that is closed stays as it was closed. It still takes messages on their way.

        Raises:
            NotFoundError: This tenant has no such conversation.
        """
        closed = await self._close(conversation_id, reason, statement_time())
        return closed or await self.get(conversation_id)

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
        check_limit(limit)
        check_silence("idle_for", idle_for, now)
        at = statement_time() if now is None else literal(now, UtcDateTime())
        idle = self._idle(at - literal(idle_for, Interval()), limit)
        closed = await self.session.scalars(
            update(Conversation)
            .where(Conversation.tenant_id == self.session.tenant_id, Conversation.id == idle.c.id)
            .values(is_active=False, closed_at=at, close_reason=IDLE)
            .returning(Conversation)
            .execution_options(populate_existing=True, synchronize_session=False)
        )
        return sorted(closed, key=lambda one: (one.last_message_at or one.created_at, one.id))

    async def page_for_user(self, user_id: UUID, *, after: str | None = None, limit: int = 50) -> Page[Conversation]:
        """Return one page of a user's conversations, open and closed, newest first; as `page` does otherwise."""
        if after is None:
            return await self._page_of(ConversationRepository._first_page, limit, user_id=user_id)
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
        for name, number in (("upto_seq", upto_seq), ("expected_upto", expected_upto)):
            if type(number) is not int or number > MAX_SEQ:
                raise ValueError(f"{name} must be at most 2^63 - 1, and whole, got {number!r}")
        if not 0 <= expected_upto < upto_seq:
            raise ValueError(
                f"upto_seq must be greater than expected_upto, got {upto_seq} after {expected_upto};"
                " a summary only ever moves forward"
            )
        written: Conversation | None = await self.session.scalar(
            update(Conversation)
            .where(
                *is_there(self.session, conversation_id),
                Conversation.summary_upto_seq == expected_upto,
                Conversation.last_seq >= upto_seq,
            )
            .values(summary=summary, summary_upto_seq=upto_seq)
            .returning(Conversation)
            .execution_options(populate_existing=True, synchronize_session=False)
        )
        return written or await self._refuse_summary(conversation_id, upto_seq, expected_upto)

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

    def _idle(self, since: ColumnElement[datetime], limit: int) -> CTE:
        """Lock some that have been silent since then, the longest silent first.

        Those are the first of the active ones by ix_conversations_idle, and no more of it is read: the planner takes
        COALESCE for leaky and, under row-level security, compares it with nothing inside of an index. How far it reads
        leaves room for what other workers hold.
        """
        active = (
            Conversation.tenant_id == self.session.tenant_id,
            Conversation.is_active,
            Conversation.deleted_at.is_(None),
        )
        first = select(Conversation.tenant_id, Conversation.id, _last_active().label("since")).where(*active)
        oldest = first.order_by(_last_active()).limit(limit + MAX_LIMIT).subquery("oldest")
        return (
            select(Conversation.id)
            .join(oldest, (oldest.c.tenant_id == Conversation.tenant_id) & (oldest.c.id == Conversation.id))
            .where(*active, oldest.c.since < since, _last_active() < since)  # once more as it is under its lock
            .order_by(oldest.c.since)
            .limit(limit)
            .with_for_update(skip_locked=True, of=Conversation)
            # Once: inside `IN (…)` the planner may run it again for each row, and the limit with it.
            .cte("idle")
            .prefix_with("MATERIALIZED")
        )

    async def _close(
        self, conversation_id: UUID, reason: str | None, at: datetime | ColumnElement[datetime], *where: Condition
    ) -> Conversation | None:
        """Close a conversation that is active and, as it is under its lock, satisfies the conditions."""
        closed: Conversation | None = await self.session.scalar(
            update(Conversation)
            .where(*is_there(self.session, conversation_id), Conversation.is_active, *where)
            .values(is_active=False, closed_at=at, close_reason=reason)
            .returning(Conversation)
            .execution_options(populate_existing=True, synchronize_session=False)
        )
        return closed

    async def _refuse_summary(self, conversation_id: UUID, upto_seq: int, expected_upto: int) -> Conversation:
        """Say why, and leave in the session what there is now: the caller reads it there, and begins again."""
        there = self._select(Conversation.id == conversation_id).execution_options(populate_existing=True)
        row: Conversation | None = await self.session.scalar(there)
        if row is None:
            raise NotFoundError(f"this tenant has no Conversation with id {conversation_id}")
        if row.summary_upto_seq == expected_upto and upto_seq > row.last_seq:
            raise ValueError(f"upto_seq must be at most the conversation's last_seq, {row.last_seq}, got {upto_seq}")
        raise StaleDataError(
            f"the summary of conversation {conversation_id} goes up to {row.summary_upto_seq}, not {expected_upto}",
            hint="another writer was faster; read the conversation again, and summarise from there",
        )


def _last_active() -> ColumnElement[datetime]:
    return func.coalesce(Conversation.last_message_at, Conversation.created_at)  # as ix_conversations_idle has it
