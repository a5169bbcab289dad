"""The tenant registry and the five tables, their keys, checks and indexes, and the wall between tenants.

Revision ID: 0001
Revises:
Create Date: 2026-11-21
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from src.database.migrate.row_level_security import create_binding_function, drop_binding_function, protect

revision: str = "0001"
down_revision: str | Sequence[str] | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    create_binding_function()
    create_tenants()
    create_users()
    create_conversations()
    create_events()
    create_message_history()
    create_notes()


def downgrade() -> None:
    op.drop_table("notes")
    op.drop_table("message_history")
    op.drop_table("events")
    op.drop_table("conversations")
    op.drop_table("users")
    op.drop_table("tenants")
    drop_binding_function()


def create_tenants() -> None:
    op.create_table(
        "tenants",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="active", nullable=False),
        sa.Column("retention_days", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.CheckConstraint("jsonb_typeof(metadata) = 'object'", name=op.f("ck_tenants_metadata")),
        sa.CheckConstraint("slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'", name=op.f("ck_tenants_slug")),
        sa.CheckConstraint("status IN ('active', 'suspended')", name=op.f("ck_tenants_status")),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 200", name=op.f("ck_tenants_name")),
        sa.CheckConstraint("retention_days > 0", name=op.f("ck_tenants_retention_days")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenants")),
        sa.UniqueConstraint("slug", name=op.f("uq_tenants_slug")),
    )
    op.create_index("ix_tenants_active", "tenants", ["id"], unique=False, postgresql_where=sa.text("status = 'active'"))


def create_users() -> None:
    op.create_table(
        "users",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("telegram_id", sa.BigInteger(), nullable=True),
        sa.Column("username", sa.Text(), nullable=True),
        sa.Column("display_name", sa.Text(), nullable=True),
        sa.Column("locale", sa.Text(), nullable=True),
        sa.Column("timezone", sa.Text(), server_default="UTC", nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("preferences", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("retention_days", sa.Integer(), nullable=True),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.CheckConstraint("jsonb_typeof(metadata) = 'object'", name=op.f("ck_users_metadata")),
        sa.CheckConstraint("jsonb_typeof(preferences) = 'object'", name=op.f("ck_users_preferences")),
        sa.CheckConstraint("length(display_name) BETWEEN 1 AND 256", name=op.f("ck_users_display_name")),
        sa.CheckConstraint("length(locale) BETWEEN 2 AND 35", name=op.f("ck_users_locale")),
        sa.CheckConstraint("length(timezone) BETWEEN 1 AND 64", name=op.f("ck_users_timezone")),
        sa.CheckConstraint("length(username) BETWEEN 1 AND 64", name=op.f("ck_users_username")),
        sa.CheckConstraint("retention_days > 0", name=op.f("ck_users_retention_days")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_users_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_users")),
    )
    op.create_index(
        "ix_users_active",
        "users",
        ["tenant_id", "id"],
        unique=False,
        postgresql_where=sa.text("is_active AND deleted_at IS NULL"),
    )
    op.create_index(
        "ix_users_deleted_at",
        "users",
        ["tenant_id", "deleted_at"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index("ix_users_last_seen_at", "users", ["tenant_id", "last_seen_at"], unique=False)
    op.create_index("ix_users_username", "users", ["tenant_id", sa.literal_column("lower(username)")], unique=False)
    op.create_index(
        "uq_users_telegram_id",
        "users",
        ["tenant_id", "telegram_id"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    protect("users")


def create_conversations() -> None:
    op.create_table(
        "conversations",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("external_chat_id", sa.Text(), nullable=True),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("summary", sa.Text(), nullable=True),
        sa.Column("summary_upto_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_message_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("close_reason", sa.Text(), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.CheckConstraint("jsonb_typeof(metadata) = 'object'", name=op.f("ck_conversations_metadata")),
        sa.CheckConstraint("NOT is_active OR closed_at IS NULL", name=op.f("ck_conversations_closed_is_inactive")),
        sa.CheckConstraint("last_seq >= 0", name=op.f("ck_conversations_last_seq")),
        sa.CheckConstraint("length(channel) BETWEEN 1 AND 64", name=op.f("ck_conversations_channel")),
        sa.CheckConstraint(
            "length(external_chat_id) BETWEEN 1 AND 255", name=op.f("ck_conversations_external_chat_id")
        ),
        sa.CheckConstraint("length(session_id) BETWEEN 1 AND 255", name=op.f("ck_conversations_session_id")),
        sa.CheckConstraint("summary_upto_seq BETWEEN 0 AND last_seq", name=op.f("ck_conversations_summary_upto_seq")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"],
            ["users.tenant_id", "users.id"],
            name=op.f("fk_conversations_tenant_id_user_id"),
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_conversations")),
        sa.UniqueConstraint("tenant_id", "session_id", name=op.f("uq_conversations_tenant_id_session_id")),
    )
    op.create_index(
        "ix_conversations_chat", "conversations", ["tenant_id", "channel", "external_chat_id"], unique=False
    )
    op.create_index(
        "ix_conversations_idle",
        "conversations",
        ["tenant_id", "last_message_at"],
        unique=False,
        postgresql_where=sa.text("is_active AND deleted_at IS NULL"),
    )
    op.create_index("ix_conversations_user_id", "conversations", ["tenant_id", "user_id", "id"], unique=False)
    op.create_index(
        "uq_conversations_active",
        "conversations",
        ["tenant_id", "user_id", "channel", "external_chat_id"],
        unique=True,
        postgresql_nulls_not_distinct=True,
        postgresql_where=sa.text("is_active AND deleted_at IS NULL"),
    )
    protect("conversations")


def create_events() -> None:
    op.create_table(
        "events",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("location", sa.Text(), nullable=True),
        sa.Column("start_datetime", sa.DateTime(timezone=True), nullable=False),
        sa.Column("end_datetime", sa.DateTime(timezone=True), nullable=True),
        sa.Column("timezone", sa.Text(), server_default="UTC", nullable=False),
        sa.Column("all_day", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("status", sa.Text(), server_default="scheduled", nullable=False),
        sa.Column("rrule", sa.Text(), nullable=True),
        sa.Column(
            "exdates",
            postgresql.ARRAY(sa.DateTime(timezone=True)),
            server_default=sa.text("'{}'::timestamptz[]"),
            nullable=False,
        ),
        sa.Column("series_id", sa.Uuid(), nullable=True),
        sa.Column("recurrence_id", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ical_uid", sa.Text(), nullable=True),
        sa.Column("reminder_datetime", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reminder_offset", sa.Integer(), nullable=True),
        sa.Column("reminder_attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("reminder_claimed_by", sa.Text(), nullable=True),
        sa.Column("reminder_claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reminder_token", sa.Uuid(), nullable=True),
        sa.Column("reminder_sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.CheckConstraint("jsonb_typeof(metadata) = 'object'", name=op.f("ck_events_metadata")),
        sa.CheckConstraint("status IN ('scheduled', 'cancelled', 'done')", name=op.f("ck_events_status")),
        sa.CheckConstraint(
            "(reminder_token IS NULL) = (reminder_claimed_until IS NULL)"
            " AND (reminder_token IS NULL) = (reminder_claimed_by IS NULL)",
            name=op.f("ck_events_reminder_claim"),
        ),
        sa.CheckConstraint("(series_id IS NULL) = (recurrence_id IS NULL)", name=op.f("ck_events_recurrence_id")),
        sa.CheckConstraint("end_datetime >= start_datetime", name=op.f("ck_events_end_datetime")),
        sa.CheckConstraint("length(rrule) BETWEEN 1 AND 2000", name=op.f("ck_events_rrule")),
        sa.CheckConstraint("length(timezone) BETWEEN 1 AND 64", name=op.f("ck_events_timezone")),
        sa.CheckConstraint("length(title) BETWEEN 1 AND 500", name=op.f("ck_events_title")),
        sa.CheckConstraint("reminder_attempts >= 0", name=op.f("ck_events_reminder_attempts")),
        sa.CheckConstraint("reminder_offset >= 0", name=op.f("ck_events_reminder_offset")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "series_id"],
            ["events.tenant_id", "events.id"],
            name=op.f("fk_events_tenant_id_series_id"),
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"],
            ["users.tenant_id", "users.id"],
            name=op.f("fk_events_tenant_id_user_id"),
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_events")),
    )
    op.create_index(
        "ix_events_due",
        "events",
        ["tenant_id", "reminder_datetime"],
        unique=False,
        postgresql_where=sa.text("reminder_sent_at IS NULL AND status = 'scheduled'"),
    )
    op.create_index(
        "ix_events_recurring",
        "events",
        ["tenant_id", "user_id"],
        unique=False,
        postgresql_where=sa.text("rrule IS NOT NULL"),
    )
    op.create_index("ix_events_status", "events", ["tenant_id", "status", "start_datetime"], unique=False)
    op.create_index("ix_events_user_end", "events", ["tenant_id", "user_id", "end_datetime"], unique=False)
    op.create_index("ix_events_user_start", "events", ["tenant_id", "user_id", "start_datetime", "id"], unique=False)
    op.create_index(
        "uq_events_ical_uid",
        "events",
        ["tenant_id", "user_id", "ical_uid", "recurrence_id"],
        unique=True,
        postgresql_nulls_not_distinct=True,
        postgresql_where=sa.text("ical_uid IS NOT NULL"),
    )
    op.create_index(
        "uq_events_occurrence",
        "events",
        ["tenant_id", "series_id", "recurrence_id"],
        unique=True,
        postgresql_where=sa.text("series_id IS NOT NULL"),
    )
    protect("events")


def create_message_history() -> None:
    op.create_table(
        "message_history",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=True),
        sa.Column("parts", postgresql.JSONB(), nullable=True),
        sa.Column("attachments", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column("tool_call_id", sa.Text(), nullable=True),
        sa.Column("tool_name", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("input_tokens", sa.Integer(), nullable=True),
        sa.Column("output_tokens", sa.Integer(), nullable=True),
        sa.Column("token_count", sa.Integer(), nullable=True),
        sa.Column("state", sa.Text(), server_default="complete", nullable=False),
        sa.Column("edited_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.CheckConstraint("jsonb_typeof(metadata) = 'object'", name=op.f("ck_message_history_metadata")),
        sa.CheckConstraint("jsonb_typeof(attachments) = 'array'", name=op.f("ck_message_history_attachments")),
        sa.CheckConstraint("jsonb_typeof(parts) = 'array'", name=op.f("ck_message_history_parts")),
        sa.CheckConstraint(
            "role IN ('system', 'developer', 'user', 'assistant', 'tool')",
            name=op.f("ck_message_history_role"),
        ),
        sa.CheckConstraint("state IN ('complete', 'incomplete', 'interrupted')", name=op.f("ck_message_history_state")),
        sa.CheckConstraint("input_tokens >= 0", name=op.f("ck_message_history_input_tokens")),
        sa.CheckConstraint("length(fingerprint) = 32", name=op.f("ck_message_history_fingerprint")),
        sa.CheckConstraint("length(message_id) BETWEEN 1 AND 512", name=op.f("ck_message_history_message_id")),
        sa.CheckConstraint("output_tokens >= 0", name=op.f("ck_message_history_output_tokens")),
        sa.CheckConstraint("seq > 0", name=op.f("ck_message_history_seq")),
        sa.CheckConstraint("token_count >= 0", name=op.f("ck_message_history_token_count")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "conversation_id"],
            ["conversations.tenant_id", "conversations.id"],
            name=op.f("fk_message_history_tenant_id_conversation_id"),
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "parent_id"],
            ["message_history.tenant_id", "message_history.id"],
            name=op.f("fk_message_history_tenant_id_parent_id"),
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"],
            ["users.tenant_id", "users.id"],
            name=op.f("fk_message_history_tenant_id_user_id"),
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_message_history")),
        sa.UniqueConstraint(
            "tenant_id",
            "conversation_id",
            "seq",
            name=op.f("uq_message_history_tenant_id_conversation_id_seq"),
        ),
        sa.UniqueConstraint("tenant_id", "message_id", name=op.f("uq_message_history_tenant_id_message_id")),
    )
    op.create_index("ix_message_history_created_at", "message_history", ["tenant_id", "created_at"], unique=False)
    op.create_index(
        "ix_message_history_parent_id",
        "message_history",
        ["tenant_id", "parent_id"],
        unique=False,
        postgresql_where=sa.text("parent_id IS NOT NULL"),
    )
    op.create_index(
        "ix_message_history_tool_call_id",
        "message_history",
        ["tenant_id", "conversation_id", "tool_call_id"],
        unique=False,
        postgresql_where=sa.text("tool_call_id IS NOT NULL"),
    )
    op.create_index(
        "ix_message_history_unfinished",
        "message_history",
        ["tenant_id", "conversation_id", "seq"],
        unique=False,
        postgresql_where=sa.text("state <> 'complete'"),
    )
    op.create_index(
        "ix_message_history_user_id", "message_history", ["tenant_id", "user_id", "created_at"], unique=False
    )
    protect("message_history")


def create_notes() -> None:
    op.create_table(
        "notes",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'::text[]"), nullable=False),
        sa.Column("pinned", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("source_message_id", sa.Uuid(), nullable=True),
        sa.Column(
            "search",
            postgresql.TSVECTOR(),
            sa.Computed(
                "setweight(to_tsvector('spanish', coalesce(title, ''))"
                " || to_tsvector('english', coalesce(title, '')), 'A')"
                " || setweight(to_tsvector('spanish', content) || to_tsvector('english', content), 'B')",
                persisted=True,
            ),
            nullable=False,
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.CheckConstraint("jsonb_typeof(metadata) = 'object'", name=op.f("ck_notes_metadata")),
        sa.CheckConstraint("cardinality(tags) <= 64", name=op.f("ck_notes_tags")),
        sa.CheckConstraint("length(content) BETWEEN 1 AND 100000", name=op.f("ck_notes_content")),
        sa.CheckConstraint("length(title) BETWEEN 1 AND 500", name=op.f("ck_notes_title")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "source_message_id"],
            ["message_history.tenant_id", "message_history.id"],
            name=op.f("fk_notes_tenant_id_source_message_id"),
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "user_id"], ["users.tenant_id", "users.id"], name=op.f("fk_notes_tenant_id_user_id")
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_notes")),
    )
    op.create_index(
        "ix_notes_archived_at",
        "notes",
        ["tenant_id", "user_id", "archived_at"],
        unique=False,
        postgresql_where=sa.text("archived_at IS NOT NULL"),
    )
    op.create_index(
        "ix_notes_pinned",
        "notes",
        ["tenant_id", "user_id"],
        unique=False,
        postgresql_where=sa.text("pinned AND archived_at IS NULL AND deleted_at IS NULL"),
    )
    op.create_index(
        "ix_notes_source_message_id",
        "notes",
        ["tenant_id", "source_message_id"],
        unique=False,
        postgresql_where=sa.text("source_message_id IS NOT NULL"),
    )
    op.create_index(
        "ix_notes_user_id",
        "notes",
        ["tenant_id", "user_id", "id"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    protect("notes")
