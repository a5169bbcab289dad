"""Statements written by hand, for the drivers: one for each thing that is asked, `$1` is always the tenant."""

from __future__ import annotations

from typing import Final

from benchmarks.contenders.base import CONVERSATION, MESSAGE, NOTE, USER

USER_BY_TELEGRAM_ID: Final = (
    f"SELECT {USER} FROM users WHERE tenant_id = $1 AND telegram_id = $2 AND deleted_at IS NULL"
)
NEW_USER: Final = (
    "INSERT INTO users (tenant_id, telegram_id, id) VALUES ($1, $2, $3)"
    " ON CONFLICT (tenant_id, telegram_id) WHERE deleted_at IS NULL DO UPDATE SET telegram_id = excluded.telegram_id"
    f" RETURNING {USER}"
)
ACTIVE_CONVERSATION: Final = (
    f"SELECT {CONVERSATION} FROM conversations WHERE tenant_id = $1 AND user_id = $2 AND channel = $3"
    " AND external_chat_id = $4 AND is_active AND deleted_at IS NULL"
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
WANTED: Final = " || ".join(f"websearch_to_tsquery('{name}', $3)" for name in ("simple", "spanish", "english"))
SEARCH: Final = (
    "SELECT found.*, ts_headline('spanish', content, wanted) AS snippet FROM ("
    f"SELECT {NOTE}, wanted, ts_rank(search, wanted) AS rank FROM notes, (SELECT {WANTED}) AS query (wanted)"
    " WHERE tenant_id = $1 AND user_id = $2 AND archived_at IS NULL AND deleted_at IS NULL AND search @@ wanted"
    " ORDER BY rank DESC, id DESC LIMIT 10) AS found ORDER BY rank DESC, id DESC"
)

# The floor's: all of an operation in one statement.
_MESSAGE_OF_NEW: Final = ", ".join(f"new.{name}" for name in ("message_id", "role", "content", "tokens", "at"))
GET_OR_CREATE: Final = (
    f"WITH found AS ({USER_BY_TELEGRAM_ID}), made AS ("
    "INSERT INTO users (tenant_id, telegram_id, id) SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT FROM found)"
    f" RETURNING {USER}) SELECT * FROM found UNION ALL SELECT * FROM made"
)
APPEND: Final = (
    "WITH conversation AS (UPDATE conversations SET last_seq = last_seq + 1, last_message_at = $7, updated_at = now()"
    " WHERE tenant_id = $1 AND id = $2 RETURNING last_seq, user_id)"
    f" INSERT INTO message_history ({', '.join(NEW_MESSAGE_COLUMNS)})"
    " SELECT $1, uuidv7(), $2, user_id, last_seq, $3, $4, $5, $6, $7 FROM conversation RETURNING id, seq"
)
TURN: Final = (
    f"WITH found AS ({USER_BY_TELEGRAM_ID}),"
    " talk AS (UPDATE conversations SET last_seq = last_seq + cardinality($5::text[]),"
    " last_message_at = ($9::timestamptz[])[cardinality($9::timestamptz[])], updated_at = now() FROM found"
    " WHERE conversations.tenant_id = $1 AND conversations.user_id = found.id AND channel = $3"
    " AND external_chat_id = $4 AND conversations.is_active AND deleted_at IS NULL"
    f" RETURNING {', '.join('conversations.' + name for name in CONVERSATION.split(', '))}),"
    f" added AS (INSERT INTO message_history ({', '.join(NEW_MESSAGE_COLUMNS)})"
    " SELECT $1, uuidv7(), talk.id, talk.user_id, talk.last_seq - cardinality($5) + place,"
    f" {_MESSAGE_OF_NEW} FROM talk, unnest($5, $6::text[], $7::text[], $8::int[], $9)"
    " WITH ORDINALITY AS new (message_id, role, content, tokens, at, place) RETURNING id, seq)"
    " SELECT (SELECT found FROM found) AS found, (SELECT talk FROM talk) AS talk,"
    " ARRAY(SELECT ROW(added.*) FROM added) AS added, said.* FROM ("
    f"SELECT {MESSAGE} FROM message_history WHERE tenant_id = $1 AND conversation_id = (SELECT id FROM talk)"
    " AND deleted_at IS NULL ORDER BY seq DESC LIMIT 20) AS said"
)
