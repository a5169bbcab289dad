"""Users: found, or made exactly once."""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects.postgresql import insert

from src.database.models import User
from src.database.regional import check_timezone
from src.database.repositories.base import Repository

__all__ = ["UserRepository"]


class UserRepository(Repository[User]):
    """The users of the acting tenant."""

    model = User

    async def get_by_telegram_id(self, telegram_id: int) -> User | None:
        """Return the user with this Telegram id, or None."""
        user: User | None = await self.session.scalar(self._select(User.telegram_id == telegram_id))
        return user

    async def get_or_create_by_telegram_id(self, telegram_id: int, **values: Any) -> tuple[User, bool]:
        """Return the user with this Telegram id, made with these attributes where there was none; any number may ask.

        Returns:
            The user, and whether this call made it. A soft-deleted user is not found; a new one takes the id.

        Raises:
            ValueError: An attribute is unknown, or the zone is no IANA name.
        """
        self._check_attributes(values)
        if "timezone" in values:
            check_timezone(values["timezone"])
        if found := await self.get_by_telegram_id(telegram_id):
            return found, False
        statement = (
            insert(User)
            .values(tenant_id=self.session.tenant_id, telegram_id=telegram_id, **values)
            .on_conflict_do_nothing(
                index_elements=[User.tenant_id, User.telegram_id], index_where=User.deleted_at.is_(None)
            )
            .returning(User)
        )
        # Nothing comes back where another call was faster; it has committed by then, so the next look sees it. Only
        # who deletes the user in between makes a further round.
        while True:
            if created := await self.session.scalar(statement):
                return created, True
            if found := await self.get_by_telegram_id(telegram_id):
                return found, False
