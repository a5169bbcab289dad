"""Users: found, or created exactly once; their personal data is exported or erased."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Executable, func

from src.database.base import clean_text
from src.database.calendar import check_timezone
from src.database.models import User
from src.database.repositories.base import Repository
from src.database.statements import InSession, personal_data, users


class UserRepository(Repository[User]):
    """The users of the current tenant.

    Zone and locale are checked wherever they come in: ValueError.
    """

    model = User

    async def get_by_telegram_id(self, telegram_id: int) -> User | None:
        """Return the user with this Telegram id, or None.

        Raises:
            ValueError: It is no whole number.
        """
        users.check_telegram_id(telegram_id)
        return await self._built(UserRepository._by_telegram_id).first(self.session, telegram_id=telegram_id)

    async def get_by_username(self, username: str) -> User | None:
        """Return the user with this name, in capitals or not, with an @ before it or not; or None.

        Names change hands: of several users it is the one seen last.
        """
        name = clean_text(username.removeprefix("@"))
        statement = self._select(User.username_lower == func.lower(name))
        latest = statement.order_by(User.last_seen_at.desc().nulls_last(), User.id.desc()).limit(1)
        user: User | None = await self.session.scalar(latest)
        return user

    async def get_or_create_by_telegram_id(self, telegram_id: int, **values: Any) -> tuple[User, bool]:
        """Return the user with this Telegram id, made with these attributes where there was none; any number may ask.

        Returns:
            The user, and whether this call made it. A soft-deleted user is not found; a new one takes the id.

        Raises:
            ValueError: The id is no whole number, an attribute is unknown, the zone is no IANA name, or the locale no
                language tag.
        """
        self._check_attributes(values)
        return await users.get_or_create_user(InSession(self.session), telegram_id, values)

    async def set_timezone(self, user_id: UUID, timezone: str) -> User:
        """Set the zone in which a user lives.

        Raises:
            NotFoundError: This tenant has no such user.
            ValueError: The zone is no IANA name.
        """
        check_timezone(timezone)
        return self._found(await users.set_timezone(self.session, user_id, timezone), f"id {user_id}")

    async def touch_seen(self, user_id: UUID, *, now: datetime | None = None) -> bool:
        """Record that a user was seen; it is cheap to call this often.

        Args:
            user_id: Who.
            now: When, for history that is imported; by default the present.

        Returns:
            Whether it was written: False where the user was seen less than a minute before, or later, or is not there.

        Raises:
            ValueError: `now` is naive or too early.
        """
        return await users.touch_seen(self.session, user_id, now)

    def export(self, user_id: UUID) -> AsyncIterator[dict[str, Any]]:
        r"""Yield the personal data of a user, deleted rows too, in constant memory and of one state.

        Yields:
            `{"table": ..., "row": {...}}`, ready for a line of JSON: the user first, then the tables that refer to
            users and what cannot be without their rows. Instants are ISO 8601, bytes are hexadecimal after `\x`.
            What the server derives from other columns is left out.

        Raises:
            NotFoundError: This tenant has no such user, not even a soft-deleted one; nothing was yielded.
        """
        return personal_data.export_user(self.session, user_id)

    async def erase(self, user_id: UUID) -> dict[str, int]:
        """Delete the personal data of a user permanently, in this transaction: what `export` yields, deleted rows too.

        Others' rows that refer to it (an answer, the source of a note) stay and refer to nothing. What others wrote
        about the user stays.

        Returns:
            How many rows were removed from each table.

        Raises:
            DatabaseError: Something is left all the same; roll back.
            DeadlockError: Somebody was writing to the user's conversation; run the whole unit again.
            NotFoundError: This tenant has no such user, not even a soft-deleted one.
        """
        return await personal_data.erase_user(self.session, user_id)

    def _by_telegram_id(self) -> Executable:
        return users.by_telegram_id((User,), self.session.tenant_id)

    def _check_rows(self, rows: Sequence[User]) -> None:
        super()._check_rows(rows)
        for row in rows:
            users.check_profile({"timezone": row.timezone, "locale": row.locale})

    def _check_attributes(self, values: Mapping[str, Any]) -> None:
        super()._check_attributes(values)
        users.check_profile(values)
