"""The checkpointer: the states of threads, stored after each step of a graph."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, NoReturn, cast
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    PendingWrite,
    get_checkpoint_id,
    get_serializable_checkpoint_metadata,
    writes_sort_key,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from src.database.base import check_id
from src.database.connect import run_shielded
from src.database.integrations.langgraph.entries import PAGE, Deletion, Entries
from src.database.integrations.langgraph.records import (
    CHECKPOINTS,
    Place,
    Record,
    Typed,
    Writes,
    is_inline,
    pack,
    prefixes_of_thread,
    unpack,
)
from src.database.integrations.stored_conversation import send_again
from src.database.repositories import StateRepository
from src.database.session import AsyncSession, current_tenant, given_tenant, run_transaction
from src.database.store import get_store

_ORDINARY = "writes"


class StoredCheckpoints(BaseCheckpointSaver[str]):
    """The checkpointer of a graph: `builder.compile(checkpointer=StoredCheckpoints())`.

    A thread belongs to a user: the same thread id of another user or tenant is another thread. The user is `user_id`,
    or that of the config: `{"configurable": {"thread_id": "7", "user_id": str(user.id)}}`. A config without a user is
    refused. The methods without a config work on the threads of `user_id`: create another StoredCheckpoints for each
    user whose threads they change.

    The checkpointer is asynchronous: use `ainvoke`, `astream`, `aget_state`. The synchronous methods raise
    RuntimeError, because the connections of the store belong to an event loop.

    Args:
        user_id: The user whose threads these are; by default that of each config.
        of_tenant: All threads belong to the tenant, whatever the config has: neither the export nor the erasure of a
            user's data includes them.
        tenant_id: The tenant; by default the current tenant of each call.
        serde: The serializer; by default LangGraph's, without pickle.

    Raises:
        TypeError: The tenant id has the wrong type.
        ValueError: The user id is not a UUID, or is given together with `of_tenant`.
    """

    def __init__(
        self,
        user_id: UUID | None = None,
        *,
        of_tenant: bool = False,
        tenant_id: UUID | None = None,
        serde: SerializerProtocol | None = None,
    ) -> None:
        super().__init__(serde=serde)
        if user_id is not None:
            check_id("user_id", user_id)
            if of_tenant:
                raise ValueError("the threads must be of user_id or of the tenant, got both")
        given_tenant(tenant_id)  # checks the type
        self._user_id = user_id
        self._of_tenant = of_tenant
        self._tenant_id = tenant_id

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint of a config, without a checkpoint id the latest of the thread, or None.

        Raises:
            ValueError: An id in the config has an invalid value.
        """
        place, entries = _place(config), self._entries(config)
        checkpoint_id = get_checkpoint_id(config)
        with given_tenant(self._tenant_id):
            if checkpoint_id is None or checkpoint_id == "":
                record = await entries.latest(place)
            else:
                found = await entries.get_many([place.checkpoint(checkpoint_id)])
                record = next(map(Record.unpacked, found.values()), None)
            return next(iter(await self._tuples(entries, [] if record is None else [record], config)), None)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - the name of the base class
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Yield checkpoints, the greatest id first.

        The checkpoints of one thread and namespace are read by pages. Without a namespace or a thread, the ids of all
        checkpoints of the thread or the owner are read first.

        Args:
            config: The thread, and if given its namespace and checkpoint id; None for all threads of the owner.
            filter: Values of the metadata that must be equal.
            before: The config of a checkpoint; only checkpoints with smaller ids are returned.
            limit: The largest number of checkpoints.

        Raises:
            ValueError: An id in a config has an invalid value, or the limit is negative.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit must be at least 0, or None, got {limit}")
        entries = self._entries(config)
        tenant_id = self._tenant_id or current_tenant()  # of all pages, also if the caller changes it meanwhile
        left = limit
        async with aclosing(self._pages(entries, config, get_checkpoint_id(before) if before else None)) as pages:
            while left is None or left > 0:
                # The tenant is not set during a yield: the generator would change the context of its caller.
                with given_tenant(tenant_id):
                    if (page := await anext(pages, None)) is None:
                        return
                    matching = [record for record in page if self._matches(record, filter)][:left]
                    tuples = await self._tuples(entries, matching, config)
                for one in tuples:
                    yield one
                left = None if left is None else left - len(tuples)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint and the new values of channels: all of them, or none. Return its config.

        A value that a checkpoint does not contain itself is stored once for each version of its channel. After a lost
        connection the values are sent again.

        Raises:
            CommitOutcomeUnknown: The server cannot be reached again, and whether the checkpoint is stored is not known.
            NotFoundError: The tenant has no such user, or the user is deleted.
            ValueError: A value is larger than 16 MiB, or an id in the config has an invalid value.
        """
        record = self._record(config, checkpoint, metadata)
        values = checkpoint["channel_values"]
        stored = {key: self._dumped(values[name]) for name, key in record.channels.items() if name in new_versions}
        await self._write(config, lambda entries: entries.set_many({**stored, record.key: record.packed()}))
        return _config(config, record, record.checkpoint_id)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store the writes of a task to a checkpoint: all of them, or none.

        Special writes, such as errors and interrupts, replace stored ones. Others that are stored already are kept.

        Raises:
            CommitOutcomeUnknown: The server cannot be reached again, and whether the writes are stored is not known.
            NotFoundError: The tenant has no such user, or the user is deleted.
            ValueError: A value is too large (16 MiB for a task), or an id in the config has an invalid value.
        """
        place, checkpoint_id = _place(config), get_checkpoint_id(config)
        if checkpoint_id is None:
            raise ValueError("the config must have a checkpoint_id: the writes of a task belong to a checkpoint")
        by_index = {
            WRITES_IDX_MAP.get(channel, index): (channel, self.serde.dumps_typed(value))
            for index, (channel, value) in enumerate(writes)
        }
        if all(channel in WRITES_IDX_MAP for channel, _ in writes):
            special = {
                place.task(checkpoint_id, task_id, str(index)): Writes(task_id, task_path, {index: write}).packed()
                for index, write in by_index.items()
            }
            await self._write(config, lambda entries: entries.set_many(special))
        else:
            key = place.task(checkpoint_id, task_id, _ORDINARY)
            await self._write(config, lambda entries: entries.set_missing(key, Writes(task_id, task_path, by_index)))

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread of the owner permanently.

        Raises:
            ValueError: The thread id is not a string.
        """
        prefixes = prefixes_of_thread(thread_id)
        await self._change(lambda state: Deletion(state, self._owner()).all_of(prefixes))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of runs permanently, whose metadata have one of the run ids.

        All checkpoints of the owner are read. A graph with a DeltaChannel loses values that it rebuilds from the
        deleted checkpoints.
        """
        _check_is_list("run_ids", run_ids)
        await self._change(lambda state: self._delete_for_runs(state, set(run_ids)))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints and writes of a thread of the owner to another thread.

        Raises:
            NotFoundError: The tenant has no such user, or the user is deleted.
        """
        if source_thread_id != target_thread_id:
            await self._change(lambda state: self._copy(state, source_thread_id, target_thread_id))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete checkpoints of threads of the owner permanently.

        Args:
            thread_ids: The threads.
            strategy: `keep_latest` keeps the checkpoint with the greatest id of each namespace; `delete` keeps nothing.

        Raises:
            NotImplementedError: A thread to prune by `keep_latest` has a DeltaChannel, whose value is rebuilt from all
                checkpoints. Nothing was deleted.
            ValueError: The strategy is unknown, the ids are one string, or an id is not a string.
        """
        if strategy not in {"keep_latest", "delete"}:
            raise ValueError(f"strategy must be 'keep_latest' or 'delete', got {strategy!r}")
        _check_is_list("thread_ids", thread_ids)

        async def prune(state: StateRepository) -> None:
            for thread_id in thread_ids:
                if strategy == "delete":
                    await Deletion(state, self._owner()).all_of(prefixes_of_thread(thread_id))
                else:
                    await self._keep_latest(state, thread_id)

        await self._change(prune)

    def get_next_version(self, current: str | None, channel: None) -> str:
        """Return a version after the current one.

        The fraction is random: two branches from one checkpoint have other versions, and other values under them.
        """
        number = 0 if current is None else int(str(current).split(".", maxsplit=1)[0])
        return f"{number + 1:032}.{random.random():016}"  # noqa: S311 - no secret

    def get_tuple(self, config: RunnableConfig) -> NoReturn:
        """Raise RuntimeError: use `aget_tuple`."""
        raise _synchronous("get_tuple")

    def list(self, config: RunnableConfig | None, **_options: Any) -> NoReturn:
        """Raise RuntimeError: use `alist`."""
        raise _synchronous("list")

    def put(self, *_arguments: Any) -> NoReturn:
        """Raise RuntimeError: use `aput`."""
        raise _synchronous("put")

    def put_writes(self, *_arguments: Any, **_options: Any) -> NoReturn:
        """Raise RuntimeError: use `aput_writes`."""
        raise _synchronous("put_writes")

    def delete_thread(self, thread_id: str) -> NoReturn:
        """Raise RuntimeError: use `adelete_thread`."""
        raise _synchronous("delete_thread")

    def delete_for_runs(self, run_ids: Sequence[str]) -> NoReturn:
        """Raise RuntimeError: use `adelete_for_runs`."""
        raise _synchronous("delete_for_runs")

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> NoReturn:
        """Raise RuntimeError: use `acopy_thread`."""
        raise _synchronous("copy_thread")

    def prune(self, thread_ids: Sequence[str], **_options: Any) -> NoReturn:
        """Raise RuntimeError: use `aprune`."""
        raise _synchronous("prune")

    async def _delete_for_runs(self, state: StateRepository, run_ids: Collection[str]) -> None:
        owner = self._owner()
        entries, deletion = Entries(state, owner), Deletion(state, owner)
        deleted = _by_place([
            record async for record in entries.records() if self._loaded(record)[1].get("run_id") in run_ids
        ])  # fmt: skip
        for place, records in deleted.items():
            await deletion.keys([record.key for record in records])
            await deletion.all_of(place.writes(record.checkpoint_id) for record in records)
            kept = [record async for record in entries.records(place.key("c"))]
            await deletion.keys(_keys_of_channels(records) - _keys_of_channels(kept))

    async def _copy(self, state: StateRepository, source: str, target: str) -> None:
        entries = Entries(state, self._owner())
        for prefix, copied in zip(prefixes_of_thread(source), prefixes_of_thread(target), strict=True):
            async for page in entries.pages(prefix):
                values = {copied + key.removeprefix(prefix): value for key, value in page}
                if prefix.startswith(CHECKPOINTS):
                    values = {
                        key: replace(Record.unpacked(value), thread_id=target).packed() for key, value in values.items()
                    }
                await entries.set_many(values)

    async def _keep_latest(self, state: StateRepository, thread_id: str) -> None:
        owner = self._owner()
        entries, deletion = Entries(state, owner), Deletion(state, owner)
        places = _by_place([record async for record in entries.records(prefixes_of_thread(thread_id)[0])])
        if any(record.has_deltas for records in places.values() for record in records):
            raise NotImplementedError(
                f"keep_latest cannot prune thread {thread_id!r}: it has a DeltaChannel, whose value is rebuilt from all"
                " checkpoints; nothing was deleted"
            )
        for *older, latest in places.values():
            await deletion.before(latest)
            await deletion.keys(_keys_of_channels(older) - _keys_of_channels([latest]))
            if latest.parent_id is not None:
                await entries.set_many({latest.key: replace(latest, parent_id=None).packed()})

    async def _pages(
        self, entries: Entries, config: RunnableConfig | None, before: str | None
    ) -> AsyncGenerator[Sequence[Record], None]:
        """Yield the checkpoints of a config before an id, the greatest id first."""
        configurable = {} if config is None else config["configurable"]
        wanted: str | None = configurable.get("checkpoint_id") or None
        place = _place(config) if config is not None and {"thread_id", "checkpoint_ns"} <= configurable.keys() else None
        if place is not None and wanted is None:
            stop = None if before is None else place.checkpoint(before)
            async for page in entries.pages(place.key("c"), stop=stop, descending=True):
                yield [Record.unpacked(value) for _, value in page]
            return
        if place is not None and wanted is not None:
            keys = [place.checkpoint(wanted)]
        else:
            prefix = prefixes_of_thread(configurable["thread_id"])[0] if "thread_id" in configurable else CHECKPOINTS
            keys = [key async for page in entries.pages(prefix) for key, _ in page]
        ids = [(key.rsplit("/", 1)[1], key) for key in keys]
        selected = [key for one, key in sorted(ids, reverse=True) if _is_selected(one, wanted, before)]
        for first in range(0, len(selected), PAGE):
            found = await entries.get_many(some := selected[first : first + PAGE])
            yield [Record.unpacked(found[key]) for key in some if key in found]

    async def _tuples(
        self, entries: Entries, records: Sequence[Record], config: RunnableConfig | None
    ) -> Sequence[CheckpointTuple]:
        """Return checkpoints with the values of their channels and their writes, without deleted ones."""
        if not records:
            return []
        keys = _keys_of_channels(records)
        writes, values = await asyncio.gather(entries.writes(records), entries.get_many(keys))
        if keys > values.keys():  # a checkpoint that was deleted in between lacks its values
            there = await entries.get_many([record.key for record in records])
            records = [record for record in records if record.key in there]
        return [
            self._tuple(record, values, writes.get(record.place.writes(record.checkpoint_id), []), config)
            for record in records
        ]

    def _tuple(
        self, record: Record, values: Mapping[str, bytes], writes: Sequence[Writes], config: RunnableConfig | None
    ) -> CheckpointTuple:
        checkpoint, metadata = self._loaded(record)
        for name, key in record.channels.items():
            if key in values:
                checkpoint["channel_values"][name] = self._value(values[key])
        return CheckpointTuple(
            config=_config(config, record, record.checkpoint_id),
            checkpoint=checkpoint,
            metadata=metadata,
            parent_config=_config(config, record, record.parent_id) if record.parent_id else None,
            pending_writes=_pending(self.serde, writes),
        )

    def _record(self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata) -> Record:
        place, values, versions = _place(config), checkpoint["channel_values"], checkpoint["channel_versions"]
        inline = {name: value for name, value in values.items() if is_inline(value)}
        stored_metadata = get_serializable_checkpoint_metadata(config, metadata)
        kind, payload = self.serde.dumps_typed([{**checkpoint, "channel_values": inline}, stored_metadata])
        return Record(
            thread_id=place.thread_id,
            checkpoint_ns=place.checkpoint_ns,
            checkpoint_id=checkpoint["id"],
            parent_id=get_checkpoint_id(config),
            has_deltas="counters_since_delta_snapshot" in stored_metadata,
            versions={name: versions.get(name) for name in values.keys() - inline.keys()},
            kind=kind,
            payload=payload,
        )

    def _loaded(self, record: Record) -> tuple[Checkpoint, CheckpointMetadata]:
        checkpoint, metadata = self.serde.loads_typed((record.kind, record.payload))
        return checkpoint, metadata

    def _matches(self, record: Record, wanted: Mapping[str, Any] | None) -> bool:
        if not wanted:
            return True
        metadata = cast("Mapping[str, Any]", self._loaded(record)[1])
        return all(name in metadata and metadata[name] == value for name, value in wanted.items())

    def _dumped(self, value: object) -> bytes:
        kind, data = self.serde.dumps_typed(value)
        return pack({"kind": kind}, data)

    def _value(self, stored: bytes) -> Any:
        head, data = unpack(stored)
        return self.serde.loads_typed((head["kind"], data))

    async def _write(self, config: RunnableConfig, write: Callable[[Entries], Awaitable[None]]) -> None:
        entries = self._entries(config)
        with given_tenant(self._tenant_id):
            await run_shielded(send_again(lambda _: write(entries)))

    async def _change(self, change: Callable[[StateRepository], Awaitable[None]]) -> None:
        async def run(session: AsyncSession) -> None:
            await change(StateRepository(session))

        with given_tenant(self._tenant_id):
            await run_shielded(run_transaction(run, idempotent=True))

    def _entries(self, config: RunnableConfig | None) -> Entries:
        """Return the entries of the owner of a config.

        Raises:
            ValueError: There is no user; the user id of the config is not a UUID, or is another than that of the
                checkpointer.
        """
        if self._of_tenant:
            return Entries(get_store().state, None)
        given = _user_of(config)
        user_id = _user_id(given) if given is not None else self._user_id
        if self._user_id not in {None, user_id}:
            raise ValueError(
                "user_id of the config must be the user of this StoredCheckpoints, got another one;"
                " create StoredCheckpoints() for the users of several configs"
            )
        if user_id is None:
            raise ValueError(
                'the config must have a user_id, as {"configurable": {"thread_id": "7", "user_id": str(user.id)}}, got'
                " none; or create StoredCheckpoints(user.id), or StoredCheckpoints(of_tenant=True) for threads without"
                " a user"
            )
        return Entries(get_store().state, user_id)

    def _owner(self) -> UUID | None:
        """Return the user whose threads the methods without a config change; None is the tenant.

        Raises:
            ValueError: The checkpointer has no user.
        """
        return self._entries(None).user_id


class _ThreadOfUser(str):
    """A thread id that has its user too: LangGraph makes the config of a subgraph of the thread id alone."""

    __slots__ = ("user_id",)
    user_id: Any

    def __new__(cls, thread_id: str, user_id: Any = None) -> _ThreadOfUser:
        """Return a thread id of a user."""
        one = super().__new__(cls, thread_id)
        one.user_id = user_id
        return one

    def __str__(self) -> str:
        """Return the thread id with its user, of which LangGraph makes a text."""
        return self


def _place(config: RunnableConfig) -> Place:
    """Return the place of a config.

    Raises:
        ValueError: The thread id is missing, or an id is not a string.
    """
    thread_id: Any = config["configurable"].get("thread_id")
    return Place(thread_id, config["configurable"].get("checkpoint_ns", ""))


def _user_of(config: RunnableConfig | None) -> Any:
    """Return the user of a config as it is given, by itself or with the thread id; None if there is none."""
    configurable = {} if config is None else config["configurable"]
    return configurable.get("user_id") or getattr(configurable.get("thread_id"), "user_id", None)


def _user_id(value: object) -> UUID:
    try:
        return value if isinstance(value, UUID) else UUID(value)  # type: ignore[arg-type] # checked by UUID
    except (AttributeError, TypeError, ValueError):
        raise ValueError(
            "user_id of the config must be the id of a User, as a UUID or text, got another value;"
            " give ids of your own another name"
        ) from None


def _config(given: RunnableConfig | None, record: Record, checkpoint_id: str) -> RunnableConfig:
    """Return the config of a checkpoint; the user of the given config stays, so that the config can be used again."""
    configurable = {} if given is None else given["configurable"]
    user_id = _user_of(given)
    return {
        "configurable": {
            **({"user_id": configurable["user_id"]} if "user_id" in configurable else {}),
            "thread_id": record.thread_id if user_id is None else _ThreadOfUser(record.thread_id, user_id),
            "checkpoint_ns": record.checkpoint_ns,
            "checkpoint_id": checkpoint_id,
        }
    }


def _pending(serde: SerializerProtocol, tasks: Sequence[Writes]) -> list[PendingWrite]:
    """Return writes in the order in which a run applies them."""
    found: dict[tuple[str, str, int], tuple[str, Typed]] = {}
    for task in tasks:  # the keys of special writes are before those of others, and take precedence
        for index, write in task.by_index.items():
            found.setdefault(writes_sort_key(task.task_path, task.task_id, index), write)
    ordered = sorted(found.items())
    return [(task_id, channel, serde.loads_typed(typed)) for (_, task_id, _), (channel, typed) in ordered]


def _keys_of_channels(records: Sequence[Record]) -> set[str]:
    return {key for record in records for key in record.channels.values()}


def _by_place(records: Sequence[Record]) -> dict[Place, list[Record]]:
    places: dict[Place, list[Record]] = {}
    for record in records:
        places.setdefault(record.place, []).append(record)
    return places


def _check_is_list(name: str, ids: Sequence[str]) -> None:
    if isinstance(ids, str):  # a string is a sequence of its characters
        raise ValueError(f"{name} must be a list of strings, got a str")  # noqa: TRY004 - bad input


def _is_selected(checkpoint_id: str, wanted: str | None, before: str | None) -> bool:
    return wanted in {None, checkpoint_id} and (before is None or checkpoint_id < before)


def _synchronous(name: str) -> RuntimeError:
    return RuntimeError(
        f"{name} is synchronous, and StoredCheckpoints is asynchronous: use `await checkpointer.a{name}(...)`,"
        " `graph.ainvoke`, `graph.astream`, `graph.aget_state`"
    )
