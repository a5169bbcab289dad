"""The store with metrics, traces or a query log: it reports its statements, its calls and its connections."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, TypeVar
from uuid import UUID

from src.database import observability
from src.database.engine import DatabaseEngine
from src.database.errors import CommitOutcomeUnknown
from src.database.observability import PoolState, Source, Unit
from src.database.session import TenantBinding
from src.database.statements import Call, Read
from src.database.store.calls import Calls, Sent
from src.database.store.pool import Slot, StorePool

RowT = TypeVar("RowT")


class WatchedPool(StorePool):
    """The store's pool, which says how long it is waited for, and what becomes of its connections."""

    def __init__(self, engine: DatabaseEngine, source: Source) -> None:
        super().__init__(engine.open_connection, engine.limits)
        self._source = source
        source.pool_state = lambda: PoolState(self.size, self.in_use, self.waiting, self.most)

    async def take(self) -> Slot:
        """Return a connection for one call."""
        started = time.perf_counter()
        try:
            return await super().take()
        except BaseException as error:
            self._source.notify("failed", self._source, error)
            raise
        finally:
            self._source.notify("took", self._source, time.perf_counter() - started)

    def discard(self, slot: Slot) -> None:
        """Drop one."""
        reason = "aged" if time.monotonic() >= slot.retires_at else "cancelled"
        self._source.notify("dropped", self._source, "lost" if slot.connection.is_closed() else reason)
        super().discard(slot)

    async def _open(self) -> Slot:
        slot = await super()._open()
        self._source.notify("opened", self._source, slot.connection)
        return slot


class WatchedCalls(Calls):
    """Sends statements as `Calls` does, and tells of each: a call of the store is a unit of work of its own."""

    def __init__(
        self, pool: StorePool, binding: TenantBinding, source: Source, *, is_pooled_elsewhere: bool = False
    ) -> None:
        super().__init__(pool, binding, is_pooled_elsewhere=is_pooled_elsewhere)
        self._source = source

    async def call(self, call: Call[RowT], *arguments: Any) -> list[RowT]:
        """Call a function."""
        try:
            return await super().call(call, *arguments)
        except CommitOutcomeUnknown as error:
            self._source.notify("failed", self._source, error)
            raise

    async def stream(self, read: Read[RowT], *values: Any) -> AsyncGenerator[list[RowT], None]:
        """Send a read in a transaction of its own, and yield its rows in batches."""
        call, rows = self._begin(self.tenant_id, read, values), 0
        try:
            async with aclosing(super().stream(read, *values)) as batches:
                async for batch in batches:
                    rows += len(batch)
                    handed_out = time.perf_counter()
                    yield batch
                    call.started += time.perf_counter() - handed_out  # what the caller does with it is not ours
        except GeneratorExit:  # the caller has enough
            self._end(call, rows=rows)
            raise
        except BaseException as error:
            self._end(call, error=error)
            raise
        self._end(call, rows=rows)

    async def _send(self, slot: Slot, tenant_id: UUID, statement: Sent, arguments: Sequence[Any]) -> list[Any]:
        call = self._begin(tenant_id, statement, arguments)
        try:
            rows = await super()._send(slot, tenant_id, statement, arguments)
        except BaseException as error:
            self._end(call, error=error)
            raise
        self._end(call, rows=len(rows))
        return rows

    def _begin(self, tenant_id: UUID, statement: Sent, values: Sequence[Any]) -> observability.Call:
        unit = Unit(tenant=tenant_id)
        unit.source = self._source
        call = observability.Call(self._source, statement.sql, values, unit)
        self._source.notify("began", unit)
        self._source.notify("sent", call)
        return call

    def _end(self, call: observability.Call, *, rows: int | None = None, error: BaseException | None = None) -> None:
        call.end(rows=rows, error=error)
        unit = call.unit
        assert unit is not None  # noqa: S101 - it was given one
        unit.is_committed = error is None
        self._source.notify("ended", unit)
