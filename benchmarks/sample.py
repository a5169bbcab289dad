"""The rows that the operations are called with, chosen at random from many tenants or from one."""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid4

from pydantic import TypeAdapter

from benchmarks.contenders.base import Incoming, Place

__all__ = ["Rows", "Sample"]

SESSIONS: Final = 8
NEW_IN: Final = 10
"""One in so many of the users and conversations to get or create does not exist yet."""
_CONTENT: Final = "A message of some length, as people write them, and answers are longer still: "

_run: Final = uuid4().hex[:8]
_number: Final = itertools.count()


@dataclass(frozen=True, slots=True)
class Rows:
    """Keys of existing rows, each with its tenant first."""

    people: list[tuple[UUID, UUID, int, str]]
    """Tenant, user, Telegram id, and the external id of an active chat."""
    conversations: list[tuple[UUID, UUID]]
    """Conversations of fifty messages or more."""
    long_conversations: list[tuple[UUID, UUID]]
    searchers: list[tuple[UUID, UUID]]
    """Users with many notes."""
    hot: tuple[UUID, UUID]
    """The conversation into which all callers write."""
    exporter: tuple[UUID, UUID]
    """The user whose messages are streamed."""
    long: int
    """Messages of each long conversation."""
    exported: int
    """Messages of the exporter."""
    bulk: int
    """Messages of one bulk insert."""

    def telegram_id(self) -> tuple[UUID, int]:
        """Return a tenant and a Telegram id of it."""
        tenant_id, _, telegram_id, _ = random.choice(self.people)
        return tenant_id, telegram_id

    def telegram_id_or_new(self) -> tuple[UUID, int]:
        """Return a tenant and a Telegram id, one in ten of them new."""
        tenant_id, telegram_id = self.telegram_id()
        return tenant_id, telegram_id if random.randrange(NEW_IN) else _new_id()

    def user(self) -> tuple[UUID, UUID]:
        """Return a tenant and a user of it."""
        return random.choice(self.people)[:2]

    def session(self) -> tuple[UUID, UUID]:
        """Return a tenant and a user of it who has a session of an agent SDK; few, so that the warm-up fills them."""
        return random.choice(self.people[:SESSIONS])[:2]

    def chat(self) -> tuple[UUID, int, str]:
        """Return a tenant, a Telegram id of it, and the chat of that user."""
        tenant_id, _, telegram_id, chat = random.choice(self.people)
        return tenant_id, telegram_id, chat

    def chat_or_new(self) -> tuple[UUID, UUID, str]:
        """Return a tenant, a user of it, and a chat of that user, one in ten of them new."""
        tenant_id, user_id, _, chat = random.choice(self.people)
        return tenant_id, user_id, chat if random.randrange(NEW_IN) else str(_new_id())

    def conversation(self) -> tuple[UUID, UUID]:
        """Return a tenant and a conversation of it."""
        return random.choice(self.conversations)

    def long_conversation(self) -> tuple[UUID, UUID]:
        """Return a tenant and a conversation of it that is read page by page."""
        return random.choice(self.long_conversations)

    def searcher(self) -> tuple[UUID, UUID]:
        """Return a tenant and a user of it who has many notes."""
        return random.choice(self.searchers)

    @staticmethod
    def either(*values: str) -> str:
        """Return one of the values."""
        return random.choice(values)

    @staticmethod
    def message(role: str = "user") -> Incoming:
        """Return a message whose key no other one has."""
        number = next(_number)
        return Incoming(f"bench:{_run}:{number}", role, f"{_CONTENT}{number}", 15, datetime.now(UTC))


def _new_id() -> int:
    return time.time_ns() * 1000 % 2**62 + random.randrange(1000)


@dataclass(frozen=True, slots=True)
class Sample:
    """The database of a contender and the rows for it; sent to the contender's process as JSON."""

    place: Place
    mixed: Rows
    """Rows of all tenants."""
    one: Rows
    """As many rows of one tenant."""

    def rows(self, tenants: str) -> Rows:
        """Return the rows of "mixed" tenants, or of "one"."""
        return self.one if tenants == "one" else self.mixed

    def as_json(self) -> bytes:
        """Return the sample on one line."""
        return _ADAPTER.dump_json(self)

    @staticmethod
    def from_json(line: str) -> Sample:
        """Return the sample that `as_json` wrote."""
        return _ADAPTER.validate_json(line)


_ADAPTER: Final = TypeAdapter(Sample)
