"""Private names of SQLAlchemy: each is used once, here, and `DATABASE_FAST_PATH=false` does without most of them.

A release of SQLAlchemy may change them; `tests/database/engine/test_sqlalchemy_internals.py` has a canary for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Engine
from sqlalchemy.orm import InstanceState
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.pool.base import _ConnectionRecord
from sqlalchemy.sql.cache_key import CacheKey
from sqlalchemy.util.concurrency import await_

from src.database.connect import BoundTransaction
from src.database.engine.pool import FairQueue, SizedPool

FAST_PATH: Final = "thea_fast_path"
"""The execution option of an engine without the fast path: False."""


def has_fast_path(bind: Engine | Connection | None) -> bool:
    """Return False if DATABASE_FAST_PATH is false: most private names of SQLAlchemy are then not used."""
    return bind is not None and bool(bind.get_execution_options().get(FAST_PATH, True))


class FairPool(SizedPool):
    """A sized pool that serves waiting callers in the order of their arrival.

    SQLAlchemy's own queue wakes the caller that waits longest, and lets any other caller take the connection before
    that one runs: under load, some callers wait until their timeout.
    """

    _queue_class = FairQueue

    def _create_connection(self) -> ConnectionPoolEntry:
        """Return a pool entry that connects at its checkout.

        A caller that fails to connect, or is cancelled, then returns the entry to the pool, and so to the next caller.
        SQLAlchemy connects before there is an entry, and wakes no other caller after a failure.
        """
        return _ConnectionRecord(self, connect=False)

    def _close_connection(self, connection: Any, *, terminate: bool = False) -> None:
        """Close a connection unless it is closed already: SQLAlchemy would await, where a cancellation can arrive."""
        if not connection.driver_connection.is_closed():
            super()._close_connection(connection, terminate=terminate)


def begin_with(connection: Connection, statement: str) -> None:
    """Begin the connection's transaction and execute a statement in it, in one round trip; call it in a greenlet.

    SQLAlchemy would send BEGIN on its own, one round trip before the first statement.
    """
    adapter: Any = connection.connection.dbapi_connection
    transaction = BoundTransaction(
        adapter.driver_connection, adapter.isolation_level, adapter.readonly, adapter.deferrable
    )
    try:
        await_(transaction.start_with(statement))
    except BaseException as error:
        raise_as_sqlalchemy(connection, "BEGIN", error)
        raise
    adapter._transaction = transaction


def begin_again(adapter: Any) -> None:
    """Roll back a transaction that only reads, if it is still open, and begin it again; call it in a greenlet."""
    try:
        await_(adapter.driver_connection.begin_again())
    except Exception as error:  # noqa: BLE001 - the adapter raises SQLAlchemy's error for that of the driver
        adapter._handle_exception(error)


def statement_lock(adapter: Any) -> AbstractAsyncContextManager[Any]:
    """Return the lock that SQLAlchemy holds while the connection executes a statement."""
    lock: AbstractAsyncContextManager[Any] = adapter._execute_mutex
    return lock


def raise_as_sqlalchemy(connection: Connection, sql: str, error: BaseException) -> None:
    """Handle an error of the driver's connection as SQLAlchemy does for its own statements; call it in a greenlet.

    SQLAlchemy calls the listeners of `handle_error`, and invalidates a connection that is lost.

    Raises:
        BaseException: The translated error if the server or the driver raised it, else the error itself.
    """
    adapter: Any = connection.connection.dbapi_connection
    handle: Any = connection._handle_dbapi_exception
    try:  # SQLAlchemy reads the exception that is being handled
        if isinstance(error, Exception):
            adapter._handle_exception(error)
        raise error  # noqa: TRY301 - the same
    except adapter.dbapi.Error as translated:
        handle(translated, sql, None, None, None)
    except BaseException as raised:  # noqa: BLE001 - it is raised again
        handle(raised, None, None, None, None)


def replace_driver_connection(connection: Connection) -> None:
    """Replace a connection's lost driver connection by another of its pool; call it in a greenlet.

    SQLAlchemy does this only outside of a transaction; here, the transaction has sent nothing yet.
    """
    connection._dbapi_connection = connection.engine.raw_connection()


def cache_key_of(statement: Any) -> CacheKey | None:
    """Return the key that statements of the same shape share, with the bound parameters; None if there is no key."""
    key: CacheKey | None = statement._generate_cache_key()
    return key


def text_parameters(compiled: Any, key: CacheKey) -> dict[str, int]:
    """Return, for each parameter name of the compiled text, the index of the parameter in the cache key.

    The compiled statement of an INSERT or UPDATE has copies of the statement's parameters.
    """
    copies, _ = compiled._cache_key_bind_match
    return {
        compiled.bind_names[copy]: number
        for number, bind in enumerate(key.bindparams)
        for copy in copies[bind]
        if copy in compiled.bind_names
    }


def result_columns(compiled: Any) -> Sequence[Sequence[Any]]:
    """Return, for each column of the result, the objects that SQLAlchemy finds it by."""
    return [entry.objects for entry in compiled._result_columns]


class _Rows(dict[InstanceState[Any], str]):
    """The rows that refer to a mutable value; a state refers to its row weakly.

    SQLAlchemy's WeakKeyDictionary costs five times as much to create, for two or three values of each row.
    """

    def items(self) -> Any:
        """Return the rows that still exist."""
        return [(state, name) for state, name in super().items() if state.obj() is not None]


def track_changes(value: Any, state: InstanceState[Any], name: str) -> None:
    """Make an in-place change of a new mutable value a change of its row, as the mutable type's own loader does."""
    value.__dict__["_parents"] = _Rows({state: name})


def criteria_of_option(element: Any) -> Sequence[ColumnElement[bool]]:
    """Return the criteria of a loader option, as in `selectinload(User.notes.and_(...))`. They are checked always."""
    criteria: Sequence[ColumnElement[bool]] = element._extra_criteria
    return criteria
