"""State: values under keys, of the tenant, a user or a conversation."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack
from uuid import UUID

from sqlalchemy import Select

from src.database.models import StateEntry
from src.database.repositories.base import Condition, Repository, Upserted
from src.database.statements import InSession, Page, state

if TYPE_CHECKING:
    from src.database.models import attributes


class StateRepository(Repository[StateEntry]):
    """The entries of state of the current tenant. Expired entries are treated as missing.

    An entry belongs to a user (`user_id=`), to a conversation (`conversation_id=`), or without both to the tenant. The
    entries of a deleted user or conversation are treated as missing too; they are deleted permanently with their owner,
    and are part of the export of the user's data.
    """

    model = StateEntry
    insert_only = ("user_id", "conversation_id", "namespace", "key")

    if TYPE_CHECKING:

        async def update(  # type: ignore[override] # only its attributes
            self,
            row_id: UUID,
            /,
            *,
            expected: attributes.StateEntryAttributes | None = None,
            **values: Unpack[attributes.StateEntryChanges],
        ) -> StateEntry:
            """Update attributes of an entry; see `Repository.update`."""

        async def upsert(  # type: ignore[override] # only its attributes
            self, values: attributes.StateEntryUpsert, *, key: Collection[str]
        ) -> Upserted[StateEntry]:
            """Insert or update an entry; see `Repository.upsert`."""

    async def get_by_key(
        self, namespace: str, key: str, *, user_id: UUID | None = None, conversation_id: UUID | None = None
    ) -> StateEntry | None:
        """Return the entry with this key, or None.

        Args:
            namespace: The namespace, 1 to 64 characters.
            key: The key, 1 to 512 characters.
            user_id: The user that the entry belongs to.
            conversation_id: The conversation that the entry belongs to.

        Raises:
            ValueError: The namespace or the key is not a text of this length, or both owners are given.
        """
        found = await self.get_by_keys(namespace, [key], user_id=user_id, conversation_id=conversation_id)
        return found.get(key)

    async def get_by_keys(
        self,
        namespace: str,
        keys: Collection[str],
        *,
        user_id: UUID | None = None,
        conversation_id: UUID | None = None,
    ) -> dict[str, StateEntry]:
        """Return the entries with these keys, at most 1000, by key. Missing ones are left out."""
        fetch = partial(self._fetch, StateRepository._by_keys, state.OF_KEYS)
        owner = state.Owner(user_id, conversation_id)
        return await state.get_by_keys(fetch, self.session.tenant_id, owner, namespace, keys)

    async def page_by_prefix(
        self,
        namespace: str,
        prefix: str = "",
        *,
        start: str | None = None,
        stop: str | None = None,
        descending: bool = False,
        after: str | None = None,
        limit: int = 50,
        user_id: UUID | None = None,
        conversation_id: UUID | None = None,
    ) -> Page[StateEntry]:
        """Return one page of the entries whose keys begin with a prefix, in the order of the keys by code point.

        Args:
            namespace: The namespace.
            prefix: The prefix as plain text; `%` and `_` have no other meaning. Without it, all entries.
            start: The first key, if the page begins within the prefix.
            stop: A key that ends the range: only keys before `stop` are returned.
            descending: Return the last key first.
            after: The `next_cursor` of the previous page; None for the first page.
            limit: The largest number of entries in the page, 1 to 1000.
            user_id: The user that the entries belong to.
            conversation_id: The conversation that the entries belong to.

        Raises:
            InvalidCursorError: The cursor is not from this query.
            ValueError: An argument is out of range.
        """
        build = StateRepository._by_prefix_descending if descending else StateRepository._by_prefix
        return await state.page_by_prefix(
            partial(self._fetch, build, state.OF_PAGE),
            self.session.tenant_id,
            state.Owner(user_id, conversation_id),
            namespace,
            prefix=prefix,
            start=start,
            stop=stop,
            is_descending=descending,
            after=after,
            limit=limit,
        )

    async def set(
        self,
        namespace: str,
        key: str,
        value: Any,
        *,
        expires_in: timedelta | None = None,
        expected_version: int | None = None,
        user_id: UUID | None = None,
        conversation_id: UUID | None = None,
    ) -> StateEntry:
        """Insert an entry, or replace the value and the expiry of the existing entry, in one atomic statement.

        Args:
            namespace: The namespace, 1 to 64 characters.
            key: The key, 1 to 512 characters.
            value: A JSON value or bytes, at most 16 MiB.
            expires_in: The time after which the entry counts as missing; None is unlimited.
            expected_version: The version of the entry that the caller has read; 0 if there must be no entry. By default
                any entry is replaced.
            user_id: The user that the entry belongs to.
            conversation_id: The conversation that the entry belongs to.

        Returns:
            The entry. Its version is 1 if there was no entry. It continues after an expired entry, until retention has
            deleted that.

        Raises:
            NotFoundError: The tenant has no such user or conversation, or it is deleted.
            StaleDataError: The entry has another version.
            ValueError: The value is not JSON or too large, or another argument is out of range.

        Example:
            entries = StateRepository(session)
            entry = await entries.set("cart", "items", ["milk"], user_id=user.id)
            await entries.set("cart", "items", ["milk", "tea"], user_id=user.id, expected_version=entry.version)
        """
        owner = state.Owner(user_id, conversation_id)
        options: dict[str, Any] = {"expires_in": expires_in, "expected_version": expected_version}
        [entry] = await self._write(owner, namespace, {key: value}, **options)
        return entry

    async def set_many(
        self,
        namespace: str,
        values: Mapping[str, Any],
        *,
        expires_in: timedelta | None = None,
        user_id: UUID | None = None,
        conversation_id: UUID | None = None,
    ) -> dict[str, StateEntry]:
        """Insert or replace entries by key, at most 1000, in one atomic statement; see `set`."""
        owner = state.Owner(user_id, conversation_id)
        written = await self._write(owner, namespace, values, expires_in=expires_in)
        return {entry.key: entry for entry in written}

    async def merge(
        self,
        namespace: str,
        key: str,
        values: Mapping[str, Any],
        *,
        expires_in: timedelta | None = None,
        user_id: UUID | None = None,
        conversation_id: UUID | None = None,
    ) -> StateEntry:
        """Set keys of the JSON object of an entry in one atomic statement. Concurrent changes of other keys are kept.

        A missing entry is inserted. A value that is not an object is replaced. Arguments and errors are those of `set`,
        but without `expires_in` the expiry stays.

        Raises:
            CheckViolation: The object would be larger than 32 MiB.

        Example:
            entry = await StateRepository(session).merge("form", "answers", {"city": "Lima"}, user_id=user.id)
            print(entry.value)
        """
        owner = state.Owner(user_id, conversation_id)
        [entry] = await self._write(owner, namespace, {key: values}, expires_in=expires_in, merge=True)
        return entry

    async def delete_by_key(
        self,
        namespace: str,
        key: str,
        *,
        expected_version: int | None = None,
        user_id: UUID | None = None,
        conversation_id: UUID | None = None,
    ) -> bool:
        """Delete the entry with this key permanently; return False if there is none.

        Raises:
            StaleDataError: The entry has another version than expected, or is missing.
            ValueError: An argument is out of range.
        """
        owner = state.Owner(user_id, conversation_id)
        sender = InSession(self.session)
        is_deleted = await state.delete_entry(sender, owner, namespace, key, expected_version=expected_version)
        place = (owner.id_in(self.session.tenant_id), namespace, key)
        for row in list(self.session.sync_session.identity_map.values()):  # a flush of a deleted row would fail
            if isinstance(row, StateEntry) and (row.owner_id, row.namespace, row.key) == place:
                self.session.expunge(row)
        return is_deleted

    async def delete_by_keys(
        self,
        namespace: str,
        keys: Collection[str],
        *,
        user_id: UUID | None = None,
        conversation_id: UUID | None = None,
    ) -> int:
        """Delete the entries with these keys, at most 1000, permanently; return their number."""
        return await state.delete_by_keys(self.session, state.Owner(user_id, conversation_id), namespace, keys)

    async def delete_by_prefix(
        self,
        namespace: str,
        prefix: str,
        *,
        start: str | None = None,
        stop: str | None = None,
        user_id: UUID | None = None,
        conversation_id: UUID | None = None,
    ) -> int:
        """Delete the entries whose keys begin with a prefix permanently; return their number.

        The arguments are those of `page_by_prefix`. An empty prefix deletes all entries of the namespace.
        """
        owner = state.Owner(user_id, conversation_id)
        return await state.delete_by_prefix(self.session, owner, namespace, prefix, start=start, stop=stop)

    async def _write(
        self, owner: state.Owner, namespace: str, values: Mapping[str, Any], **options: Any
    ) -> list[StateEntry]:
        sender = InSession(self.session)
        return sender.load_records(StateEntry, await state.set_entries(sender, owner, namespace, values, **options))

    async def _fetch(self, build: Any, names: Collection[str], *values: Any) -> list[StateEntry]:
        # Refreshed: the caller compares versions, and another writer may have changed an entry that was read earlier.
        named = dict(zip(names, values, strict=True))
        return await self._built(build).rows(self.session, refresh=True, **named)

    def _by_keys(self) -> Select[Any]:
        return state.by_keys((StateEntry,), self._tenant)

    def _by_prefix(self) -> Select[Any]:
        return state.by_prefix((StateEntry,), self._tenant)

    def _by_prefix_descending(self) -> Select[Any]:
        return state.by_prefix((StateEntry,), self._tenant, is_descending=True)

    def _live(self) -> list[Condition]:
        return [state.is_live()]
