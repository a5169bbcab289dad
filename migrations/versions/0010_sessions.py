"""Functions that open a conversation under a session id, empty one, and copy one.

Revision ID: 0010
Revises: 0009
Create Date: 2026-11-30
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from src.database.migrate.operations import create_functions, drop_functions

revision: str = "0010"
down_revision: str | Sequence[str] | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# Copies of src/database/statements/sql as they are in this revision.
FUNCTIONS: Final = Path(__file__).parents[1] / "sql" / revision


def upgrade() -> None:
    create_functions(FUNCTIONS)


def downgrade() -> None:
    drop_functions(FUNCTIONS)
