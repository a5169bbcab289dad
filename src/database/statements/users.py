"""Get or create a user by Telegram id or by identity, exactly once; link identities; update a user's attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    Uuid,
    bindparam,
    delete,
    literal,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from src.database.base import check_id, check_time, clean_text, utc_now, uuid7
from src.database.errors import DuplicateKeyError
from src.database.json_values import json_text
from src.database.models import User, UserIdentity, limits
from src.database.session import AsyncSession
from src.database.statements.call import Call
from src.database.statements.fence import TENANT
from src.database.statements.in_session import InSession, entity_columns
from src.database.statements.rows import required
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
OF_IDENTITY: Final = 4
"""The number of arguments that `Identity.arguments` returns."""
_GET_OR_CREATE: Final[Call[Any]] = Call("app_get_or_create_user", _OF_KEY + len(NEW_USER), columns=entity_columns(User))
_BY_IDENTITY: Final[Call[Any]] = Call(
    "app_get_or_create_by_identity", 2 + OF_IDENTITY + len(NEW_USER), columns=entity_columns(User)
)

_KEY: Final = "uq_user_identities_tenant_id_provider_subject"

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


class Identity(NamedTuple):
    """The id of a user at another system.

    Args:
        provider: The system, for example `google` or `whatsapp`: 1 to 255 characters, and not `telegram`.
        subject: The id of the user there, 1 to 255 characters. Upper and lower case differ.
        is_person: False for a sender that is no person, such as a channel or a group. Only for a user that is created.
    """

    provider: str
    subject: str
    is_person: bool = True

    def arguments(self) -> tuple[str, str, bool, UUID]:
        """Return the arguments of an SQL function: this identity, and the id of its row if there is none.

        Raises:
            ValueError: The provider or the subject is not valid.
        """
        check_identity(self.provider, self.subject)
        if not isinstance(self.is_person, bool):
            raise ValueError(f"is_person must be a bool, got {type(self.is_person).__name__}")  # noqa: TRY004 - bad input
        return (*self, uuid7())

    def __repr__(self) -> str:
        """Return the provider, without the subject, which is personal data."""
        return f"<Identity of {self.provider}>"


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


async def get_or_create_by_identity(
    sender: InSession, identity: Identity, values: Mapping[str, Any]
) -> tuple[User, bool]:
    """Return the live user with an identity, and create one if there is none; see `get_or_create_user`."""
    new_id = uuid7()
    sent = new_user_values(values)
    [user] = await sender.entities(_BY_IDENTITY, User, *identity.arguments(), new_id, *sent, refresh=False)
    return user, user.id == new_id


def by_identity(columns: Sequence[Any], tenant_id: Any) -> Select[Any]:
    """Return a select of the live user with an identity, which is the parameters `provider` and `subject`."""
    owner = select(UserIdentity.user_id).where(
        UserIdentity.tenant_id == tenant_id,
        UserIdentity.provider == bindparam("provider"),
        UserIdentity.subject == bindparam("subject"),
    )
    return select(*columns).where(
        User.tenant_id == tenant_id, User.id == owner.scalar_subquery(), User.deleted_at.is_(None)
    )


async def link(session: AsyncSession, user_id: UUID, identity: tuple[str, str]) -> UserIdentity:
    """Add an identity to a user, and return its row; see `UserRepository.link`."""
    check_id("user_id", user_id)
    provider, subject = identity
    check_identity(provider, subject)
    tenant_id = session.tenant_id
    # FOR KEY SHARE, as the foreign key does: the statement waits for a merge or an erasure of the user.
    owner = (
        select(User.tenant_id, literal(uuid7()), User.id, literal(provider), literal(subject))
        .where(User.tenant_id == tenant_id, User.id == user_id, User.deleted_at.is_(None))
        .with_for_update(read=True, key_share=True)
    )
    new = insert(UserIdentity).from_select(["tenant_id", "id", "user_id", "provider", "subject"], owner)
    # Text, since SQLAlchemy correlates no subquery with the table of an INSERT: its FROM would list the table again.
    owner_id: ColumnElement[UUID] = literal_column("user_identities.user_id", Uuid())
    former = select(User.id).where(User.tenant_id == tenant_id, User.id == owner_id, User.deleted_at.is_not(None))
    linked = new.on_conflict_do_update(
        index_elements=["tenant_id", "provider", "subject"],
        set_={"user_id": new.excluded.user_id, "updated_at": new.excluded.updated_at},
        where=or_(UserIdentity.user_id == new.excluded.user_id, former.exists()),
    ).returning(UserIdentity)
    row: UserIdentity | None = await session.scalar(linked, execution_options={"populate_existing": True})
    if row is None:
        live = select(User.id).where(User.tenant_id == tenant_id, User.id == user_id, User.deleted_at.is_(None))
        required(await session.scalar(live), User, user_id)
        raise DuplicateKeyError(
            f"the identity of provider {provider!r} belongs to another user",
            constraint=_KEY,
            hint="get_by_identity returns that user; `merge` makes one user of the two, `unlink` frees the identity",
        )
    return row


async def unlink(session: AsyncSession, user_id: UUID, identity: tuple[str, str]) -> bool:
    """Take an identity away from a user; return False if the user does not have it."""
    check_id("user_id", user_id)
    provider, subject = identity
    check_identity(provider, subject)
    removed = (
        delete(UserIdentity)
        .where(
            UserIdentity.tenant_id == session.tenant_id,
            UserIdentity.user_id == user_id,
            UserIdentity.provider == provider,
            UserIdentity.subject == subject,
        )
        .returning(UserIdentity.id)
    )
    return await session.scalar(removed) is not None


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


def check_identity(provider: object, subject: object) -> None:
    """Check that two values can be the provider and the subject of an identity.

    Raises:
        ValueError: One of them is not a text of 1 to 255 characters, or the provider is `telegram`.
    """
    limits.check_provider(provider)
    limits.check_subject(subject)


def check_telegram_id(telegram_id: object) -> None:
    """Check that a value can be a Telegram id. None cannot: it is stored for every user without one.

    Raises:
        ValueError: The value is not an integer from 1 to 2^63 - 1.
    """
    if not isinstance(telegram_id, int) or isinstance(telegram_id, bool) or not 0 < telegram_id < 2**63:
        got = telegram_id if type(telegram_id) is int else type(telegram_id).__name__
        raise ValueError(
            f"telegram_id must be a whole number above 0, less than 2^63, got {got}; a user of another system has an"
            " Identity(provider, subject)"
        )
