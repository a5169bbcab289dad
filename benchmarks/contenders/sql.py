"""Hand-written statements for the drivers, one for each operation; `$1` is always the tenant."""

from __future__ import annotations

from typing import Final

from benchmarks.contenders.base import CONVERSATION, MESSAGE, NOTE, USER

USER_BY_TELEGRAM_ID: Final = (
    f"SELECT {USER} FROM users WHERE tenant_id = $1 AND telegram_id = $2 AND deleted_at IS NULL"
)
NEW_USER: Final = (
    "INSERT INTO users (tenant_id, telegram_id, id) VALUES ($1, $2, $3)"
    " ON CONFLICT (tenant_id, telegram_id) DO UPDATE SET telegram_id = excluded.telegram_id"
    f" RETURNING {USER}"
)
ACTIVE_CONVERSATION: Final = (
    f"SELECT {CONVERSATION} FROM conversations WHERE tenant_id = $1 AND user_id = $2 AND channel = $3"
    " AND external_chat_id = $4 AND is_active AND deleted_at IS NULL"
)
NEW_CONVERSATION: Final = (
    "INSERT INTO conversations (tenant_id, user_id, channel, external_chat_id, id, session_id)"
    f" VALUES ($1, $2, $3, $4, $5, $6) RETURNING {CONVERSATION}"
)
RECENT: Final = (
    f"SELECT {MESSAGE} FROM message_history WHERE tenant_id = $1 AND conversation_id = $2 AND deleted_at IS NULL"
    " ORDER BY seq DESC LIMIT $3"
)
AFTER: Final = (
    f"SELECT {MESSAGE} FROM message_history WHERE tenant_id = $1 AND conversation_id = $2 AND seq > $3"
    " AND deleted_at IS NULL ORDER BY seq LIMIT $4"
)
OF_USER: Final = (
    f"SELECT {MESSAGE} FROM message_history WHERE tenant_id = $1 AND user_id = $2 AND deleted_at IS NULL"
    " ORDER BY created_at"
)
ADVANCE: Final = (
    "UPDATE conversations SET last_seq = last_seq + $3, last_message_at = $4, updated_at = now()"
    " WHERE tenant_id = $1 AND id = $2 RETURNING last_seq, user_id"
)
NEW_MESSAGE_COLUMNS: Final = (
    "tenant_id", "id", "conversation_id", "user_id", "seq", "message_id", "role", "content", "token_count", "created_at"
)  # fmt: skip
INSERT: Final = (
    f"INSERT INTO message_history ({', '.join(NEW_MESSAGE_COLUMNS)}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
)
LOCK: Final = "SELECT last_seq, user_id FROM conversations WHERE tenant_id = $1 AND id = $2 FOR UPDATE"
BY_KEY: Final = "SELECT id, seq FROM message_history WHERE tenant_id = $1 AND message_id = $2"
SET_LAST: Final = (
    "UPDATE conversations SET last_seq = $3, last_message_at = $4, updated_at = now() WHERE tenant_id = $1 AND id = $2"
)
SEARCH: Final = (
    "SELECT found.*, ts_headline('spanish', content, wanted) AS snippet FROM ("
    f"SELECT {NOTE}, wanted, ts_rank(search, wanted) AS rank"
    " FROM notes, (SELECT websearch_to_tsquery('spanish', $3)) AS query (wanted)"
    " WHERE tenant_id = $1 AND user_id = $2 AND archived_at IS NULL AND deleted_at IS NULL AND search @@ wanted"
    " ORDER BY rank DESC, id DESC LIMIT 10) AS found ORDER BY rank DESC, id DESC"
)


def under_row_level_security(select: str) -> str:
    """Return a select that sets its tenant within itself, for a role that row-level security applies to.

    The inner query depends on the outer one, so that the policy is evaluated after the setting.
    """
    inner = select.replace("tenant_id = $1", "tenant_id = bound.tenant_id")
    return (
        "SELECT fenced.* FROM"
        " (SELECT set_config('app.tenant_id', $1::uuid::text, true)::uuid AS tenant_id OFFSET 0) AS bound"
        f" CROSS JOIN LATERAL (SELECT * FROM ({inner}) AS chosen OFFSET 0) AS fenced"
    )
