"""What users asked to be kept."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Final
from unicodedata import normalize
from uuid import UUID

from sqlalchemy import CheckConstraint, Computed, ForeignKeyConstraint, Index, text
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column, relationship, validates

from src.database.base import TenantBase, clean_text

if TYPE_CHECKING:
    from src.database.models.user import User

__all__ = ["Note"]


# Each with its bare letter at the same place below: a text keeps its length, so a match is where it was. With the
# locale C the server takes what is not ASCII for letters: the signs that stand right beside words become spaces.
ACCENTED: Final = "ÁÀÂÄÃÅáàâäãåÉÈÊËéèêëÍÌÎÏíìîïÓÒÔÖÕóòôöõÚÙÛÜúùûüÑñÇçÝýÿ¿¡«»“”‘’‹›„‚—–…·"  # noqa: RUF001 - those very signs
BARE: Final = f"AAAAAAaaaaaaEEEEeeeeIIIIiiiiOOOOOoooooUUUUuuuuNnCcYyy{' ' * 16}"
SEARCH_CONFIGURATIONS: Final = ("simple", "spanish", "english")
_TITLE: Final = "coalesce(title, '')"


MAX_TAGS: Final = 64
MAX_TAG_LENGTH: Final = 64


def clean_tags(tags: Iterable[str]) -> list[str]:
    """Return tags in their order, stripped and composed (NFC), each once, without those that are empty.

    Raises:
        ValueError: They are more than 64, one is longer than 64 characters, or they are no list of texts.
    """
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise ValueError(f"tags must be a list of texts, e.g. ['work'], got {type(tags).__name__}")  # noqa: TRY004
    stripped = (clean_text(normalize("NFC", tag)).strip() for tag in tags)
    cleaned = list(dict.fromkeys(tag for tag in stripped if tag))
    if len(cleaned) > MAX_TAGS:
        raise ValueError(f"tags must be at most {MAX_TAGS}, got {len(cleaned)}")
    if longest := max((len(tag) for tag in cleaned if len(tag) > MAX_TAG_LENGTH), default=0):
        raise ValueError(f"a tag must be at most {MAX_TAG_LENGTH} characters, got one of {longest}")
    return cleaned


def without_accents(expression: str) -> str:
    """Return SQL for a text without its accents, however they are encoded."""
    return f"translate(normalize({expression}, NFC), '{ACCENTED}', '{BARE}')"


def _words(expression: str) -> str:
    return " || ".join(f"to_tsvector('{name}', {without_accents(expression)})" for name in SEARCH_CONFIGURATIONS)


class Note(TenantBase):
    """A note of a user. ``search`` is the server's: the words of title (weight A) and content (weight B), unaccented.

    It holds each word as it is, for prefixes, and its Spanish and its English stem, because a note does not say its
    language. No GIN index serves it: under row-level security the planner could not use one, so a search is narrowed
    to its user first.
    """

    __tablename__ = "notes"

    user_id: Mapped[UUID]
    title: Mapped[str | None]
    content: Mapped[str]
    tags: Mapped[list[str]] = mapped_column(default=list, server_default=text("'{}'::text[]"))
    pinned: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    archived_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    source_message_id: Mapped[UUID | None]
    search: Mapped[str] = mapped_column(
        TSVECTOR,
        Computed(f"setweight({_words(_TITLE)}, 'A') || setweight({_words('content')}, 'B')", persisted=True),
        deferred=True,
        deferred_raiseload=True,
    )

    user: Mapped[User] = relationship(back_populates="notes", lazy="raise")

    @validates("tags")
    def _clean_tags(self, _name: str, tags: Iterable[str]) -> list[str]:
        return clean_tags(tags)

    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "user_id"], ["users.tenant_id", "users.id"]),
        ForeignKeyConstraint(["tenant_id", "source_message_id"], ["message_history.tenant_id", "message_history.id"]),
        CheckConstraint("jsonb_typeof(metadata) = 'object'", name="metadata"),
        CheckConstraint("length(title) BETWEEN 1 AND 500", name="title"),
        CheckConstraint("length(content) BETWEEN 1 AND 100000", name="content"),
        CheckConstraint("cardinality(tags) <= 64", name="tags"),
        # A user's notes, newest first, and deleted ones for his export; search is narrowed by it.
        Index("ix_notes_user_id", "tenant_id", "user_id", "id"),
        # The pinned ones stand on top.
        Index(
            "ix_notes_pinned",
            "tenant_id",
            "user_id",
            postgresql_where=text("pinned AND archived_at IS NULL AND deleted_at IS NULL"),
        ),
        # The archive, by when.
        Index(
            "ix_notes_archived_at",
            "tenant_id",
            "user_id",
            "archived_at",
            postgresql_where=text("archived_at IS NOT NULL"),
        ),
        # Which notes a message led to.
        Index(
            "ix_notes_source_message_id",
            "tenant_id",
            "source_message_id",
            postgresql_where=text("source_message_id IS NOT NULL"),
        ),
        # What retention may purge.
        Index("ix_notes_deleted_at", "tenant_id", "deleted_at", postgresql_where=text("deleted_at IS NOT NULL")),
    )
