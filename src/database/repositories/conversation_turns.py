"""The turn, as a conversation's repository hands it out."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from src.database.models import Conversation
from src.database.repositories.base import Repository
from src.database.statements import turn_leases
from src.database.statements.turn_leases import LEASE, Turn

__all__ = ["ConversationTurns"]


class ConversationTurns(Repository[Conversation]):
    """Who answers now; no connection is held while the model thinks."""

    model = Conversation

    async def claim_turn(self, conversation_id: UUID, worker: str, *, lease: timedelta = LEASE) -> Turn | None:
        """Take the turn to answer in a conversation, for a while.

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
        return await turn_leases.claim(self.session, conversation_id, worker, lease)

    async def renew_turn(self, turn: Turn, *, lease: timedelta = LEASE) -> Turn:
        """Hold a turn for so long from now on; one that ran out too, as long as nobody else has taken it.

        Raises:
            StaleDataError: Another worker has taken it, or it was released.
            ValueError: The lease is not more than zero and at most a day.
        """
        return await turn_leases.renew(self.session, turn, lease)

    async def release_turn(self, turn: Turn) -> None:
        """Give a turn back before its lease runs out; a second time it does nothing.

        Raises:
            StaleDataError: Another worker has taken it.
        """
        await turn_leases.release(self.session, turn)
