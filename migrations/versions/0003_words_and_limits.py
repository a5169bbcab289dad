"""Words of notes by themselves, whatever stands beside them; a limit to what is indexed of calls and calendars.

Revision ID: 0003
Revises: 0002
Create Date: 2026-11-22
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0003"
down_revision: str | Sequence[str] | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

LIMITS: Final = (("events", "ical_uid"), ("message_history", "tool_call_id"))

_ACCENTED, _BARE = (
    "ÁÀÂÄÃÅáàâäãåÉÈÊËéèêëÍÌÎÏíìîïÓÒÔÖÕóòôöõÚÙÛÜúùûüÑñÇçÝýÿ",
    "AAAAAAaaaaaaEEEEeeeeIIIIiiiiOOOOOoooooUUUUuuuuNnCcYyy",
)
_OLD_ACCENTED = f"{_ACCENTED}¿¡«»“”‘’‹›„‚—–…·"  # noqa: RUF001 - those very signs
_OLD_BARE = f"{_BARE}{' ' * 16}"
_SEPARATORS = (
    r"\u0001-\u001f\u0021-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u00a9\u00ab-\u00b4\u00b6-\u00b9\u00bb-\u00bf\u00d7"
    r"\u00f7\u02c2-\u02c5\u02d2-\u02df\u02e5-\u02eb\u02ed\u02ef-\u02ff\u037e\u0384-\u0385\u0387\u055a-\u055f"
    r"\u0589-\u058f\u05be\u05c0\u05c3\u05c6\u05f3-\u060f\u061b-\u061f\u066a-\u066d\u06d4\u0964-\u0965\u0970\u1680"
    r"\u2000-\u215f\u2189-\u2bff\u2e00-\u2e7f\u3000-\u3004\u3008-\u3020\u3030\u3036-\u3037\u303d-\u303f\u30a0\u30fb"
    r"\u3200-\u33ff\u4dc0-\u4dff\ue000-\uf8ff\ufe00-\ufe19\ufe30-\ufe6f\ufeff-\uff0f\uff1a-\uff20\uff3b-\uff40"
    r"\uff5b-\uff65\uffe0-\uffff\U0001f000-\U0001fbef\U000e0000-\U0010ffff"
)
_WORDS = f"translate(regexp_replace(normalize({{0}}, NFC), '[{_SEPARATORS}]+', ' ', 'g'), '{_ACCENTED}', '{_BARE}')"
_OLD_WORDS = f"translate(normalize({{0}}, NFC), '{_OLD_ACCENTED}', '{_OLD_BARE}')"


def upgrade() -> None:
    _replace_search(_WORDS)
    # Not valid at first, so that no lock that stops writers is held while the rows are read. Begun again, it goes on.
    for table, column in LIMITS:
        name = f"ck_{table}_{column}"
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}")
        op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK (length({column}) <= 255) NOT VALID")
    with op.get_context().autocommit_block():
        for table, column in LIMITS:
            op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT ck_{table}_{column}")


def downgrade() -> None:
    for table, column in LIMITS:
        op.drop_constraint(op.f(f"ck_{table}_{column}"), table)
    _replace_search(_OLD_WORDS)


def _replace_search(words: str) -> None:
    """Have the server make it anew: before PostgreSQL 17 a generated column's expression cannot be changed."""
    title, content = (
        " || ".join(f"to_tsvector('{name}', {words.format(text)})" for name in ("simple", "spanish", "english"))
        for text in ("coalesce(title, '')", "content")
    )
    op.drop_column("notes", "search")
    computed = sa.Computed(f"setweight({title}, 'A') || setweight({content}, 'B')", persisted=True)
    op.add_column("notes", sa.Column("search", postgresql.TSVECTOR(), computed, nullable=False))
