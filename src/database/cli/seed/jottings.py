"""Made-up notes: tagged, pinned, archived, some of them from a message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from src.database.cli.seed.dice import Dice
from src.database.cli.seed.people import Person
from src.database.cli.seed.phrases import said

__all__ = ["jottings"]


def jottings(
    person: Person, sources: Sequence[tuple[UUID, datetime]], dice: Dice, until: datetime
) -> Iterator[dict[str, Any]]:
    """Go through a person's notes.

    Args:
        person: Whose.
        sources: Messages that a note may come from, and when they were said.
        dice: Chance.
        until: The present of the made-up world.
    """
    language = person.language
    for _ in range(int(dice.amount(6, 0.8, 200))):
        source, at = dice.pick(sources) if sources and dice.happens(0.3) else (None, None)
        written = at or dice.between(person.joined, person.last_seen)
        put_away = dice.between(written, person.left or until)
        archived_at = put_away if dice.happens(0.15) else None
        deleted_at = put_away if archived_at is None and dice.happens(0.05) else None
        yield {
            "id": dice.id(written),
            "user_id": person.id,
            "title": said(dice, language, language.notes) if dice.happens(0.8) else None,
            "content": said(dice, language, language.asks + language.notes, dice.amount(120, 1.0, 4000)),
            "tags": sorted({dice.pick(language.tags) for _ in range(int(dice.random() * 4))}),
            "pinned": archived_at is None and dice.happens(0.08),
            "archived_at": archived_at,
            "deleted_at": deleted_at,
            "source_message_id": source,
            "created_at": written,
            "updated_at": archived_at or deleted_at or written,
        }
