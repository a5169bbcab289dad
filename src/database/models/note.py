"""Notes of users, and their full-text index."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Unpack
from unicodedata import normalize
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    Column,
    Computed,
    Connection,
    event,
    text,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, Mapper, column_property, mapped_column, relationship, validates

from src.database.base import TenantBase, clean_text, tenant_foreign_key, tenant_index
from src.database.models.limits import NOTE, TITLE

if TYPE_CHECKING:
    from src.database.models.attributes import NoteAttributes
    from src.database.models.user import User

# Letter by letter, so that a text keeps its length: a match in the unaccented text is at the same place in the
# original.
ACCENTED: Final = "ÁÀÂÄÃÅáàâäãåÉÈÊËéèêëÍÌÎÏíìîïÓÒÔÖÕóòôöõÚÙÛÜúùûüÑñÇçÝýÿ"
BARE: Final = "AAAAAAaaaaaaEEEEeeeeIIIIiiiiOOOOOoooooUUUUuuuuNnCcYyy"
# Characters that are not part of a word: punctuation, symbols, spaces, marks without a letter, emoji. They become
# spaces before PostgreSQL's text search parser reads the text. With the locale C the parser treats every non-ASCII
# character as a letter; with any locale it makes one word of an address or a path, and drops `<...>` as a tag. The
# escapes are those that both Python's and PostgreSQL's regular expressions know.
SEPARATORS: Final = (
    r"\u0001-\u001f\u0021-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u00a9\u00ab-\u00b4\u00b6-\u00b9\u00bb-\u00bf\u00d7"
    r"\u00f7\u02c2-\u02c5\u02d2-\u02df\u02e5-\u02eb\u02ed\u02ef-\u02ff\u037e\u0384-\u0385\u0387\u055a-\u055f"
    r"\u0589-\u058f\u05be\u05c0\u05c3\u05c6\u05f3-\u060f\u061b-\u061f\u066a-\u066d\u06d4\u0964-\u0965\u0970\u1680"
    r"\u2000-\u215f\u2189-\u2bff\u2e00-\u2e7f\u3000-\u3004\u3008-\u3020\u3030\u3036-\u3037\u303d-\u303f\u30a0\u30fb"
    r"\u3200-\u33ff\u4dc0-\u4dff\ue000-\uf8ff\ufe00-\ufe19\ufe30-\ufe6f\ufeff-\uff0f\uff1a-\uff20\uff3b-\uff40"
    r"\uff5b-\uff65\uffe0-\uffff\U0001f000-\U0001fbef\U000e0000-\U0010ffff"
)
SEARCH_CONFIGURATIONS: Final = ("simple", "spanish", "english")
_TITLE: Final = "coalesce(title, '')"


MAX_TAGS: Final = 64
MAX_TAG_LENGTH: Final = 64


def clean_tags(tags: Any) -> list[str]:
    """Return the tags in their order, stripped and in NFC, without duplicates and empty ones.

    Raises:
        ValueError: There are more than 64, one is longer than 64 characters, or the value is not a list of strings.
    """
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise ValueError(f"tags must be a list of strings, e.g. ['work'], got {type(tags).__name__}")  # noqa: TRY004
    tags = list(tags)
    if foreign := next((tag for tag in tags if not isinstance(tag, str)), None):
        raise ValueError(f"a tag must be a string, got {type(foreign).__name__}")
    stripped = (clean_text(normalize("NFC", tag)).strip() for tag in tags)
    cleaned = list(dict.fromkeys(tag for tag in stripped if tag))
    if len(cleaned) > MAX_TAGS:
        raise ValueError(f"tags must be at most {MAX_TAGS}, got {len(cleaned)}")
    if longest := max((len(tag) for tag in cleaned if len(tag) > MAX_TAG_LENGTH), default=0):
        raise ValueError(f"a tag must be at most {MAX_TAG_LENGTH} characters, got a tag of {longest}")
    return cleaned


def plain(expression: str) -> str:
    """Return the SQL expression of a text's words without accents, whether the text is in NFC or NFD."""
    words = f"regexp_replace(normalize({expression}, NFC), '[{SEPARATORS}]+', ' ', 'g')"
    return f"translate({words}, '{ACCENTED}', '{BARE}')"


def _words(expression: str) -> str:
    return " || ".join(f"to_tsvector('{name}', {plain(expression)})" for name in SEARCH_CONFIGURATIONS)


class Note(TenantBase):
    """A note of a user.

    PostgreSQL computes ``search``: the unaccented words of the title (weight A) and of the content (weight B). The
    language of a note is unknown, so each word is there in its own form, for prefixes, and with its Spanish and its
    English stem. There is no GIN index: `@@` is not leakproof, so under row-level security the planner cannot use one
    (PostgreSQL 15 to 18). A search reads the notes of one user instead.
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
    if TYPE_CHECKING:
        search: Mapped[str]

    user: Mapped[User] = relationship(back_populates="notes", lazy="raise")

    @validates("tags")
    def _clean_tags(self, _name: str, tags: Iterable[str]) -> list[str]:
        return clean_tags(tags)

    # Excluded from the mapper: with eager_defaults, each statement that writes a note would return the whole vector.
    __mapper_args__ = {"eager_defaults": True, "exclude_properties": ["search"]}  # noqa: RUF012 - SQLAlchemy's own
    if TYPE_CHECKING:

        def __init__(self, **values: Unpack[NoteAttributes]) -> None: ...

    __table_args__ = (
        Column(
            "search",
            TSVECTOR,
            Computed(f"setweight({_words(_TITLE)}, 'A') || setweight({_words('content')}, 'B')", persisted=True),
            nullable=False,
        ),
        tenant_foreign_key("user_id", "users"),
        tenant_foreign_key("source_message_id", "message_history"),
        CheckConstraint("jsonb_typeof(metadata) = 'object'", name="metadata"),
        CheckConstraint(TITLE.sql("title"), name="title"),
        CheckConstraint(NOTE.sql("content"), name="content"),
        CheckConstraint(f"cardinality(tags) <= {MAX_TAGS}", name="tags"),
        # page_for_user, search, and the export of a user's data, deleted notes included.
        tenant_index("ix_notes_user_id", "user_id", "id"),
        # page_for_user(pinned=True).
        tenant_index("ix_notes_pinned", "user_id", where="pinned AND archived_at IS NULL AND deleted_at IS NULL"),
        # archived: the latest first.
        tenant_index("ix_notes_archived_at", "user_id", "archived_at", where="archived_at IS NOT NULL"),
        # The foreign key of source_message_id: removing a message looks for its notes.
        tenant_index("ix_notes_source_message_id", "source_message_id", where="source_message_id IS NOT NULL"),
        # Retention: the rows to purge.
        tenant_index("ix_notes_deleted_at", "deleted_at", where="deleted_at IS NOT NULL"),
    )


Note.search = column_property(type_coerce(Note.__table__.c.search, TSVECTOR), deferred=True, raiseload=True)


@event.listens_for(Note, "before_insert")
@event.listens_for(Note, "before_update")
def _clean_tags_changed_in_place(_mapper: Mapper[Note], _connection: Connection, note: Note) -> None:
    if (tags := note.__dict__.get("tags")) is not None and tags != (cleaned := clean_tags(tags)):
        note.tags = cleaned
