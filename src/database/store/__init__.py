"""The few calls of every turn on the fast path: `get_store()`. Everything else stays with the repositories."""

from src.database.statements import Identity
from src.database.store.pool import StorePool
from src.database.store.rows import (
    AppendedRow,
    ConversationRow,
    EventRow,
    MessageRow,
    Profile,
    StateRow,
    TurnRows,
    UserRow,
)
from src.database.store.state import Lease, StateStore
from src.database.store.store import POOL_NAME, Store, get_store

__all__ = [
    "POOL_NAME",
    "AppendedRow",
    "ConversationRow",
    "EventRow",
    "Identity",
    "Lease",
    "MessageRow",
    "Profile",
    "StateRow",
    "StateStore",
    "Store",
    "StorePool",
    "TurnRows",
    "UserRow",
    "get_store",
]
