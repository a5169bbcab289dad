"""Append messages to a conversation: each key once, with `seq` without gaps and in the order of the commits.

Most messages have only a few attributes. They are sent in fewer columns, the plain ones, and the parameters of the SQL
functions have defaults for the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import select

from src.database.base import check_aware, check_id, clean_text, utc_now, uuid7
from src.database.errors import IdempotencyConflictError, NotFoundError, StaleDataError
from src.database.json_values import decode_json, encode_json, json_text
from src.database.models import Conversation, MessageHistory, limits
from src.database.session import AsyncSession
from src.database.statements.call import Call, Sender
from src.database.statements.conversations import check_is_last, check_token
from src.database.statements.in_session import InSession
from src.database.statements.sending import fetch_entities
from src.database.statements.split_characters import SPLIT, has_halves, stored_form
from src.database.statements.windows import check_number

RowT = TypeVar("RowT")

VERSIONS: Final = "versions"
"""The key in a message's `extra` under which `edit` keeps the earlier contents."""

_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)

_REQUIRED: Final = frozenset({"message_id", "role", "state", "attachments", "extra"})
_LIMITED_ALWAYS: Final = tuple((name, limits.MESSAGES[name]) for name in ("message_id", "role"))
_MOSTLY: Final[tuple[Any, ...]] = ("complete", None, [], None, None, None, None, {})
"""The defaults of the other limited attributes. Most messages have them; one comparison replaces eight checks."""
_LIMITED: Final = (
    *_LIMITED_ALWAYS,
    *((name, limits.MESSAGES[name]) for name in ("state", "parts", "attachments", "tool_call_id")),
    *((name, limits.MESSAGES[name]) for name in ("input_tokens", "output_tokens", "token_count", "extra")),
)
_limited: Final = attrgetter(*(name for name, _ in _LIMITED))


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMessage:
    """A message to append.

    `message_id` is the idempotency key, `<channel>:<account>:<chat>:<id>`; it is unique within the tenant.
    `edited_at` is set if this is a later version of the message and not the first one. An answer that is streamed has
    `state="incomplete"`, and is extended. In texts, NUL and lone surrogates are stored as U+FFFD, and a pair of
    surrogates as the character that it encodes. JSON is read back equal. The content is never truncated.

    Raises:
        ValueError: An attribute exceeds its limit (`src.database.models.limits`), or `extra` has the key "versions".
    """

    message_id: str
    role: limits.Role
    content: str | None = field(default=None, repr=False)
    parts: list[Any] | None = field(default=None, repr=False)
    attachments: list[Any] = field(default_factory=list, repr=False)
    parent_id: UUID | None = None
    tool_call_id: str | None = None
    tool_name: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    token_count: int | None = None
    state: limits.State = "complete"
    created_at: datetime | None = None
    edited_at: datetime | None = None
    extra: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        values = _limited(self)
        limited = _LIMITED_ALWAYS if values[len(_LIMITED_ALWAYS) :] == _MOSTLY else _LIMITED
        for (name, limit), value in zip(limited, values, strict=False):
            if value is not None:
                limit.check(name, value)
            elif name in _REQUIRED:
                raise ValueError(f"{name} must be given, got None")
        for name in ("content", "tool_name", "model"):
            if not isinstance(value := getattr(self, name), str | None):
                raise ValueError(f"{name} must be a str, got {type(value).__name__}")  # noqa: TRY004 - bad input
        if self.parent_id is not None:
            check_id("parent_id", self.parent_id)
        check_extra(self.extra)
        if self.state == "incomplete" and self.content is not None and has_halves(self.content):
            content, split = stored_form(self.content)  # `extend` may complete a surrogate pair at its end
            object.__setattr__(self, "content", content)
            object.__setattr__(self, "extra", self.extra | ({SPLIT: split} if split else {}))
        # Cleaned as they are stored: keys and ids of tool calls are compared with stored ones.
        for name in ("message_id", "content", "tool_call_id", "tool_name"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, clean_text(value))

    def fingerprint(self) -> bytes | None:
        """Return the SHA-256 of the content that identifies a message, or None for a later version.

        The fingerprint tells a message that arrives twice from another message with the same key. Only the kinds of
        attachments count, because each source refers to the same file by another reference.

        Raises:
            ValueError: jsonb cannot store `parts` or `attachments`; the error names the path.
        """
        if self.edited_at is not None:
            return None
        kinds = [file.get("kind") if isinstance(file, dict) else None for file in self.attachments]
        kinds = kinds and encode_json(kinds, "attachments", of=f"message {self.message_id!r}")
        parts = self.parts and encode_json(self.parts, "parts", of=f"message {self.message_id!r}")
        identity = [self.role, self.content, parts, kinds, self.tool_call_id, self.tool_name]
        return hashlib.sha256(_ENCODER.encode(identity).encode()).digest()


def check_extra(extra: Any) -> None:
    """Check that `extra` does not have the key "versions".

    Raises:
        ValueError: `extra` has the key.
    """
    if VERSIONS in extra:
        raise ValueError(f"extra must have no {VERSIONS!r}: `edit` keeps the earlier contents there")


MAX_BATCH: Final = 1000
KEY: Final = "uq_message_history_tenant_id_message_id"

_FIRST: Final = ("message_id", "role", "content", "token_count")
_JSON: Final = ("parts", "attachments", "extra")
_REST: Final = tuple(one.name for one in fields(NewMessage) if one.name not in {*_FIRST, "created_at", *_JSON})
_PLAIN: Final = (*_FIRST, "id", "fingerprint", "created_at")
_COLUMNS: Final = (*_PLAIN, *_REST, "parts", "attachments", "metadata")
"""The columns of a message in the order of the functions' parameters, which have defaults after the plain ones."""
COLUMN_COUNTS: Final = (len(_PLAIN), len(_COLUMNS))
"""The numbers of columns in which messages are sent."""

_first: Final = attrgetter(*_FIRST)
_rest: Final = attrgetter(*_REST)
_PLAIN_REST: Final = _rest(NewMessage(message_id="-", role="user"))
_PLAIN_JSON: Final = (None, "[]", "{}")

_OF_CONVERSATION: Final = 3
"""The number of arguments before those of the messages: the tenant, the conversation and the turn."""
_COUNTS: Final = (*COLUMN_COUNTS, len(_COLUMNS) + 1)  # the last one with the expected `seq`
_APPEND: Final[Mapping[int, Call[Any]]] = {
    count: Call("app_append_message", _OF_CONVERSATION + count) for count in _COUNTS
}
_APPEND_MANY: Final[Mapping[int, Call[Any]]] = {
    count: Call("app_append_messages", _OF_CONVERSATION + count) for count in _COUNTS
}


class Outcome(NamedTuple):
    """A row that the functions return: a message, and the columns of its conversation that have changed."""

    outcome: str
    message_id: str
    id: UUID
    conversation_id: UUID
    user_id: UUID
    seq: int
    created_at: datetime
    is_live: bool
    last_seq: int
    last_message_at: datetime | None
    turn_token: int
    updated_at: datetime

    @property
    def is_inserted(self) -> bool:
        """True if this call stored the message; False for a duplicate."""
        return self.outcome == "inserted"


async def append_messages(
    sender: Sender,
    conversation_id: UUID,
    messages: Sequence[NewMessage],
    *,
    turn: int | None,
    expected_last_seq: int | None,
) -> tuple[list[tuple[Any, ...]], list[Outcome]]:
    """Append messages in this order in one call: all new messages are stored, or none.

    The conversation's row is locked until the transaction ends. So `seq` has no gap, and a reader that follows the
    conversation by `seq` misses no message: a lower number is never committed after a higher one.

    Args:
        sender: Sends the call.
        conversation_id: The conversation.
        messages: At most 1000 messages.
        turn: The token of the turn that the caller holds, or None.
        expected_last_seq: The conversation's `last_seq` as the caller knows it, or None.

    Returns:
        The rows that were sent, and the outcome of each message in the given order. A message that repeats the key of
        an earlier one in the list is a duplicate.

    Raises:
        IdempotencyConflictError: A key belongs to a message with other content, or to a message of another chat.
        NotFoundError: The tenant has no such conversation.
        StaleDataError: Another worker has claimed the turn, or the conversation has other messages than expected.
        ValueError: There are more than 1000 messages, the turn is not a token, `expected_last_seq` is negative, or a
            value is not JSON.
    """
    check_token(turn)
    expected = () if expected_last_seq is None else (check_number("expected_last_seq", expected_last_seq),)
    rows = _pack(messages, all_columns=bool(expected))
    if not rows:
        return [], []
    check_id("conversation_id", conversation_id)
    calls, columns = (_APPEND, rows[0]) if len(rows) == 1 else (_APPEND_MANY, _as_arrays(rows))
    arguments = (*columns, *expected)
    sent = await sender.call(calls[len(arguments)], conversation_id, turn, *arguments)
    outcomes = [Outcome._make(row) for row in sent]
    check_outcome(outcomes[0].outcome, outcomes[0].message_id)
    if outcomes[0].outcome == "no_conversation":
        raise NotFoundError(f"this tenant has no Conversation with id {conversation_id}")
    if outcomes[0].outcome == "lost_turn":
        check_is_last(turn, outcomes[0].turn_token)
    if outcomes[0].outcome == "stale":
        raise StaleDataError(
            f"nothing was appended: last_seq is {outcomes[0].last_seq}, expected {expected_last_seq}",
            hint="read the messages after the expected seq, which another writer has appended, and decide again",
        )
    by_key = {one.message_id: one for one in outcomes}
    return rows, in_call_order(messages, by_key, as_duplicate=lambda one: one._replace(outcome="duplicate"))


async def append_in_session(
    session: AsyncSession,
    conversation_id: UUID,
    messages: Sequence[NewMessage],
    *,
    turn: int | None,
    expected_last_seq: int | None,
) -> list[tuple[MessageHistory, Outcome]]:
    """Append messages, and return each as an entity of the session with its outcome; see `append_messages`."""
    sender = InSession(session)
    rows, outcomes = await append_messages(
        sender, conversation_id, messages, turn=turn, expected_last_seq=expected_last_seq
    )
    inserted = {one.message_id: one for one in outcomes if one.is_inserted}
    if inserted:
        of_conversation = ("last_seq", "last_message_at", "updated_at")
        changed = {name: getattr(outcomes[0], name) for name in of_conversation}
        sender.refresh(Conversation, conversation_id, **changed)
    stored = _inserted(sender, rows, inserted)
    if duplicates := {one.message_id for one in outcomes} - inserted.keys():
        same = (MessageHistory.tenant_id == session.tenant_id, MessageHistory.message_id.in_(duplicates))
        stored += await fetch_entities(session, select(MessageHistory).where(*same), MessageHistory, refresh=True)
    by_key = {message.message_id: message for message in stored}
    return [(by_key[one.message_id], one) for one in outcomes]


def _inserted(sender: InSession, rows: Sequence[Any], inserted: Mapping[str, Outcome]) -> list[MessageHistory]:
    """Return the entities of inserted messages, built from what was sent."""
    built = []
    for values in map(_unpack, rows):
        if (outcome := inserted.get(values["message_id"])) is not None:
            place = {name: getattr(outcome, name) for name in ("conversation_id", "user_id", "seq", "updated_at")}
            built.append({**values, **place, "tenant_id": sender.tenant_id, "deleted_at": None})
    return sender.load(MessageHistory, built, refresh=True)


def in_call_order(
    messages: Sequence[NewMessage], by_key: Mapping[str, RowT], *, as_duplicate: Callable[[RowT], RowT]
) -> list[RowT]:
    """Return the row of each message; a message that repeats the key of an earlier one is a duplicate of it."""
    seen: set[str] = set()
    ordered = []
    for message in messages:
        row = by_key[message.message_id]
        ordered.append(as_duplicate(row) if message.message_id in seen else row)
        seen.add(message.message_id)
    return ordered


def check_outcome(outcome: str, message_id: str) -> None:
    """Check that a function has not rejected a key.

    Raises:
        IdempotencyConflictError: The key belongs to a message with other content, or to a message of another chat.
    """
    if outcome == "other_content":
        raise _other_content(message_id)
    if outcome == "other_chat":
        raise IdempotencyConflictError(
            "a message_id is taken by a message of another chat",
            constraint=KEY,
            hint="a message_id names its chat: <channel>:<account>:<chat>:<id>",
        )


def pack_columns(messages: Sequence[NewMessage]) -> list[list[Any]]:
    """Return the arguments of a function for several messages: one array for each of the `COLUMN_COUNTS` columns.

    Raises:
        IdempotencyConflictError: Two different messages have one key.
        ValueError: There are more than 1000 messages, a time is naive, or jsonb cannot store a value.
    """
    return _as_arrays(_pack(messages))


def _unpack(row: Sequence[Any]) -> dict[str, Any]:
    """Return the values of a sent row by column as they are stored, with the defaults of the columns not sent."""
    rest = row[len(_PLAIN) :] or (*_PLAIN_REST, *_PLAIN_JSON)
    values = dict(zip(_COLUMNS, (*row[: len(_PLAIN)], *rest), strict=True))
    for name in _COLUMNS[-len(_JSON) :]:
        if values[name] is not None:
            values[name] = decode_json(values[name])
    return values


def _pack(messages: Sequence[NewMessage], *, all_columns: bool = False) -> list[tuple[Any, ...]]:
    """Return a row of arguments for each key, with a new id and the fingerprint. All rows have the same length."""
    given: Any = messages
    if wrong := [one for one in given if not isinstance(one, NewMessage)] if isinstance(given, Sequence) else [given]:
        raise ValueError(f"messages must be a list of NewMessage, got {type(wrong[0]).__name__}")
    if len(messages) > MAX_BATCH:
        raise ValueError(f"messages must be at most {MAX_BATCH} a call, got {len(messages)}")
    first = _first_of_each_key(messages)
    is_plain = all(map(_is_plain, first)) and not all_columns
    now = utc_now()
    return [
        (
            *_first(message),
            uuid7(),
            message.fingerprint(),
            _instant("created_at", message.created_at) or now,
            *(() if is_plain else (*_rest(message), *_json(message))),
        )
        for message in first
    ]


def _as_arrays(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [list(values) for values in zip(*rows, strict=True)]


def _first_of_each_key(messages: Sequence[NewMessage]) -> Sequence[NewMessage]:
    """Return the messages without those that repeat an earlier key.

    Raises:
        IdempotencyConflictError: The repetition is another message.
    """
    if len(messages) == 1:  # the common case
        return messages
    first: dict[str, NewMessage] = {}
    for message in messages:
        before = first.setdefault(message.message_id, message)
        if before is not message and not _is_same(message, before):
            raise _other_content(message.message_id)
    return list(first.values())


def _is_same(message: NewMessage, other: NewMessage) -> bool:
    """Compare two messages with one key as app_append_messages does: without the content if one is a later version."""
    fingerprints = {message.fingerprint(), other.fingerprint()}
    if None not in fingerprints and len(fingerprints) > 1:
        return False
    author, other_author = ((one.role, one.tool_call_id, one.tool_name) for one in (message, other))
    return author == other_author


def _other_content(message_id: str) -> IdempotencyConflictError:
    return IdempotencyConflictError(
        f"message_id {message_id!r} is taken by a message with other content",
        constraint=KEY,
        hint="if the message was changed, call `edit`, which keeps the key; if it is another message, give it another"
        " key",
    )


def _instant(name: str, value: datetime | None) -> datetime | None:
    if value is None:
        return None
    check_aware(name, value)
    return value.astimezone(UTC)


def _is_plain(message: NewMessage) -> bool:
    _instant("edited_at", message.edited_at)
    has_json = message.parts is not None or message.attachments or message.extra
    return not has_json and _rest(message) == _PLAIN_REST


def _json(message: NewMessage) -> tuple[str | None, str, str]:
    parts = None if message.parts is None else _dumps(message, "parts", list)
    return parts, _dumps(message, "attachments", list), _dumps(message, "extra", dict)


def _dumps(message: NewMessage, name: str, kind: type[list[Any] | dict[str, Any]]) -> str:
    value = getattr(message, name)
    if not isinstance(value, kind) and not (kind is list and isinstance(value, tuple)):
        raise ValueError(
            f"message {message.message_id!r}: {name} must be a {kind.__name__}, got {type(value).__name__}"
        )
    if not value:  # the common case
        return "{}" if kind is dict else "[]"
    return json_text(value, name, of=f"message {message.message_id!r}")
