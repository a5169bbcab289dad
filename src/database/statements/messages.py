"""Append messages to a conversation: each key once, without gaps in `seq`, in the order of their commits.

`NewMessage` is a message on its way in; its fingerprint tells it from another message with the same key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final, NamedTuple
from uuid import UUID

from src.database.base import check_aware, check_id, clean_json, clean_text, utc_now, uuid7
from src.database.errors import IdempotencyConflictError, NotFoundError
from src.database.models import limits
from src.database.statements.call import Call, Sender
from src.database.statements.conversations import check_is_last, check_token
from src.database.statements.split_characters import SPLIT, has_halves, stored_form

VERSIONS: Final = "versions"
"""The name in a message's `extra` under which `edit` keeps what was there before."""

_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)

_REQUIRED: Final = frozenset({"message_id", "role", "state", "attachments", "extra"})
_LIMITED_ALWAYS: Final = tuple((name, limits.MESSAGES[name]) for name in ("message_id", "role"))
_MOSTLY: Final[tuple[Any, ...]] = ("complete", None, [], None, None, None, None, {})
"""The defaults of the other limited attributes, which most messages have; they are not checked one by one."""
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
    `edited_at` says that this is not what was first said but a later version of it. An answer that is yet to be made
    has `state="incomplete"`, and is extended. NUL and lone surrogates become U+FFFD, and a pair of
    surrogates the character that it encodes; content is never cut.

    Raises:
        ValueError: An attribute is out of its limit (`src.database.models.limits`), or `extra` has "versions".
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
        check_extra(self.extra)
        if self.state == "incomplete" and self.content is not None and has_halves(self.content):
            content, split = stored_form(self.content)  # `extend` joins the rest to it
            object.__setattr__(self, "content", content)
            object.__setattr__(self, "extra", self.extra | ({SPLIT: split} if split else {}))
        # As they will be stored: a key, or a tool's id, is compared with what is there.
        for name in ("message_id", "content", "tool_call_id", "tool_name"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, clean_text(value))

    def fingerprint(self) -> bytes | None:
        """Return the SHA-256 of what makes two messages the same one, or None for a later version.

        Of attachments only the kinds count: they are references, and each source names the same file differently.

        Raises:
            ValueError: jsonb cannot hold `parts`; the message names the path.
        """
        if self.edited_at is not None:
            return None
        kinds = [file.get("kind") if isinstance(file, dict) else None for file in self.attachments]
        kinds = kinds and clean_json(kinds, "attachments", of=f"message {self.message_id!r}")
        parts = self.parts and clean_json(self.parts, "parts", of=f"message {self.message_id!r}")
        said = [self.role, self.content, parts, kinds, self.tool_call_id, self.tool_name]
        return hashlib.sha256(_ENCODER.encode(said).encode()).digest()


def check_extra(extra: dict[str, Any]) -> None:
    """Check that `extra` does not have the name of the earlier versions.

    Raises:
        ValueError: It is there.
    """
    if VERSIONS in extra:
        raise ValueError(f"extra must have no {VERSIONS!r}: `edit` keeps there what was said before")


MAX_BATCH: Final = 1000
KEY: Final = "uq_message_history_tenant_id_message_id"

_SAID: Final = ("message_id", "role", "content", "token_count")
_MADE: Final = ("id", "fingerprint", "created_at")
_REST: Final = (
    "parent_id",
    "tool_call_id",
    "tool_name",
    "model",
    "input_tokens",
    "output_tokens",
    "state",
    "edited_at",
)
_JSON: Final = ("parts", "attachments", "metadata")
COLUMNS: Final = (*_SAID, *_MADE, *_REST, *_JSON)
"""The columns that a message brings, in the order of the functions' parameters."""
PLAIN: Final = len(_SAID) + len(_MADE)
"""How many of them most messages bring; the functions' defaults are the others."""

_said: Final = attrgetter(*_SAID)
_rest: Final = attrgetter(*_REST)
_PLAIN_REST: Final = _rest(NewMessage(message_id="-", role="user"))
_PLAIN_JSON: Final = (None, "[]", "{}")

_OF_CONVERSATION: Final = 3
_APPEND_PLAIN: Final[Call[Any]] = Call("app_append_message", _OF_CONVERSATION + PLAIN)
_APPEND: Final[Call[Any]] = Call("app_append_message", _OF_CONVERSATION + len(COLUMNS))
_APPEND_MANY_PLAIN: Final[Call[Any]] = Call("app_append_messages", _OF_CONVERSATION + PLAIN)
_APPEND_MANY: Final[Call[Any]] = Call("app_append_messages", _OF_CONVERSATION + len(COLUMNS))


class Outcome(NamedTuple):
    """A row that the functions return: a message, and its conversation as it is afterwards."""

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
        """Whether this call stored the message; False is a duplicate."""
        return self.outcome == "inserted"


async def append_messages(
    sender: Sender, conversation_id: UUID, rows: Sequence[Sequence[Any]], *, turn: int | None
) -> dict[str, Outcome]:
    """Append packed messages, each with a key of its own, in one call.

    The conversation's row is locked until the transaction ends, so that `seq` has no gap and a reader that follows the
    conversation skips nothing. Either all that is new is stored, or nothing.

    Args:
        sender: Where the call is sent.
        conversation_id: The conversation.
        rows: At least one message, as `pack` returns it.
        turn: The token of the turn that the caller holds, or None.

    Returns:
        The outcome of each message, by key.

    Raises:
        IdempotencyConflictError: A key belongs to a message with other content, or to another chat's message.
        NotFoundError: The tenant has no such conversation.
        StaleDataError: Another worker has claimed the turn since.
    """
    check_id("conversation_id", conversation_id)
    check_token(turn)
    if len(rows) == 1:
        call = _APPEND_PLAIN if len(rows[0]) == PLAIN else _APPEND
        sent = await sender.call(call, conversation_id, turn, *rows[0])
    else:
        call = _APPEND_MANY_PLAIN if len(rows[0]) == PLAIN else _APPEND_MANY
        sent = await sender.call(call, conversation_id, turn, *as_arrays(rows))
    outcomes = [Outcome._make(row) for row in sent]
    check_outcome(outcomes[0].outcome, outcomes[0].message_id)
    if outcomes[0].outcome == "no_conversation":
        raise NotFoundError(f"this tenant has no Conversation with id {conversation_id}")
    if outcomes[0].outcome == "lost_turn":
        check_is_last(turn, outcomes[0].turn_token)
    return {one.message_id: one for one in outcomes}


def check_outcome(outcome: str, message_id: str) -> None:
    """Check that a key was not refused.

    Raises:
        IdempotencyConflictError: The key belongs to a message with other content, or to another chat's message.
    """
    if outcome == "other_content":
        raise _other_content(message_id)
    if outcome == "other_chat":
        raise IdempotencyConflictError(
            "a message_id is taken by a message of another chat",
            constraint=KEY,
            hint="the key names its chat: <channel>:<account>:<chat>:<id>",
        )


def pack(messages: Sequence[NewMessage]) -> list[tuple[Any, ...]]:
    """Return what the functions are sent of each message, in the order of `COLUMNS`, with a new id and its fingerprint.

    All rows have the same length: where no message brings more, they end after `created_at`.

    Raises:
        ValueError: A time is naive, or a value is none that JSON has.
    """
    is_plain = all(map(_is_plain, messages))
    now = utc_now()
    return [
        (
            *_said(message),
            uuid7(),
            message.fingerprint(),
            _instant("created_at", message.created_at) or now,
            *(() if is_plain else (*_rest(message), *_json(message))),
        )
        for message in messages
    ]


def whole(row: Sequence[Any]) -> dict[str, Any]:
    """Return a packed message's values by column as they are stored, those that it leaves to the defaults included."""
    rest = row[PLAIN:] or (*_PLAIN_REST, *_PLAIN_JSON)
    values = dict(zip(COLUMNS, (*row[:PLAIN], *rest), strict=True))
    for name in _JSON:
        if values[name] is not None:
            values[name] = json.loads(values[name])
    return values


def as_arrays(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Return packed messages as one array a column; of plain ones only their `PLAIN` columns."""
    return [list(values) for values in zip(*rows, strict=True)]


def check_batch(messages: Sequence[NewMessage]) -> None:
    """Check that one call can bring these messages.

    Raises:
        ValueError: There are more than 1000.
    """
    if len(messages) > MAX_BATCH:
        raise ValueError(f"messages must be at most {MAX_BATCH} a call, got {len(messages)}")


def first_of_each_key(messages: Sequence[NewMessage]) -> dict[str, NewMessage]:
    """Return the messages by key; a second message with a key is dropped.

    Raises:
        IdempotencyConflictError: The second one is another message.
    """
    first: dict[str, NewMessage] = {}
    for message in messages:
        before = first.setdefault(message.message_id, message)
        if before is not message and not _is_same(message, before):
            raise _other_content(message.message_id)
    return first


def _is_same(message: NewMessage, other: NewMessage) -> bool:
    """Compare two messages with one key as app_append_messages does: of an edited version only the speaker."""
    said, known = message.fingerprint(), other.fingerprint()
    if said is not None and known is not None and said != known:
        return False
    speaker, its = ((one.role, one.tool_call_id, one.tool_name) for one in (message, other))
    return speaker == its


def _other_content(message_id: str) -> IdempotencyConflictError:
    return IdempotencyConflictError(
        f"message_id {message_id!r} is taken by a message with other content",
        constraint=KEY,
        hint="a changed message keeps its key: `edit` it; another message needs a key of its own",
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
    return json.dumps(clean_json(value, name, of=f"message {message.message_id!r}"), ensure_ascii=False)
