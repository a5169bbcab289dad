"""Conversations: at most one is active for a user, a channel and a chat."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.dialects.postgresql import insert

from src.database.base import check_aware, utc_now, uuid7
from src.database.models import Conversation
from src.database.repositories.base import Repository

__all__ = ["ConversationRepository"]


class ConversationRepository(Repository[Conversation]):
    """The conversations of the acting tenant."""

    model = Conversation

    async def get_active(self, user_id: UUID, channel: str, external_chat_id: str | None = None) -> Conversation | None:
        """Return the active conversation of a user in a chat, or None."""
        statement = self._select(
            Conversation.user_id == user_id,
            Conversation.channel == channel,
            Conversation.external_chat_id.is_not_distinct_from(external_chat_id),
            Conversation.is_active,
        )
        found: Conversation | None = await self.session.scalar(statement)
        return found

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
            now: The time to measure the idleness by, for history that is imported; by default the present.

        Returns:
            The conversation, and whether this call started it.

        Raises:
            ForeignKeyError: This tenant has no such user.
        """
        now = now or utc_now()
        check_aware("now", now)
        while True:  # a further round only where another call closed what this one found
            found = await self.get_active(user_id, channel, external_chat_id)
            if found is not None and _is_idle(found, idle_timeout, now):
                found = await self._close_if_idle(found.id, idle_timeout, now)
            if found is not None:
                return found, False
            started: Conversation | None = await self.session.scalar(
                insert(Conversation)
                .values(
                    tenant_id=self.session.tenant_id,
                    user_id=user_id,
                    channel=channel,
                    external_chat_id=external_chat_id,
                    session_id=str(uuid7()),
                )
                .on_conflict_do_nothing(
                    index_elements=["tenant_id", "user_id", "channel", "external_chat_id"],
                    index_where=Conversation.is_active & Conversation.deleted_at.is_(None),
                )
                .returning(Conversation)
            )
            if started is not None:
                return started, True

    async def _close_if_idle(
        self, conversation_id: UUID, idle_timeout: timedelta | None, now: datetime
    ) -> Conversation | None:
        """Look again under the row's lock: another call may have appended to it, or closed it, meanwhile."""
        locked: Conversation | None = await self.session.scalar(
            self._select(Conversation.id == conversation_id, Conversation.is_active)
            .with_for_update()
            .execution_options(populate_existing=True)
        )
        if locked is None or not _is_idle(locked, idle_timeout, now):
            return locked
        locked.is_active = False
        locked.closed_at = now
        locked.close_reason = "idle"
        await self.session.flush()
        return None


def _is_idle(conversation: Conversation, idle_timeout: timedelta | None, now: datetime) -> bool:
    last = conversation.last_message_at or conversation.created_at
    return idle_timeout is not None and now - last > idle_timeout
