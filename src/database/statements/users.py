"""Get or create a user by Telegram id, exactly once; update the time zone and the last time that a user was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import BigInteger, Select, Uuid, bindparam, or_, select, update

from src.database.base import check_time, clean_text, utc_now, uuid7
from src.database.json_values import json_text
from src.database.models import User, limits
from src.database.session import AsyncSession
from src.database.statements.call import Call
from src.database.statements.fence import TENANT
from src.database.statements.in_session import InSession, entity_columns
from src.database.statements.sending import CompiledStatement

SEEN_AGAIN_AFTER: Final = timedelta(minutes=1)
"""The resolution of `last_seen_at`: a user that is seen more often is not written each time."""

NEW_USER: Final[Mapping[str, Any]] = {
    "username": None,
    "display_name": None,
    "locale": None,
    "timezone": "UTC",
    "is_active": True,
    "preferences": {},
    "retention_days": None,
    "last_seen_at": None,
    "extra": {},
}
"""The attributes that a new user is created with, in the order of the function's parameters."""
_OF_KEY: Final = 3
_GET_OR_CREATE: Final[Call[Any]] = Call("app_get_or_create_user", _OF_KEY + len(NEW_USER), columns=entity_columns(User))

_LIVE: Final = update(User).where(
    User.tenant_id == bindparam(TENANT, type_=Uuid()),
    User.id == bindparam("user_id"),
    User.deleted_at.is_(None),
)
_SET_TIMEZONE: Final = CompiledStatement(_LIVE.values(timezone=bindparam("new_timezone")).returning(User), User)
_TOUCH: Final = CompiledStatement(
    _LIVE.where(or_(User.last_seen_at.is_(None), User.last_seen_at <= bindparam("before")))
    .values(last_seen_at=bindparam("now"))
    .returning(User),
    User,
)


async def get_or_create_user(sender: InSession, telegram_id: int, values: Mapping[str, Any]) -> tuple[User, bool]:
    """Return the live user with a Telegram id, and create one if there is none.

    Args:
        sender: Sends the call.
        telegram_id: The Telegram id.
        values: The attributes of a new user.

    Returns:
        The user, and True if this call created it.

    Raises:
        ValueError: A user cannot be created with one of the attributes.
    """
    check_telegram_id(telegram_id)
    new_id = uuid7()
    sent = new_user_values(values)
    [user] = await sender.entities(_GET_OR_CREATE, User, telegram_id, new_id, *sent, refresh=False)
    return user, user.id == new_id


def by_telegram_id(columns: Sequence[Any], tenant_id: Any) -> Select[Any]:
    """Return a select of the live user with a Telegram id, which is the parameter `telegram_id`."""
    return select(*columns).where(
        User.tenant_id == tenant_id,
        User.telegram_id == bindparam("telegram_id", type_=BigInteger()),
        User.deleted_at.is_(None),
    )


async def set_timezone(session: AsyncSession, user_id: UUID, timezone: str) -> User | None:
    """Set a user's time zone and return the user; return None if the tenant has no such live user."""
    return await _SET_TIMEZONE.first(session, refresh=True, user_id=user_id, new_timezone=timezone)


async def touch_seen(session: AsyncSession, user_id: UUID, now: datetime | None) -> bool:
    """Set `last_seen_at`; return False if the user was seen less than a minute before, or does not exist.

    Raises:
        ValueError: `now` is naive or too early.
    """
    now = now or utc_now()
    check_time("now", now, back=SEEN_AGAIN_AFTER)
    seen = {"user_id": user_id, "now": now, "before": now - SEEN_AGAIN_AFTER}
    return await _TOUCH.first(session, refresh=True, **seen) is not None


def new_user_values(values: Mapping[str, Any]) -> list[Any]:
    """Return the arguments of `app_get_or_create_user` for the attributes of a new user, as they are stored.

    Raises:
        ValueError: A user cannot be created with one of the attributes.
    """
    for name in values:
        if name not in NEW_USER:
            raise ValueError(f"User.{name} cannot be set by get_or_create; a new user takes {', '.join(NEW_USER)}")
    limits.check_limits(limits.USERS, values)
    return [_stored(name, values.get(name, default)) for name, default in NEW_USER.items()]


def _stored(name: str, value: Any) -> Any:
    if isinstance(NEW_USER[name], dict):
        if not isinstance(value, dict):
            raise ValueError(f"{name} must be a dict, got {type(value).__name__}")  # noqa: TRY004 - bad input
        return json_text(value, name)
    return clean_text(value) if isinstance(value, str) else value


def check_telegram_id(telegram_id: object) -> None:
    """Check that a value can be a Telegram id. None cannot: it is stored for every user without one.

    Raises:
        ValueError: The value is not an integer from 1 to 2^63 - 1.
    """
    if not isinstance(telegram_id, int) or isinstance(telegram_id, bool) or not 0 < telegram_id < 2**63:
        raise ValueError(f"telegram_id must be a whole number above 0, got {telegram_id!r}")
