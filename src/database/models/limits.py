"""The limits of values, each stated once: for checks before a statement is sent, for the schemas, and for CHECKs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

from sqlalchemy import event
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.elements import ClauseElement

from src.database.base import Base, clean_text
from src.database.calendar import check_timezone

Role = Literal["system", "developer", "user", "assistant", "tool"]
State = Literal["complete", "incomplete", "interrupted"]
EventStatus = Literal["scheduled", "cancelled", "done"]
TenantStatus = Literal["active", "suspended"]

SLUG_PATTERN: Final = "[a-z0-9][a-z0-9-]{0,62}"
_SLUG: Final = re.compile(SLUG_PATTERN)
LONGEST_LOCALE: Final = 35
LONGEST_IDENTITY: Final = 255
"""The characters of an OpenID Connect subject, and the most for both parts of an identity."""
TELEGRAM: Final = "telegram"
"""The provider of no identity: `users.telegram_id` has the Telegram id of a person."""
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
    """Return True if a value has the form of a language tag (BCP 47), like es or es-MX, of at most 35 characters."""
    return isinstance(tag, str) and len(tag) <= LONGEST_LOCALE and _LOCALE.fullmatch(tag) is not None


def check_locale(tag: str) -> None:
    """Check that a text has the form of a language tag (BCP 47).

    Raises:
        ValueError: The text has another form, or more than 35 characters.
    """
    if not is_locale(tag):
        raise ValueError(
            f"locale must be a language tag like es or pt-BR, at most {LONGEST_LOCALE} characters, got {tag!r}"
        )


def check_slug(slug: object) -> None:
    """Check that a text can be the slug of a tenant.

    Raises:
        ValueError: The text is not 1 to 63 characters from a-z, 0-9 and dashes, or begins with a dash.
    """
    if not isinstance(slug, str) or not _SLUG.fullmatch(slug):
        raise ValueError(
            f"slug must be 1 to 63 characters from a-z, 0-9 and dashes, and not begin with a dash, got {slug!r}"
        )


def check_provider(provider: object) -> None:
    """Check that a value can be the provider of an identity.

    Raises:
        ValueError: The value is not a text of 1 to 255 characters, or is `telegram`.
    """
    _check_exact("provider", provider)
    if str(provider).lower() == TELEGRAM:
        raise ValueError(
            f"provider must not be {TELEGRAM!r}: a person's Telegram id is stored in users.telegram_id;"
            " call get_or_create_by_telegram_id, or set telegram_id with update"
        )


def check_subject(subject: object) -> None:
    """Check that a value can be the subject of an identity.

    Raises:
        ValueError: The value is not a text of 1 to 255 characters.
    """
    _check_exact("subject", subject)


def _check_exact(name: str, value: object) -> None:
    """Check a text that is not cleaned before it is stored: two cleaned identities could become equal."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a str, got {type(value).__name__}")  # noqa: TRY004 - bad input
    if not 1 <= len(value) <= LONGEST_IDENTITY:
        raise ValueError(f"{name} must be 1 to {LONGEST_IDENTITY} characters, got {len(value)}")
    if clean_text(value) != value:
        raise ValueError(
            f"{name} must have no NUL and no lone surrogates, which PostgreSQL cannot store, got one;"
            " encode the text, or use its hash"
        )


# The messages of these checks have the name of the attribute, and no text that a user wrote.


@dataclass(frozen=True, slots=True)
class Length:
    """The limit of a text in characters as it is stored, or of bytes.

    Args:
        minimum: The smallest length.
        maximum: The greatest length.
        kind: `str` or `bytes`.
        rule: A check that is stricter than the length, and replaces it before sending.
        is_key: Reject NUL and lone surrogates. They are replaced in other texts, so that two keys could become one.
    """

    minimum: int
    maximum: int
    kind: type[str | bytes] = str
    rule: Callable[[str], None] | None = None
    is_key: bool = False

    def check(self, name: str, value: Any) -> None:
        """Check a value. None passes: NOT NULL is the server's rule.

        Raises:
            ValueError: The value is outside the limit.
        """
        if value is None:
            return
        if self.rule is not None:
            self.rule(value)
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
        if self.is_key and clean_text(value) != value:
            raise ValueError(f"{name} must have no NUL and no surrogates, got one; encode the text, or use its hash")

    def sql(self, column: str) -> str:
        """Return the condition of a CHECK."""
        span = f"BETWEEN {self.minimum} AND {self.maximum}" if self.minimum else f"<= {self.maximum}"
        return f"length({column}) {span}"


@dataclass(frozen=True, slots=True)
class Whole:
    """The range of a whole number, both ends included."""

    minimum: int
    maximum: int = _INT4

    def check(self, name: str, value: Any) -> None:
        """Check a value, as `Length.check` does."""
        if value is None:
            return
        if not isinstance(value, int) or isinstance(value, bool) or not self.minimum <= value <= self.maximum:
            got = value if isinstance(value, int | float) else type(value).__name__
            raise ValueError(f"{name} must be a whole number from {self.minimum} to {self.maximum}, got {got}")

    def sql(self, column: str) -> str:
        """Return the condition of a CHECK, without the maximum: that is the type's."""
        return f"{column} > {self.minimum - 1}" if self.minimum else f"{column} >= 0"


@dataclass(frozen=True, slots=True)
class OneOf:
    """The words of which a value must be one."""

    words: tuple[str, ...]

    def check(self, name: str, value: Any) -> None:
        """Check a value, as `Length.check` does."""
        if value is not None and value not in self.words:
            got = repr(value) if isinstance(value, str) and len(value) <= _LONGEST_SHOWN else type(value).__name__
            raise ValueError(f"{name} must be one of {', '.join(self.words)}, got {got}")

    def sql(self, column: str) -> str:
        """Return the condition of a CHECK."""
        return f"{column} IN ({', '.join(map(repr, self.words))})"


@dataclass(frozen=True, slots=True)
class Json:
    """A JSON array or object. None is rejected unless `nullable`: it would be stored as the JSON null, not as NULL."""

    kind: Literal["array", "object"]
    nullable: bool = False

    def check(self, name: str, value: Any) -> None:
        """Check a value, as `Length.check` does, except for None."""
        if value is None and self.nullable:
            return
        if not isinstance(value, dict if self.kind == "object" else (list, tuple)):
            wanted = "dict" if self.kind == "object" else "list"
            raise ValueError(f"{name} must be a {wanted}, got {type(value).__name__}")  # noqa: TRY004 - bad input


Limit: TypeAlias = Length | Whole | OneOf | Json

ROLE: Final = OneOf(get_args(Role))
STATE: Final = OneOf(get_args(State))
EVENT_STATUS: Final = OneOf(get_args(EventStatus))
TENANT_STATUS: Final = OneOf(get_args(TenantStatus))
TOKENS: Final = Whole(0)
RETENTION_DAYS: Final = Whole(1)
USERNAME: Final = Length(1, 64)
DISPLAY_NAME: Final = Length(1, 256)
LOCALE: Final = Length(2, LONGEST_LOCALE, rule=check_locale)
TIMEZONE: Final = Length(1, 64, rule=check_timezone)
PROVIDER: Final = Length(1, LONGEST_IDENTITY, rule=check_provider)
SUBJECT: Final = Length(1, LONGEST_IDENTITY, rule=check_subject)
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
SLUG: Final = Length(1, 63, rule=check_slug)
# Together at most 2,304 bytes: an entry of a B-tree has at most 2,704.
NAMESPACE: Final = Length(1, 64, is_key=True)
STATE_KEY: Final = Length(1, 512, is_key=True)

USERS: Final[Mapping[str, Limit]] = {
    "username": USERNAME,
    "display_name": DISPLAY_NAME,
    "locale": LOCALE,
    "timezone": TIMEZONE,
    "retention_days": RETENTION_DAYS,
    "preferences": Json("object"),
    "extra": Json("object"),
}
USER_IDENTITIES: Final[Mapping[str, Limit]] = {
    "provider": PROVIDER,
    "subject": SUBJECT,
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
STATE_ENTRIES: Final[Mapping[str, Limit]] = {
    "namespace": NAMESPACE,
    "key": STATE_KEY,
    "version": Whole(1, _INT8),
    "extra": Json("object"),
}
LIMITS: Final[Mapping[str, Mapping[str, Limit]]] = {
    "users": USERS,
    "user_identities": USER_IDENTITIES,
    "conversations": CONVERSATIONS,
    "message_history": MESSAGES,
    "state_entries": STATE_ENTRIES,
}
"""By table and attribute: limits that no CHECK has, and so are checked on assignment and before each statement."""
TENANTS: Final[Mapping[str, Limit]] = {
    "slug": SLUG,
    "name": TENANT_NAME,
    "status": TENANT_STATUS,
    "retention_days": RETENTION_DAYS,
    "extra": Json("object"),
}
"""The limits of the attributes of a tenant that can be changed."""


def check_limits(limits: Mapping[str, Limit], values: Mapping[str, Any]) -> None:
    """Check values by attribute.

    Raises:
        ValueError: A value is outside its limit.
    """
    for name, value in values.items():
        if (limit := limits.get(name)) is not None:
            _check(limit, name, value)


def _check(limit: Limit, name: str, value: Any) -> None:
    """Check a value, unless it is an SQL expression: only the server knows its value. A `rule` rejects these too."""
    is_sql = isinstance(value, ClauseElement) or hasattr(value, "__clause_element__")
    if not is_sql or (isinstance(limit, Length) and limit.rule is not None):
        limit.check(name, value)


@event.listens_for(Base, "attribute_instrument", propagate=True)
def _check_on_assignment(model: type[Base], name: str, attribute: InstrumentedAttribute[Any]) -> None:
    """Check each value that is assigned to an attribute of an entity, also by its constructor."""
    limit = LIMITS.get(getattr(model, "__tablename__", ""), {}).get(name)
    if limit is None:
        return

    def check(_entity: Base, value: Any, _old: Any, _initiator: Any) -> None:
        _check(limit, name, value)

    event.listen(attribute, "set", check)
