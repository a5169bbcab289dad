"""Which rows are asked for: a tenant's among many, and a few people who have much."""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

from benchmarks.contenders.base import Place, Said

__all__ = ["Sample"]

NEW_IN: Final = 10
"""One in so many of those who are looked for or made is new."""
_CONTENT: Final = "A message of some length, as people write them, and answers are longer still: "

_run: Final = uuid4().hex[:8]
_number: Final = itertools.count()


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of one tenant to choose from, at random; made by the loader, and sent to the processes as JSON."""

    host: str
    database: str
    peer: str
    tenant_id: str
    people: list[tuple[str, int, str]]
    """Each with his id, his Telegram id and the chat of an active conversation."""
    conversations: list[str]
    long_conversations: list[str]
    hot_conversation: str
    long: int
    """How many messages a long conversation has."""
    exporting_user: str
    exported: int
    """How many messages that user has."""
    searchers: list[str]
    bulk: int

    @property
    def place(self) -> Place:
        """Where a peer connects to."""
        return Place(self.host, self.database, self.peer, UUID(self.tenant_id))

    def as_json(self) -> dict[str, Any]:
        """Return it as it is sent."""
        return asdict(self)

    def telegram_id(self) -> int:
        """Choose somebody."""
        return random.choice(self.people)[1]

    def telegram_id_or_new(self) -> int:
        """Choose somebody, or think of one who is not there yet."""
        if random.randrange(NEW_IN):
            return self.telegram_id()
        return time.time_ns() * 1000 % 2**62 + random.randrange(1000)

    def user(self) -> UUID:
        """Choose somebody by his key."""
        return UUID(random.choice(self.people)[0])

    def chat(self) -> tuple[int, str]:
        """Choose somebody and the chat in which he talks."""
        _, telegram_id, chat = random.choice(self.people)
        return telegram_id, chat

    def conversation(self) -> UUID:
        """Choose a conversation of fifty messages or more."""
        return UUID(random.choice(self.conversations))

    def long_conversation(self) -> UUID:
        """Choose one that is read page by page."""
        return UUID(random.choice(self.long_conversations))

    @property
    def hot_conversation_id(self) -> UUID:
        """The one into which all write."""
        return UUID(self.hot_conversation)

    @property
    def exporting_user_id(self) -> UUID:
        """Whoever asks for all of his messages."""
        return UUID(self.exporting_user)

    def searcher(self) -> UUID:
        """Choose somebody who has many notes."""
        return UUID(random.choice(self.searchers))

    @staticmethod
    def coin() -> bool:
        """Toss it."""
        return random.random() < 0.5

    @staticmethod
    def said(role: str = "user") -> Said:
        """Say something that nobody has said before."""
        number = next(_number)
        return Said(f"bench:{_run}:{number}", role, f"{_CONTENT}{number}", 15, datetime.now(UTC))
