"""Notes, from outside."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from src.database.schemas.base import NOT_GIVEN, CreateInput, UpdateInput
from src.database.schemas.fields import CLEAN, Boolean, JsonObject, RowId, Text

__all__ = ["NoteCreate", "NoteUpdate"]

Title = Annotated[str, Field(strict=True, min_length=1, max_length=500), CLEAN]
Content = Annotated[str, Field(strict=True, min_length=1, max_length=100_000), CLEAN]
Tags = Annotated[list[Text], Field(max_length=64)]


class NoteCreate(CreateInput):
    """A note to keep."""

    user_id: RowId
    title: Title | None = None
    content: Content
    tags: Tags = Field(default_factory=list)
    pinned: Boolean = False
    source_message_id: RowId | None = None
    extra: JsonObject = Field(default_factory=dict)


class NoteUpdate(UpdateInput):
    """What changes of a note; `tags` and `extra` are replaced as a whole."""

    title: Title | None = NOT_GIVEN
    content: Content = NOT_GIVEN
    tags: Tags = NOT_GIVEN
    pinned: Boolean = NOT_GIVEN
    extra: JsonObject = NOT_GIVEN
