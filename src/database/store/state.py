"""State in the store: values under keys, one round trip a call, and leases, the locks of work between processes."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, partial
from operator import itemgetter
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Select, bindparam

from src.database.base import check_duration, uuid7
from src.database.connect import run_shielded
from src.database.errors import DatabaseError, StaleDataError
from src.database.observability import names_statements
from src.database.statements import TENANT, Page, Read, state
from src.database.store.calls import Calls
from src.database.store.rows import StateRow, columns_of, names_of

LEASE: Final = timedelta(seconds=30)
LEASES: Final = "thea:leases"
"""The namespace of leases."""
_RENEWALS: Final = 3
"""A lease is renewed so many times in its time."""
_MOMENT: Final = timedelta(microseconds=1)
_SHORTEST_WAIT: Final = 0.02
_LONGEST_WAIT: Final = 0.5


@dataclass(slots=True)
class Lease:
    """A lease that is held. ``version`` is a fencing token: it grows with each holder and each renewal."""

    key: str
    version: int
    holder: str = field(default_factory=lambda: str(uuid7()))


@names_statements
class StateStore:
    """The values under keys of the current tenant; `get_store().state`.

    The guarantees and the arguments are those of `StateRepository`. Each call is one atomic statement and one round
    trip, and is committed when the method returns. CommitOutcomeUnknown says that the connection was lost before the
    server answered: a call without `expected_version` can be repeated.

    Args:
        sender: Sends the statements.
    """

    def __init__(self, sender: Calls) -> None:
        self._sender = sender

    async def get_by_key(
        self, namespace: str, key: str, *, user_id: UUID | None = None, conversation_id: UUID | None = None
    ) -> StateRow | None:
        """Return the entry with this key, or None; see `StateRepository.get_by_key`."""
        found = await self.get_by_keys(namespace, [key], user_id=user_id, conversation_id=conversation_id)
        return found.get(key)

    async def get_by_keys(
        self,
        namespace: str,
        keys: Collection[str],
        *,
        user_id: UUID | None = None,
        conversation_id: UUID | None = None,
    ) -> dict[str, StateRow]:
        """Return the entries with these keys by key, without missing ones; see `StateRepository.get_by_keys`."""
        owner = state.Owner(user_id, conversation_id)
        fetch = partial(self._fetch, _BY_KEYS)
        return await state.get_by_keys(fetch, self._sender.tenant_id, owner, namespace, keys)

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
    ) -> Page[StateRow]:
        """Return one page of the entries whose keys begin with a prefix; see `StateRepository.page_by_prefix`."""
        owner = state.Owner(user_id, conversation_id)
        return await state.page_by_prefix(
            partial(self._fetch, _BY_PREFIX[descending]),
            self._sender.tenant_id,
            owner,
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
    ) -> StateRow:
        """Insert an entry, or replace the existing one; see `StateRepository.set`.

        Raises:
            NotFoundError: The tenant has no such user or conversation, or it is deleted.
            StaleDataError: The entry has another version.
            ValueError: The value is not JSON or too large, or another argument is out of range.

        Example:
            entry = await get_store().state.set("cart", "items", ["milk"], expires_in=timedelta(days=1))
            print(entry.value, entry.version, entry.expires_at)
        """
        owner = state.Owner(user_id, conversation_id)
        options: dict[str, Any] = {"expires_in": expires_in, "expected_version": expected_version}
        return (await self._write(owner, namespace, {key: value}, **options))[key]

    async def set_many(
        self,
        namespace: str,
        values: Mapping[str, Any],
        *,
        expires_in: timedelta | None = None,
        user_id: UUID | None = None,
        conversation_id: UUID | None = None,
    ) -> dict[str, StateRow]:
        """Insert or replace entries by key, all or none; see `StateRepository.set_many`."""
        owner = state.Owner(user_id, conversation_id)
        return await self._write(owner, namespace, values, expires_in=expires_in)

    async def merge(
        self,
        namespace: str,
        key: str,
        values: Mapping[str, Any],
        *,
        expires_in: timedelta | None = None,
        user_id: UUID | None = None,
        conversation_id: UUID | None = None,
    ) -> StateRow:
        """Set keys of the JSON object of an entry; see `StateRepository.merge`."""
        owner = state.Owner(user_id, conversation_id)
        return (await self._write(owner, namespace, {key: values}, expires_in=expires_in, merge=True))[key]

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

        See `StateRepository.delete_by_key`.
        """
        owner = state.Owner(user_id, conversation_id)
        return await state.delete_entry(self._sender, owner, namespace, key, expected_version=expected_version)

    @asynccontextmanager
    async def lease(
        self, key: str, *, lease: timedelta = LEASE, wait_seconds: float | None = None
    ) -> AsyncGenerator[Lease, None]:
        """Take a lease and keep it while the body runs: one holder at a time, among all processes of the tenant.

        The lease is an entry that expires, and is renewed until the body ends; no connection is held. If the holder's
        process is killed, the lease is free when its time ends. A caller that waits polls with jitter, in no order.

        Args:
            key: The name of the lease, 1 to 512 characters.
            lease: The time of the lease, at least one second.
            wait_seconds: How long to wait for the lease; None is without limit, and 0 is one attempt.

        Raises:
            StaleDataError: Another holder has the lease, and `wait_seconds` are over. Or the lease was lost, because
                the event loop was blocked or the server could not be reached for the time of the lease: the body is
                cancelled.
            ValueError: The lease is too short or too long, or the key is too long.

        Example:
            async with get_store().state.lease("nightly-report", wait_seconds=0):
                print("only one worker is here")
        """
        check_duration("lease", lease)
        if not timedelta(seconds=1) <= lease <= timedelta(days=1):
            raise ValueError(f"lease must be from one second to one day, got {lease}")
        if wait_seconds is not None and (type(wait_seconds) not in {int, float} or not wait_seconds >= 0):
            raise ValueError(f"wait_seconds must be a number from 0, or None, got {wait_seconds!r}")
        held = await self._acquire(key, lease, wait_seconds)
        renewal: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(lease.total_seconds()) as limit:
                renewal = asyncio.create_task(self._renew(held, lease, limit))
                yield held
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise StaleDataError(
                "the lease was lost while its holder worked; the work was cancelled",
                hint="keep the event loop free, or take a longer lease; another holder may have begun the work",
            ) from error
        finally:
            await run_shielded(self._release(held, renewal))

    async def _acquire(self, key: str, lease: timedelta, wait_seconds: float | None) -> Lease:
        loop = asyncio.get_running_loop()
        ends_at = math.inf if wait_seconds is None else loop.time() + wait_seconds
        held, pause = Lease(key, 0), _SHORTEST_WAIT
        while True:
            try:
                if await run_shielded(self._is_extended(held, lease)):
                    return held
            except asyncio.CancelledError:
                await run_shielded(self._release(held))
                raise
            if (left := ends_at - loop.time()) <= 0:
                raise StaleDataError(
                    "another holder has the lease",
                    hint="wait longer (`wait_seconds`), or leave the work to the holder",
                )
            await asyncio.sleep(min(random.uniform(pause / 2, pause), left))  # noqa: S311 - jitter
            pause = min(pause * 2, _LONGEST_WAIT)

    async def _renew(self, held: Lease, lease: timedelta, limit: asyncio.Timeout) -> None:
        """Renew a lease again and again, and end the body when the lease is lost."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(lease.total_seconds() / _RENEWALS)
            begun = loop.time()
            if begun >= (limit.when() or 0):  # the loop was blocked: another holder may have the lease
                return
            try:
                # Shielded: the version must be known for the release.
                is_extended = await run_shielded(self._is_extended(held, lease))
            except DatabaseError:
                continue  # until the lease ends
            if not is_extended:
                limit.reschedule(begun)
                return
            if not limit.expired():
                limit.reschedule(begun + lease.total_seconds())

    async def _is_extended(self, held: Lease, lease: timedelta) -> bool:
        """Write a lease; return False if another holder has it, which is no error that asyncio should log."""
        try:
            await self._extend(held, lease)
        except StaleDataError:
            return False
        return True

    async def _extend(self, held: Lease, lease: timedelta) -> None:
        """Write a lease, and set its version. The version 0 takes a lease that is free.

        Raises:
            StaleDataError: Another holder has the lease.
        """
        written: dict[str, Any] = {"expires_in": lease, "expected_version": held.version}
        try:
            held.version = (await self.set(LEASES, held.key, held.holder, **written)).version
        except StaleDataError:
            # The answer of an earlier attempt may have been lost, and the lease may be this holder's.
            found = await self.get_by_key(LEASES, held.key) if held.version else None
            if found is None or found.value != held.holder:
                raise
            written["expected_version"] = found.version
            held.version = (await self.set(LEASES, held.key, held.holder, **written)).version

    async def _release(self, held: Lease, renewal: asyncio.Task[None] | None = None) -> None:
        """End a lease by its expiry. A deleted entry would begin with version 1 again, and accept a late renewal."""
        if renewal is not None:
            renewal.cancel()
            await asyncio.wait([renewal])
        if held.version:
            with suppress(DatabaseError):  # then the lease ends by its time
                await self._extend(held, _MOMENT)

    async def _write(
        self, owner: state.Owner, namespace: str, values: Mapping[str, Any], **options: Any
    ) -> dict[str, StateRow]:
        rows = await state.set_entries(self._sender, owner, namespace, values, **options)
        return {row.key: row for row in map(_row, rows)}

    async def _fetch(self, read: Read[Any], *values: Any) -> list[StateRow]:
        return [StateRow._make(row) for row in await self._sender.read(read, *values)]


def _row(record: Any) -> StateRow:
    return StateRow._make(_values()(record))


@cache
def _values() -> itemgetter[Any]:
    """Return a function of a record of `app_set_state` that returns the values of a row."""
    return itemgetter(*names_of(StateRow))


def _select_by_prefix(*, is_descending: bool) -> Select[Any]:
    return state.by_prefix(columns_of(StateRow), bindparam(TENANT), is_descending=is_descending)


_BY_KEYS: Final[Read[Any]] = Read(lambda: state.by_keys(columns_of(StateRow), bindparam(TENANT)), state.OF_KEYS)
_BY_PREFIX: Final[dict[bool, Read[Any]]] = {
    is_descending: Read(
        partial(_select_by_prefix, is_descending=is_descending),
        state.OF_PAGE,
    )
    for is_descending in (False, True)
}
