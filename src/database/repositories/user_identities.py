"""The identities of users at other systems."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from src.database.models import UserIdentity
from src.database.repositories.base import Repository, Upserted

if TYPE_CHECKING:
    from src.database.models import attributes


class UserIdentityRepository(Repository[UserIdentity]):
    """The identities of the current tenant's users. `UserRepository` finds, links, unlinks and merges users by them."""

    model = UserIdentity
    insert_only = ("user_id", "provider", "subject")

    if TYPE_CHECKING:

        async def update(  # type: ignore[override] # only its attributes
            self,
            row_id: UUID,
            /,
            *,
            expected: attributes.UserIdentityAttributes | None = None,
            **values: Unpack[attributes.UserIdentityChanges],
        ) -> UserIdentity:
            """Update attributes of an identity; see `Repository.update`."""

        async def upsert(  # type: ignore[override] # only its attributes
            self, values: attributes.UserIdentityUpsert, *, key: Collection[str]
        ) -> Upserted[UserIdentity]:
            """Insert or update an identity; see `Repository.upsert`."""
