"""Identities of users at other systems, users that are no persons, and the turn of an identity.

app_turn has further parameters with defaults, and the functions of users return a further column: the calls of the
previous release keep their meaning.

Revision ID: 0012
Revises: 0011
Create Date: 2026-11-30
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from src.database.migrate.operations import create_functions, drop_functions, replace_functions
from src.database.migrate.row_level_security import protect

revision: str = "0012"
down_revision: str | Sequence[str] | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# Copies of src/database/statements/sql as they are in this revision.
FUNCTIONS: Final = Path(__file__).parents[1] / "sql" / revision
BEFORE: Final = {
    "get_or_create_user": "0006",
    "get_or_start_conversation": "0006",
    "turn": "0008",
    "open_conversation": "0010",
}
"""The functions that this revision replaces, each with the revision of its former copy."""


def upgrade() -> None:
    op.add_column("users", sa.Column("is_person", sa.Boolean(), server_default=sa.text("true"), nullable=False))
    op.create_table(
        "user_identities",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "metadata",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.CheckConstraint("lower(provider) <> 'telegram'", name=op.f("ck_user_identities_provider")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"],
            ["users.tenant_id", "users.id"],
            name=op.f("fk_user_identities_tenant_id_user_id"),
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_user_identities")),
        sa.UniqueConstraint(
            "tenant_id", "provider", "subject", name=op.f("uq_user_identities_tenant_id_provider_subject")
        ),
    )
    op.create_index("ix_user_identities_user_id", "user_identities", ["tenant_id", "user_id"])
    protect("user_identities")
    replace_functions(FUNCTIONS)


def downgrade() -> None:
    drop_functions(FUNCTIONS)
    for name, former in BEFORE.items():
        create_functions(FUNCTIONS.with_name(former), name)
    op.drop_table("user_identities")
    op.drop_column("users", "is_person")
