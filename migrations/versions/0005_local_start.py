"""The local time of an event's start, computed by one clock: the packaged zone data, and no longer the server's.

The generated column `start_local` stays for the release before this one.

Revision ID: 0005
Revises: 0004
Create Date: 2026-11-30
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | Sequence[str] | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    unknown = sa.text("'0001-01-01 00:00:00'")
    op.add_column("events", sa.Column("local_start", sa.DateTime(), server_default=unknown, nullable=False))
    op.add_column("events", sa.Column("local_start_basis", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("events", "local_start_basis")
    op.drop_column("events", "local_start")
