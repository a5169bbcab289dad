"""Users: look-up, creation exactly once, identities, and the export and erasure of their personal data."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from datetime import datetime
from typing import TYPE_CHECKING, Any, Unpack
from uuid import UUID

from sqlalchemy import Executable, func

from src.database.base import clean_text
from src.database.calendar import check_timezone
from src.database.models import User, UserIdentity
from src.database.repositories.base import Repository, Upserted
from src.database.statements import InSession, personal_data, user_merges, users

if TYPE_CHECKING:
    from src.database.models import attributes


class UserRepository(Repository[User]):
    """The users of the current tenant. A time zone or locale that is invalid raises ValueError on assignment."""

    model = User

    async def get_by_telegram_id(self, telegram_id: int) -> User | None:
        """Return the user with this Telegram id, or None.

        Raises:
            ValueError: `telegram_id` is not a whole number above 0.
        """
        users.check_telegram_id(telegram_id)
        return await self._built(UserRepository._by_telegram_id).first(self.session, telegram_id=telegram_id)

    async def get_by_identity(self, provider: str, subject: str) -> User | None:
        """Return the user with this identity, or None.

        Raises:
            ValueError: The provider or the subject is not a text of 1 to 255 characters, or the provider is `telegram`.
        """
        users.check_identity(provider, subject)
        build = UserRepository._by_identity
        return await self._built(build).first(self.session, provider=provider, subject=subject)

    async def get_by_username(self, username: str) -> User | None:
        """Return the user with this username, or None. Case and a leading @ are ignored.

        Telegram usernames can pass from one person to another: if several users have the name, the one seen last is
        returned.
        """
        name = clean_text(username.removeprefix("@"))
        statement = self._select(User.username_lower == func.lower(name))
        latest = statement.order_by(User.last_seen_at.desc().nulls_last(), User.id.desc()).limit(1)
        user: User | None = await self.session.scalar(latest)
        return user

    if TYPE_CHECKING:

        async def update(  # type: ignore[override] # only its attributes
            self,
            row_id: UUID,
            /,
            *,
            expected: attributes.UserAttributes | None = None,
            **values: Unpack[attributes.UserChanges],
        ) -> User:
            """Update attributes of a user; see `Repository.update`."""

        async def upsert(self, values: attributes.UserUpsert, *, key: Collection[str]) -> Upserted[User]:  # type: ignore[override] # only its attributes
            """Insert or update a user; see `Repository.upsert`."""

    async def get_or_create_by_telegram_id(
        self, telegram_id: int, **values: Unpack[attributes.NewUser]
    ) -> tuple[User, bool]:
        """Return the user with this Telegram id, creating it if there is none. Concurrent calls create one user.

        Args:
            telegram_id: The Telegram id.
            values: Attributes of the user to create.

        Returns:
            The user, and True if this call created it. A soft-deleted user is not found: a new user gets the id.

        Raises:
            ValueError: The id is not a whole number above 0, or an attribute is unknown or outside its limit.

        Example:
            users = UserRepository(session)
            user, is_new = await users.get_or_create_by_telegram_id(42, display_name="Ada", locale="es")
        """
        self._check_attributes(values)
        return await users.get_or_create_user(InSession(self.session), telegram_id, values)

    async def get_or_create_by_identity(
        self, provider: str, subject: str, *, is_person: bool = True, **values: Unpack[attributes.NewUser]
    ) -> tuple[User, bool]:
        """Return the user with an identity, creating both if there is none. Concurrent calls create one user.

        Args:
            provider: The system that knows the user under `subject`, for example `google` or `whatsapp`.
            subject: The id of the user there. Upper and lower case differ.
            is_person: False for a sender that is no person, such as a channel or a group. Only for a new user.
            values: Further attributes of the user to create.

        Returns:
            The user, and True if this call created it. A soft-deleted user is not found: a new user gets the identity.

        Raises:
            ValueError: The provider or the subject is not a text of 1 to 255 characters, the provider is `telegram`, or
                an attribute is unknown or outside its limit.

        Example:
            users = UserRepository(session)
            user, is_new = await users.get_or_create_by_identity("google", "10769150350006150715113082367")
        """
        self._check_attributes(values)
        identity = users.Identity(provider, subject, is_person)
        return await users.get_or_create_by_identity(InSession(self.session), identity, values)

    async def link(self, user_id: UUID, provider: str, subject: str) -> UserIdentity:
        """Add an identity to a user. A second call changes nothing. The identity of a deleted user is free.

        Raises:
            DuplicateKeyError: The identity belongs to another user: see `merge`.
            NotFoundError: The tenant has no such user.
            ValueError: The provider or the subject is not valid; see `get_or_create_by_identity`.
        """
        return await users.link(self.session, user_id, (provider, subject))

    async def unlink(self, user_id: UUID, provider: str, subject: str) -> bool:
        """Take an identity away from a user. The next user who comes with the identity is a new one.

        Returns:
            False if the user does not have the identity.

        Raises:
            ValueError: The provider or the subject is not valid; see `get_or_create_by_identity`.
        """
        return await users.unlink(self.session, user_id, (provider, subject))

    async def merge(self, user_id: UUID, other_id: UUID) -> User:
        """Make one user of two, in this transaction: all rows of the second become rows of the first.

        Conversations, messages, events, notes, identities and the rows of a service's tables move, soft-deleted ones
        too. Of two active conversations of one chat, the one with the older last message is closed. A turn of the
        second user that runs at the same time continues as a turn of the first.

        The second user is deleted permanently, as by `erase`: a write under its id raises ForeignKeyError. The first
        user takes over its Telegram id, username, name and locale where it has none, the missing keys of `preferences`
        and `extra`, and the later `last_seen_at`. `extra["merged_users"]` has the deleted row. The time zone,
        retention, `is_active` and `is_person` are those of the first.

        Args:
            user_id: The user that stays.
            other_id: The user that is merged into it.

        Returns:
            The user that stays.

        Raises:
            DeadlockError: Another transaction was writing to a conversation of one of the two. Repeat the whole
                transaction.
            DuplicateKeyError: Both have a row of one table with one key, for example an event with one `ical_uid`.
                Roll back.
            IntegrityError: Both have a Telegram id, or an identity of one provider. Nothing was written.
            NotFoundError: The tenant has no such user.
            ValueError: Both are one user.
        """
        return await user_merges.merge(self.session, user_id, other_id)

    async def set_timezone(self, user_id: UUID, timezone: str) -> User:
        """Set the time zone of a user.

        Raises:
            NotFoundError: The tenant has no such user.
            ValueError: `timezone` is not an IANA name.
        """
        check_timezone(timezone)
        return self._found(await users.set_timezone(self.session, user_id, timezone), f"id {user_id}")

    async def touch_seen(self, user_id: UUID, *, now: datetime | None = None) -> bool:
        """Record that a user was seen. Call it for each message: at most one call in a minute writes.

        Args:
            user_id: The user's id.
            now: The time; by default the current time. Set it to import history.

        Returns:
            True if the time was written. False if the user was seen less than a minute before `now`, or later, or is
            missing.

        Raises:
            ValueError: `now` is naive, or in the first minute of the year 1.
        """
        return await users.touch_seen(self.session, user_id, now)

    def export(self, user_id: UUID) -> AsyncIterator[dict[str, Any]]:
        r"""Yield the personal data of a user, including soft-deleted rows, in constant memory and from one snapshot.

        Yields:
            `{"table": ..., "row": {...}}`, which `json.dumps` accepts: the user first, then the rows that refer to the
            user, and the rows that depend on those. Instants are in ISO 8601, bytes in hexadecimal after `\x`.
            Generated columns are left out.

        Raises:
            NotFoundError: The tenant has no such user, not even a soft-deleted one. Nothing was yielded.

        Example:
            import json

            lines = [json.dumps(row) async for row in UserRepository(session).export(user.id)]
        """
        return personal_data.export_user(self.session, user_id)

    async def erase(self, user_id: UUID) -> dict[str, int]:
        """Delete the personal data of a user permanently, in this transaction: all rows that `export` yields.

        Rows of other users that refer to one of these (an answer, a note's source) stay, and their reference is set to
        NULL. What other users wrote about the user stays.

        Returns:
            The number of deleted rows of each table.

        Raises:
            DatabaseError: Rows of the user are left. Roll back.
            DeadlockError: Another transaction was writing to a conversation of the user. Repeat the whole transaction.
            NotFoundError: The tenant has no such user, not even a soft-deleted one.
        """
        return await personal_data.erase_user(self.session, user_id)

    def _by_identity(self) -> Executable:
        return users.by_identity((User,), self.session.tenant_id)

    def _by_telegram_id(self) -> Executable:
        return users.by_telegram_id((User,), self.session.tenant_id)
