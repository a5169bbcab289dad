"""Entries of state: values under keys of a tenant, a user or a conversation, and the functions that write them.

Revision ID: 0013
Revises: 0012
Create Date: 2026-11-30
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from src.database.migrate.operations import create_functions, drop_functions
from src.database.migrate.row_level_security import protect

revision: str = "0013"
down_revision: str | Sequence[str] | None = "0012"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# Copies of src/database/statements/sql as they are in this revision.
FUNCTIONS: Final = Path(__file__).parents[1] / "sql" / revision


def upgrade() -> None:
    now = sa.text("now()")
    op.create_table(
        "state_entries",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("conversation_id", sa.Uuid(), nullable=True),
        sa.Column(
            "owner_id",
            sa.Uuid(),
            sa.Computed("COALESCE(conversation_id, user_id, tenant_id)", persisted=True),
            nullable=False,
        ),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(collation="C"), nullable=False),
        sa.Column("data", postgresql.JSONB(), nullable=True),
        sa.Column("blob", sa.LargeBinary(), nullable=True),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.CheckConstraint("jsonb_typeof(metadata) = 'object'", name=op.f("ck_state_entries_metadata")),
        sa.CheckConstraint("num_nonnulls(data, blob) = 1", name=op.f("ck_state_entries_value")),
        sa.CheckConstraint("num_nonnulls(user_id, conversation_id) <= 1", name=op.f("ck_state_entries_owner")),
        sa.CheckConstraint("pg_column_size(data) <= 33554432", name=op.f("ck_state_entries_size")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "conversation_id"],
            ["conversations.tenant_id", "conversations.id"],
            name=op.f("fk_state_entries_tenant_id_conversation_id"),
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"], ["users.tenant_id", "users.id"], name=op.f("fk_state_entries_tenant_id_user_id")
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_state_entries")),
        postgresql_with={"fillfactor": 80},
    )
    op.create_index("uq_state_entries_key", "state_entries", ["tenant_id", "owner_id", "namespace", "key"], unique=True)
    for name in ("user_id", "conversation_id", "expires_at"):
        op.create_index(
            f"ix_state_entries_{name}",
            "state_entries",
            ["tenant_id", name],
            postgresql_where=sa.text(f"{name} IS NOT NULL"),
        )
    protect("state_entries")
    create_functions(FUNCTIONS)


def downgrade() -> None:
    drop_functions(FUNCTIONS)
    op.drop_table("state_entries")
