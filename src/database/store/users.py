"""Users, as every turn looks for them: by their Telegram id, made where there is none."""

from __future__ import annotations

from typing import Any, Final, cast

from sqlalchemy import CTE, Table, bindparam, exists, false, insert, select, true, union_all

from src.database.base import uuid7
from src.database.errors import DuplicateKeyError
from src.database.models import User
from src.database.repositories.users import check_telegram_id
from src.database.store.calls import Calls
from src.database.store.rows import NOBODY, Profile, UserRow, columns_of
from src.database.store.statement import Statement

__all__ = ["KEY", "NEW_USER", "StoreUsers", "found_user", "made_user"]

KEY: Final = "uq_users_telegram_id"
NEW_USER: Final = ("new_user_id", "username", "display_name", "locale", "timezone")
"""What a call gives of a user who may have to be made."""

_TABLE: Final = cast("Table", User.__table__)


class StoreUsers(Calls):
    """Who speaks."""

    async def user_by_telegram_id(self, telegram_id: int) -> UserRow | None:
        """Return the user with this Telegram id, or None.

        Raises:
            ValueError: It is no whole number above 0.
        """
        check_telegram_id(telegram_id)
        rows = await self._read(_BY_TELEGRAM_ID, telegram_id)
        return UserRow._make(rows[0]) if rows else None

    async def get_or_create_user(self, telegram_id: int, profile: Profile = NOBODY) -> tuple[UserRow, bool]:
        """Return the user with this Telegram id, made of the profile where there was none, and whether it was.

        Raises:
            CheckViolation: A name is too long.
            CommitOutcomeUnknown: The connection was lost before the server answered: call again.
            ValueError: The id is no whole number above 0, the zone no IANA name, or the locale no language tag.
        """
        asked = profile.checked()
        if found := await self.user_by_telegram_id(telegram_id):  # nearly always, and it costs the server half
            return found, False
        values = (telegram_id, uuid7(), *asked)
        while True:  # a further round only where another call was faster
            try:
                [row] = await self._write(_GET_OR_CREATE, *values)
            except DuplicateKeyError as error:
                if error.constraint != KEY:
                    raise
            else:
                *user, created = row
                return UserRow._make(user), created


def found_user() -> CTE:
    """Look for the user with this Telegram id."""
    found = select(*columns_of(UserRow)).where(
        User.tenant_id == bindparam("tenant_id"),
        User.telegram_id == bindparam("telegram_id"),
        User.deleted_at.is_(None),
    )
    return found.cte("found_user")


def made_user(found: CTE, *unless: CTE) -> CTE:
    """Make one where none was found; a unique violation says that another call was faster."""
    values = {
        "tenant_id": bindparam("tenant_id", type_=_TABLE.c.tenant_id.type),
        "id": bindparam("new_user_id", type_=_TABLE.c.id.type),
        "telegram_id": bindparam("telegram_id", type_=_TABLE.c.telegram_id.type),
        **{name: bindparam(name, type_=_TABLE.c[name].type) for name in NEW_USER[1:]},
    }
    nobody = [~exists(select(other.c[0])) for other in (found, *unless)]
    made = insert(_TABLE).from_select(list(values), select(*values.values()).where(*nobody), include_defaults=False)
    return made.returning(*columns_of(UserRow)).cte("made_user")


def _get_or_create() -> Statement[Any]:
    found = found_user()
    made = made_user(found)
    either = union_all(select(*found.c, false().label("created")), select(*made.c, true()))
    return Statement(either, ("tenant_id", "telegram_id", *NEW_USER))


_BY_TELEGRAM_ID: Final[Statement[Any]] = Statement(select(*found_user().c), ("tenant_id", "telegram_id"))
_GET_OR_CREATE: Final = _get_or_create()
