"""Lower write cost: CHECKs whose limits Python checks before a statement is sent, and indexes that no query uses.

Each CHECK cost an append some 2 %. Those stay whose violation would do harm beyond the value; the models name it.
Pages of users and conversations keep room for heap-only updates: `last_seen_at` and turns are not indexed.

Revision ID: 0007
Revises: 0006
Create Date: 2026-11-30
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import sqlalchemy as sa
from alembic import op

from src.database.migrate.operations import autocommit_block as outside_transactions
from src.database.migrate.operations import drop_index_concurrently

revision: str = "0007"
down_revision: str | Sequence[str] | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

CHECKS: Final[Mapping[str, Mapping[str, str]]] = {
    "users": {
        "metadata": "jsonb_typeof(metadata) = 'object'",
        "preferences": "jsonb_typeof(preferences) = 'object'",
        "username": "length(username) BETWEEN 1 AND 64",
        "display_name": "length(display_name) BETWEEN 1 AND 256",
        "locale": "length(locale) BETWEEN 2 AND 35",
        "timezone": "length(timezone) BETWEEN 1 AND 64",
    },
    "conversations": {
        "metadata": "jsonb_typeof(metadata) = 'object'",
        "session_id": "length(session_id) BETWEEN 1 AND 255",
        "channel": "length(channel) BETWEEN 1 AND 64",
        "external_chat_id": "length(external_chat_id) BETWEEN 1 AND 255",
        "last_seq": "last_seq >= 0",
        "turn_token": "turn_token >= 0",
    },
    "message_history": {
        "metadata": "jsonb_typeof(metadata) = 'object'",
        "seq": "seq > 0",
        "message_id": "length(message_id) BETWEEN 1 AND 512",
        "fingerprint": "length(fingerprint) = 32",
        "parts": "jsonb_typeof(parts) = 'array'",
        "attachments": "jsonb_typeof(attachments) = 'array'",
        "tool_call_id": "length(tool_call_id) <= 255",
        "input_tokens": "input_tokens >= 0",
        "output_tokens": "output_tokens >= 0",
        "token_count": "token_count >= 0",
    },
}
INDEXES: Final = {
    "ix_conversations_chat": ("conversations", ("tenant_id", "channel", "external_chat_id")),
    "ix_users_last_seen_at": ("users", ("tenant_id", "last_seen_at")),
}
FILLFACTORS: Final = {"users": 90, "conversations": 80}


def upgrade() -> None:
    for name in INDEXES:
        drop_index_concurrently(name)
    # One table a transaction: no lock on a table is held while another one is waited for. Repeated, it goes on.
    with outside_transactions("a DROP CONSTRAINT on several tables"):
        for table, checks in CHECKS.items():
            dropped = ", ".join(f"DROP CONSTRAINT IF EXISTS ck_{table}_{name}" for name in checks)
            op.execute(f"ALTER TABLE {table} {dropped}")
        for table, percent in FILLFACTORS.items():  # for new pages: no row is moved
            op.execute(f"ALTER TABLE {table} SET (fillfactor = {percent})")


def downgrade() -> None:
    for name, (table, columns) in INDEXES.items():
        op.create_index(name, table, list(columns))
    for table in FILLFACTORS:
        op.execute(f"ALTER TABLE {table} RESET (fillfactor)")
    for table, checks in CHECKS.items():
        for name, condition in checks.items():
            op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, sa.text(condition))
