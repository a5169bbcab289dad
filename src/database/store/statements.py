"""The reads of the store, compiled at their first use, and its calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Select, bindparam

from src.database.models import MessageHistory
from src.database.statements import TENANT, Call, Read, history, message_changes, reminders, users, windows
from src.database.store.rows import ConversationRow, EventRow, MessageRow, Profile, UserRow, columns_of, names_of


def _messages(build: history.Build, *parameters: str) -> Read[MessageRow]:
    return Read(lambda: build(columns_of(MessageRow), bindparam(TENANT)), parameters, row=MessageRow)


def _within_budget(columns: Any, tenant_id: Any) -> Select[Any]:
    newest = windows.of_one(windows.newest)(columns, tenant_id)
    return windows.within_budget(newest, lambda counted: [counted.c[column.name] for column in columns])


def _of_user(columns: Any, tenant_id: Any) -> Select[Any]:
    of_user = windows.among_many(columns, tenant_id).where(MessageHistory.user_id == bindparam("user_id"))
    return of_user.order_by(MessageHistory.created_at, MessageHistory.id)  # the messages of one call have one time


BY_TELEGRAM_ID: Final[Read[Any]] = Read(
    lambda: users.by_telegram_id(columns_of(UserRow), bindparam(TENANT)), ("telegram_id",)
)
NEWEST: Final = _messages(windows.of_one(windows.newest), "conversation_id", "limit")
AFTER: Final = _messages(windows.of_one(windows.after), "conversation_id", "seq", "limit")
ALL_AFTER: Final = _messages(
    windows.of_one(lambda messages: windows.after(messages, limit=None)), "conversation_id", "seq"
)
WITHIN_BUDGET: Final = _messages(_within_budget, "conversation_id", "limit", "token_budget")
OF_USER: Final = _messages(_of_user, "user_id")

_PLACE: Final = ("at", "row_id", "limit")
LATEST: Final[Read[Any]] = Read(
    lambda: history.latest(columns_of(ConversationRow), bindparam(TENANT)), ("user_id", *_PLACE)
)
SINCE: Final = _messages(history.since_in_conversation, "conversation_id", *_PLACE)
SINCE_OF_USER: Final = _messages(history.since_of_user, "user_id", *_PLACE)
MATCHES: Final = _messages(history.matches, "user_id", "query", "config", *_PLACE)


def of_history(build: history.Build) -> Read[Any]:
    """Return the read of one of the selects of `history`."""
    by_build: Mapping[history.Build, Read[Any]] = {
        history.latest: LATEST,
        history.since_in_conversation: SINCE,
        history.since_of_user: SINCE_OF_USER,
        history.matches: MATCHES,
    }
    return by_build[build]


GET_OR_CREATE: Final[Call[Any]] = Call(
    "app_get_or_create_user", 3 + len(Profile._fields), columns=lambda: names_of(UserRow)
)
BY_IDENTITY: Final[Call[Any]] = Call(
    "app_get_or_create_by_identity",
    2 + users.OF_IDENTITY + len(Profile._fields),
    columns=lambda: names_of(UserRow),
)
POP: Final[Call[MessageRow]] = message_changes.pop_call(lambda: names_of(MessageRow, labeled=True), MessageRow)
CLAIM: Final[Call[EventRow]] = Call(
    reminders.CLAIM_FUNCTION, reminders.CLAIM_PARAMETERS, columns=lambda: names_of(EventRow, labeled=True), row=EventRow
)
