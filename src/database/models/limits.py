"""The limits of values, each stated once: for what is checked before it is sent, for inputs, and for CHECKs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, get_args

from sqlalchemy import event
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.elements import ClauseElement

from src.database.base import Base, clean_text
from src.database.calendar import check_timezone

Role = Literal["system", "developer", "user", "assistant", "tool"]
State = Literal["complete", "incomplete", "interrupted"]

LONGEST_LOCALE: Final = 35
# RFC 5646, section 2.1: language, script, region, variants, extensions, private use; or private use alone.
_LOCALE: Final = re.compile(
    r"(?:[a-z]{2,3}(?:-[a-z]{3}){0,3}|[a-z]{4,8})"
    r"(?:-[a-z]{4})?"
    r"(?:-(?:[a-z]{2}|[0-9]{3}))?"
    r"(?:-(?:[a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*"
    r"(?:-[a-wyz0-9](?:-[a-z0-9]{2,8})+)*"
    r"(?:-x(?:-[a-z0-9]{1,8})+)?"
    r"|x(?:-[a-z0-9]{1,8})+",
    re.ASCII | re.IGNORECASE,
)
_INT4: Final = 2**31 - 1
_INT8: Final = 2**63 - 1
_LONGEST_SHOWN: Final = 40


def is_locale(tag: object) -> bool:
    """Return True for a text in the form of a language tag (BCP 47) of at most 35 characters: es, es-MX."""
    return isinstance(tag, str) and len(tag) <= LONGEST_LOCALE and _LOCALE.fullmatch(tag) is not None


def check_locale(tag: str) -> None:
    """Check that a text has the form of a language tag (BCP 47).

    Raises:
        ValueError: It has another form, or is longer than 35 characters.
    """
    if not is_locale(tag):
        raise ValueError(
            f"locale must be a language tag like es or pt-BR, at most {LONGEST_LOCALE} characters, got {tag!r}"
        )


class Limit(Protocol):
    """A rule for a value."""

    def check(self, name: str, value: Any) -> None:
        """Check a value; None is left to the column's NOT NULL.

        Raises:
            ValueError: It is out of the limit; the message has the name, and no text of the value.
        """


@dataclass(frozen=True, slots=True)
class Length:
    """A text of so many characters, as it is stored; or so many bytes."""

    minimum: int
    maximum: int
    kind: type[str | bytes] = str

    def check(self, name: str, value: Any) -> None:
        """Check a value."""
        if value is None:
            return
        if not isinstance(value, self.kind):
            raise ValueError(f"{name} must be a {self.kind.__name__}, got {type(value).__name__}")  # noqa: TRY004 - bad input
        length = len(value)
        if length > self.maximum and isinstance(value, str):
            length = len(clean_text(value))  # a pair of surrogates is stored as one character
        if not self.minimum <= length <= self.maximum:
            unit = "characters" if self.kind is str else "bytes"
            span = f"at most {self.maximum}" if self.minimum == 0 else f"{self.minimum} to {self.maximum}"
            raise ValueError(f"{name} must be {span} {unit}, got {length}")

    def sql(self, column: str) -> str:
        """Return the CHECK's condition."""
        span = f"BETWEEN {self.minimum} AND {self.maximum}" if self.minimum else f"<= {self.maximum}"
        return f"length({column}) {span}"


@dataclass(frozen=True, slots=True)
class Named(Length):
    """A name that has a rule of its own, which is stricter than its length."""

    rule: Callable[[str], None] = check_locale

    def check(self, name: str, value: Any) -> None:
        """Check a value."""
        if value is not None:
            self.rule(value)


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number."""

    minimum: int
    maximum: int = _INT4

    def check(self, name: str, value: Any) -> None:
        """Check a value."""
        if value is None:
            return
        if not isinstance(value, int) or isinstance(value, bool) or not self.minimum <= value <= self.maximum:
            got = value if isinstance(value, int | float) else type(value).__name__
            raise ValueError(f"{name} must be a whole number from {self.minimum} to {self.maximum}, got {got}")

    def sql(self, column: str) -> str:
        """Return the CHECK's condition; the maximum is the type's."""
        return f"{column} > {self.minimum - 1}" if self.minimum else f"{column} >= 0"


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of these words."""

    words: tuple[str, ...]

    def check(self, name: str, value: Any) -> None:
        """Check a value."""
        if value is not None and value not in self.words:
            got = repr(value) if isinstance(value, str) and len(value) <= _LONGEST_SHOWN else type(value).__name__
            raise ValueError(f"{name} must be one of {', '.join(self.words)}, got {got}")

    def sql(self, column: str) -> str:
        """Return the CHECK's condition."""
        return f"{column} IN ({', '.join(map(repr, self.words))})"


@dataclass(frozen=True, slots=True)
class Json:
    """A JSON array, or an object. JSON's null is neither, so None is refused where the column has no NULL."""

    kind: Literal["array", "object"]
    nullable: bool = False

    def check(self, name: str, value: Any) -> None:
        """Check a value."""
        if value is None and self.nullable:
            return
        if not isinstance(value, dict if self.kind == "object" else (list, tuple)):
            raise ValueError(  # noqa: TRY004 - bad input
                f"{name} must be a {'dict' if self.kind == 'object' else 'list'}, got {type(value).__name__}"
            )


ROLE: Final = OneOf(get_args(Role))
STATE: Final = OneOf(get_args(State))
TOKENS: Final = Whole(0)
RETENTION_DAYS: Final = Whole(1)
USERNAME: Final = Length(1, 64)
DISPLAY_NAME: Final = Length(1, 256)
LOCALE: Final = Named(2, LONGEST_LOCALE, rule=check_locale)
TIMEZONE: Final = Named(1, 64, rule=check_timezone)
SESSION_ID: Final = Length(1, 255)
CHANNEL: Final = Length(1, 64)
CHAT_ID: Final = Length(1, 255)
MESSAGE_ID: Final = Length(1, 512)
TOOL_CALL_ID: Final = Length(0, 255)
TITLE: Final = Length(1, 500)
NOTE: Final = Length(1, 100_000)
RRULE: Final = Length(1, 2000)
ICAL_UID: Final = Length(0, 255)
TENANT_NAME: Final = Length(1, 200)
SLUG: Final = "[a-z0-9][a-z0-9-]{0,62}"
"""The pattern of a tenant's slug."""

USERS: Final[Mapping[str, Limit]] = {
    "username": USERNAME,
    "display_name": DISPLAY_NAME,
    "locale": LOCALE,
    "timezone": TIMEZONE,
    "retention_days": RETENTION_DAYS,
    "preferences": Json("object"),
    "extra": Json("object"),
}
CONVERSATIONS: Final[Mapping[str, Limit]] = {
    "session_id": SESSION_ID,
    "channel": CHANNEL,
    "external_chat_id": CHAT_ID,
    "last_seq": Whole(0, _INT8),
    "summary_upto_seq": Whole(0, _INT8),
    "turn_token": Whole(0, _INT8),
    "extra": Json("object"),
}
MESSAGES: Final[Mapping[str, Limit]] = {
    "message_id": MESSAGE_ID,
    "role": ROLE,
    "state": STATE,
    "parts": Json("array", nullable=True),
    "attachments": Json("array"),
    "tool_call_id": TOOL_CALL_ID,
    "input_tokens": TOKENS,
    "output_tokens": TOKENS,
    "token_count": TOKENS,
    "seq": Whole(1, _INT8),
    "fingerprint": Length(32, 32, bytes),
    "extra": Json("object"),
}
LIMITS: Final[Mapping[str, Mapping[str, Limit]]] = {
    "users": USERS,
    "conversations": CONVERSATIONS,
    "message_history": MESSAGES,
}
"""By table and attribute."""


def check_limits(limits: Mapping[str, Limit], values: Mapping[str, Any]) -> None:
    """Check values by attribute; SQL expressions are left to the server.

    Raises:
        ValueError: One of them is out of its limit; the message names it.
    """
    for name, value in values.items():
        if (limit := limits.get(name)) is not None and not _is_sql(value):
            limit.check(name, value)


def _is_sql(value: Any) -> bool:
    return isinstance(value, ClauseElement) or hasattr(value, "__clause_element__")


@event.listens_for(Base, "attribute_instrument", propagate=True)
def _check_on_assignment(model: type[Base], name: str, attribute: InstrumentedAttribute[Any]) -> None:
    """Check what is assigned to an attribute of an entity, in its constructor too: no flush sends what is refused."""
    limit = LIMITS.get(getattr(model, "__tablename__", ""), {}).get(name)
    if limit is None:
        return

    def check(_entity: Base, value: Any, _old: Any, _initiator: Any) -> None:
        if not _is_sql(value):
            limit.check(name, value)

    event.listen(attribute, "set", check)
