"""app_append_messages and app_turn with fewer statements: they look for stored keys only after an insert fell short.

The parameters of what few messages bring have defaults. The calls of the previous release keep their meaning.

Revision ID: 0008
Revises: 0007
Create Date: 2026-11-30
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from src.database.migrate.operations import create_functions, drop_functions

revision: str = "0008"
down_revision: str | Sequence[str] | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# Copies of src/database/statements/sql as they are in this revision.
FUNCTIONS: Final = Path(__file__).parents[1] / "sql" / revision


def upgrade() -> None:
    create_functions(FUNCTIONS)


def downgrade() -> None:
    drop_functions(FUNCTIONS)
    create_functions(FUNCTIONS.with_name("0006"))
