"""Checkpoints, values of channels and writes of one owner: reading, storing and deleting them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from src.database.errors import StaleDataError
from src.database.integrations.langgraph.records import CHECKPOINTS, NAMESPACE, Place, Record, Writes
from src.database.repositories import StateRepository
from src.database.statements import MAX_LIMIT
from src.database.store import StateStore

PAGE: Final = 50
"""Checkpoints and writes in one read: their values can be large."""


@dataclass(frozen=True, slots=True)
class Entries:
    """The state entries of a user, or without a user of the tenant, through the store or in a session."""

    state: StateStore | StateRepository
    user_id: UUID | None

    async def get_many(self, keys: Collection[str]) -> dict[str, bytes]:
        """Return the values of keys, without missing ones."""
        found: dict[str, bytes] = {}
        for some in _batches(keys):
            entries: Mapping[str, Any] = await self.state.get_by_keys(NAMESPACE, some, user_id=self.user_id)
            found |= {key: entry.value for key, entry in entries.items()}
        return found

    async def pages(self, prefix: str, **options: Any) -> AsyncIterator[list[tuple[str, bytes]]]:
        """Yield pages of the keys and values of a range of keys."""
        after: str | None = None
        while True:
            page: Any = await self.state.page_by_prefix(
                NAMESPACE, prefix, after=after, user_id=self.user_id, **{"limit": PAGE, **options}
            )
            if page.items:
                yield [(entry.key, entry.value) for entry in page.items]
            if (after := page.next_cursor) is None:
                return

    async def records(self, prefix: str = CHECKPOINTS) -> AsyncIterator[Record]:
        """Yield the checkpoints of a place, a thread or the owner."""
        async for page in self.pages(prefix):
            for _, value in page:
                yield Record.unpacked(value)

    async def latest(self, place: Place) -> Record | None:
        """Return the checkpoint of a place with the greatest id, or None."""
        async for page in self.pages(place.key("c"), descending=True, limit=1):
            return Record.unpacked(page[0][1])
        return None

    async def writes(self, records: Iterable[Record]) -> dict[str, list[Writes]]:
        """Return the writes of checkpoints by the prefix of their keys."""
        ranges: dict[Place, list[str]] = {}
        for record in records:
            ranges.setdefault(record.place, []).append(record.checkpoint_id)
        found: dict[str, list[Writes]] = {}
        for place, ids in ranges.items():
            stop = place.writes(max(ids)).removesuffix("/") + "0"  # the character after the slash
            async for page in self.pages(place.key("w"), start=place.writes(min(ids)), stop=stop):
                for key, value in page:
                    # The prefix ends before the task and the index.
                    found.setdefault(key.rsplit("/", 2)[0] + "/", []).append(Writes.unpacked(value))
        return found

    async def set_many(self, values: Mapping[str, bytes]) -> None:
        """Insert or replace values by key; the last ones of more than 1000 last."""
        for keys in _batches(values):
            await self.state.set_many(NAMESPACE, {key: values[key] for key in keys}, user_id=self.user_id)

    async def set_missing(self, key: str, writes: Writes) -> None:
        """Store writes; keep those with the same index that are stored already."""
        version, merged = 0, writes
        while True:
            try:
                await self.state.set(NAMESPACE, key, merged.packed(), expected_version=version, user_id=self.user_id)
            except StaleDataError:
                entry: Any = await self.state.get_by_key(NAMESPACE, key, user_id=self.user_id)
                if entry is None:  # deleted in between
                    version, merged = 0, writes
                    continue
                stored = Writes.unpacked(entry.value)
                version, merged = entry.version, replace(stored, by_index={**writes.by_index, **stored.by_index})
                if merged == stored:
                    return
            else:
                return


@dataclass(frozen=True, slots=True)
class Deletion:
    """The deletion of checkpoints in a session."""

    state: StateRepository
    user_id: UUID | None

    async def all_of(self, prefixes: Iterable[str]) -> None:
        """Delete all entries whose keys have one of the prefixes."""
        for prefix in prefixes:
            await self.state.delete_by_prefix(NAMESPACE, prefix, user_id=self.user_id)

    async def before(self, record: Record) -> None:
        """Delete the checkpoints of a place before one, with their writes.

        A run can store writes before their checkpoint: later writes can belong to one that is not stored yet.
        """
        place = record.place
        for prefix, stop in (
            (place.key("c"), record.key),
            (place.key("w"), place.writes(record.checkpoint_id)),
        ):
            await self.state.delete_by_prefix(NAMESPACE, prefix, stop=stop, user_id=self.user_id)

    async def keys(self, keys: Collection[str]) -> None:
        """Delete the entries with these keys."""
        for some in _batches(keys):
            await self.state.delete_by_keys(NAMESPACE, some, user_id=self.user_id)


def _batches(keys: Collection[str]) -> Iterable[list[str]]:
    ordered = list(keys)
    return (ordered[first : first + MAX_LIMIT] for first in range(0, len(ordered), MAX_LIMIT))
