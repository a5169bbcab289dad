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
from src.database.store.pool import PooledConnection, StorePool

RowT = TypeVar("RowT")


class WatchedPool(StorePool):
    """The store's pool; it reports the waiting time of callers, and opened and closed connections."""

    def __init__(self, engine: DatabaseEngine, source: Source) -> None:
        super().__init__(engine.open_connection, engine.limits)
        self._source = source
        source.pool_state = lambda: PoolState(self.size, self.in_use, self.waiting, self.most)

    async def take(self) -> PooledConnection:
        """Return a connection for one call."""
        started = time.perf_counter()
        try:
            return await super().take()
        except BaseException as error:
            self._source.notify("failed", self._source, error)
            raise
        finally:
            self._source.notify("took", self._source, time.perf_counter() - started)

    def discard(self, pooled: PooledConnection) -> None:
        """Report the reason, and drop the connection."""
        reason = "aged" if time.monotonic() >= pooled.retires_at else "cancelled"
        self._source.notify("dropped", self._source, "lost" if pooled.connection.is_closed() else reason)
        super().discard(pooled)

    async def _open(self) -> PooledConnection:
        pooled = await super()._open()
        self._source.notify("opened", self._source, pooled.connection)
        return pooled


class WatchedCalls(Calls):
    """Sends statements as `Calls` does, and reports each. A call of the store is a unit of work of its own."""

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
                    call.started += time.perf_counter() - handed_out  # the time of the caller does not count
        except GeneratorExit:  # the caller has closed the stream
            self._end(call, rows=rows)
            raise
        except BaseException as error:
            self._end(call, error=error)
            raise
        self._end(call, rows=rows)

    async def _send(
        self, pooled: PooledConnection, tenant_id: UUID, statement: Sent, arguments: Sequence[Any]
    ) -> list[Any]:
        call = self._begin(tenant_id, statement, arguments)
        try:
            rows = await super()._send(pooled, tenant_id, statement, arguments)
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
        assert unit is not None  # noqa: S101 - `_begin` sets it
        unit.is_committed = error is None
        self._source.notify("ended", unit)
