"""app_append_message and app_append_messages compare the last number of the conversation with the caller's.

The new parameter has a default: the calls of the previous release keep their meaning. A function with another list of
parameters is another function for PostgreSQL, so the old ones are dropped in the same transaction.

Revision ID: 0009
Revises: 0008
Create Date: 2026-11-30
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from src.database.migrate.operations import create_functions, drop_functions, replace_functions

revision: str = "0009"
down_revision: str | Sequence[str] | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# Copies of src/database/statements/sql as they are in this revision.
FUNCTIONS: Final = Path(__file__).parents[1] / "sql" / revision


def upgrade() -> None:
    replace_functions(FUNCTIONS)


def downgrade() -> None:
    drop_functions(FUNCTIONS)
    create_functions(FUNCTIONS.with_name("0006"), "append_message")
    create_functions(FUNCTIONS.with_name("0008"), "append_messages")
