"""Functions that claim, renew and release the turn of a conversation, and delete a conversation softly.

Revision ID: 0014
Revises: 0013
Create Date: 2026-11-30
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from src.database.migrate.operations import create_functions, drop_functions

revision: str = "0014"
down_revision: str | Sequence[str] | None = "0013"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# Copies of src/database/statements/sql as they are in this revision.
FUNCTIONS: Final = Path(__file__).parents[1] / "sql" / revision


def upgrade() -> None:
    create_functions(FUNCTIONS)


def downgrade() -> None:
    drop_functions(FUNCTIONS)
