"""A tenant's rows, in batches each of which can be committed alone: a conversation comes with all its messages."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final, TypeAlias
from uuid import UUID

from src.database.base import TenantBase
from src.database.cli.seed.agenda import agenda
from src.database.cli.seed.dice import Dice
from src.database.cli.seed.jottings import jottings
from src.database.cli.seed.people import make_person
from src.database.cli.seed.recipe import Recipe, Share, allot
from src.database.cli.seed.talks import Talk, talks
from src.database.models import Conversation, Event, MessageHistory, Note, User

__all__ = ["TABLES", "Batch", "batches"]

Batch: TypeAlias = dict[type[TenantBase], list[dict[str, Any]]]

TABLES: Final = (User, Conversation, MessageHistory, Event, Note)
"""In the order in which they refer to each other."""
ROWS_A_BATCH: Final = 5000
SOURCES: Final = 20
"""How many of a person's last messages a note may come from."""


def batches(recipe: Recipe, share: Share) -> Iterator[Batch]:
    """Go through a tenant's rows in constant memory."""
    batch = _empty()
    for piece in _pieces(recipe, share):
        for model, rows in piece.items():
            batch[model] += rows
        if sum(map(len, batch.values())) >= ROWS_A_BATCH:
            yield batch
            batch = _empty()
    if any(batch.values()):
        yield batch


def _pieces(recipe: Recipe, share: Share) -> Iterator[Batch]:
    """Go through what belongs together, in an order in which nothing refers to what is yet to come."""
    dice = Dice(f"{recipe.number}/{share.number}/messages")
    talkative = [dice.amount(1.0, 1.2, 50.0) for _ in range(share.users)]
    for number, messages in enumerate(allot(share.messages, talkative), start=1):
        own = Dice(f"{recipe.number}/{share.number}/{number}")  # so that no user's rows depend on another's
        person = make_person(share, number, own, recipe.until)
        yield {User: [person.row], Event: list(agenda(person, own, recipe.until))}
        sources: list[tuple[UUID, datetime]] = []
        for talk in talks(person, messages, own):
            yield {Conversation: [talk.conversation], MessageHistory: talk.messages}
            sources = [*sources, *_asked(talk)][-SOURCES:]
        yield {Note: list(jottings(person, sources, own, recipe.until))}


def _asked(talk: Talk) -> Iterator[tuple[UUID, datetime]]:
    return ((row["id"], row["created_at"]) for row in talk.messages if row["role"] == "user" and not row["deleted_at"])


def _empty() -> Batch:
    return {model: [] for model in TABLES}
