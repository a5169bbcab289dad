"""The store of the running event loop."""

from __future__ import annotations

from typing import Final

from src.database.observe import source_of
from src.database.session import get_engine, tenant_binding
from src.database.store.appending import StoreAppending
from src.database.store.pool import StorePool
from src.database.store.reminders import StoreReminders
from src.database.store.turns import StoreTurns
from src.database.store.users import StoreUsers
from src.database.store.watched import WatchedCalls, WatchedPool

__all__ = ["Store", "get_store"]

POOL_NAME: Final = "store"


class Store(StoreUsers, StoreTurns, StoreAppending, StoreReminders):
    """The few calls of every turn, on the fast path: each is one statement, atomic, and one round trip.

    What they promise is what the repositories promise; for whatever is rare they ask these. Rows are immutable and
    belong to no session, and what a method wrote is committed when it returns.
    """


class _WatchedStore(WatchedCalls, Store):
    """The same, where somebody listens."""


def get_store() -> Store:
    """Return the store, with connections of its own, for the running event loop; nothing is opened before its use.

    The settings say how many connections it may have, as they do for each pool: DATABASE_POOL_SIZE and
    DATABASE_MAX_OVERFLOW, or `pool_max` of the URL. `await get_engine("store").dispose()` closes them.

    Raises:
        ConfigurationError: The settings cannot be right.
    """
    engine = get_engine(POOL_NAME)
    store: Store | None = engine.attached.get(POOL_NAME)
    if store is None:
        source = source_of(engine)
        pool = StorePool(engine.open_connection, engine.limits) if source is None else WatchedPool(engine, source)
        engine.close_with(pool.close)
        options = {"per_transaction": engine.is_pooled_elsewhere}
        if source is None:
            store = Store(pool, tenant_binding(), **options)
        else:
            store = _WatchedStore(pool, tenant_binding(), source, **options)
        engine.attached[POOL_NAME] = store
    return store
