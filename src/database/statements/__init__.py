"""Each operation of the domain, implemented once: repositories call it in a session, the store on its connections.

Writes are SQL functions (`sql/`), which take the tenant as their first argument and bind their own transaction to it.
Reads that are sent on a connection without a tenant are fenced (`fence.py`). The modules are named after the entities;
the functions of a module that is exported here are its operations.
"""

from src.database.statements import (
    answers,
    conversation_changes,
    conversations,
    event_moves,
    events,
    history,
    message_changes,
    personal_data,
    reminders,
    state,
    tenants,
    turns,
    user_merges,
    users,
    windows,
)
from src.database.statements.call import Call, raise_if_missing
from src.database.statements.event_moves import Scope
from src.database.statements.fence import TENANT, tenant_parameter
from src.database.statements.history import LastMessage, Latest
from src.database.statements.in_session import InSession
from src.database.statements.json_keys import with_keys
from src.database.statements.messages import (
    COLUMN_COUNTS,
    MAX_BATCH,
    VERSIONS,
    NewMessage,
    Outcome,
    append_in_session,
    append_messages,
    check_extra,
    check_outcome,
    in_call_order,
    pack_columns,
)
from src.database.statements.pagination import (
    MAX_LIMIT,
    InvalidCursorError,
    Keyset,
    Page,
    check_limit,
    decode_cursor,
    encode_cursor,
)
from src.database.statements.read import Read
from src.database.statements.retention import purge_expired
from src.database.statements.rows import lock_one
from src.database.statements.sending import CompiledStatement, fetch_entities, fetch_value, stream_entities
from src.database.statements.tool_formats import HasTools, ToolCall, ToolResult, tools_of
from src.database.statements.tool_pairs import Unanswered, whole_pairs
from src.database.statements.turns import Turn
from src.database.statements.usage import Usage, UsageBy, sum_usage
from src.database.statements.users import Identity

__all__ = [
    "COLUMN_COUNTS",
    "MAX_BATCH",
    "MAX_LIMIT",
    "TENANT",
    "VERSIONS",
    "Call",
    "CompiledStatement",
    "HasTools",
    "Identity",
    "InSession",
    "InvalidCursorError",
    "Keyset",
    "LastMessage",
    "Latest",
    "NewMessage",
    "Outcome",
    "Page",
    "Read",
    "Scope",
    "ToolCall",
    "ToolResult",
    "Turn",
    "Unanswered",
    "Usage",
    "UsageBy",
    "answers",
    "append_in_session",
    "append_messages",
    "check_extra",
    "check_limit",
    "check_outcome",
    "conversation_changes",
    "conversations",
    "decode_cursor",
    "encode_cursor",
    "event_moves",
    "events",
    "fetch_entities",
    "fetch_value",
    "history",
    "in_call_order",
    "lock_one",
    "message_changes",
    "pack_columns",
    "personal_data",
    "purge_expired",
    "raise_if_missing",
    "reminders",
    "state",
    "stream_entities",
    "sum_usage",
    "tenant_parameter",
    "tenants",
    "tools_of",
    "turns",
    "user_merges",
    "users",
    "whole_pairs",
    "windows",
    "with_keys",
]
