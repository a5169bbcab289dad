"""A message on its way in: what an adapter hands over, and the fingerprint that tells it from another one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

from src.database.base import clean_json, clean_text
from src.database.limits import MESSAGES, Role, State
from src.database.statements.split_characters import SPLIT, has_halves, stored_form

__all__ = ["NewMessage"]

VERSIONS: Final = "versions"
"""The name in a message's `extra` under which `edit` keeps what was there before."""

_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)

_REQUIRED: Final = frozenset({"message_id", "role", "state", "attachments", "extra"})
_LIMITED_ALWAYS: Final = tuple((name, MESSAGES[name]) for name in ("message_id", "role"))
_MOSTLY: Final[tuple[Any, ...]] = ("complete", None, [], None, None, None, None, {})
"""What most messages bring of the other limited attributes: the defaults, which are not checked one by one."""
_LIMITED: Final = (
    *_LIMITED_ALWAYS,
    *((name, MESSAGES[name]) for name in ("state", "parts", "attachments", "tool_call_id")),
    *((name, MESSAGES[name]) for name in ("input_tokens", "output_tokens", "token_count", "extra")),
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
        ValueError: An attribute is out of its limit (`src.database.limits`), or `extra` has "versions".
    """

    message_id: str
    role: Role
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
    state: State = "complete"
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
    """Refuse the name that is kept for what was said before.

    Raises:
        ValueError: It is there.
    """
    if VERSIONS in extra:
        raise ValueError(f"extra must have no {VERSIONS!r}: `edit` keeps there what was said before")
