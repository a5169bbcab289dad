"""The session of one tenant, and the binding of its transactions for row-level security."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, ClassVar, Final, cast
from uuid import UUID

from sqlalchemy import Connection, event
from sqlalchemy.exc import PendingRollbackError
from sqlalchemy.orm import Mapper, ORMExecuteState, Session, SessionTransaction, UOWTransaction
from sqlalchemy.orm import exc as orm_exc
from sqlalchemy.util.concurrency import in_greenlet

from src.database.base import TenantBase
from src.database.engine.commits import twice_if_lost
from src.database.errors import (
    LazyLoadError,
    NoTenantError,
    StaleDataError,
    TenantMismatchError,
    TransactionAborted,
)
from src.database.session.binding import TenantBinding
from src.database.session.use import GuardedAsyncSession, SessionUse, guard_operations
from src.database.tenant_scope import current_tenant


class _NotBound(Enum):
    """The value before a binding; None is a binding to no tenant."""

    NOT_BOUND = "not bound"


_NOT_BOUND: Final = _NotBound.NOT_BOUND


@guard_operations
class TenantSession(Session):
    """The synchronous half of :class:`AsyncSession`: it keeps the tenant of its first use."""

    always_refreshes: ClassVar[bool] = False
    """True if a row that is read again is set to its present values."""
    is_read_to_its_end = False
    """It has only read, and went well: there is nothing to commit."""

    def __init__(self, *args: Any, binding: TenantBinding | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **{"close_resets_only": False, **kwargs})
        self.use = SessionUse()
        self._binding = binding or TenantBinding()
        self._tenant_id: UUID | None = None
        self.connection_in_use: Connection | None = None
        """The connection of the open transaction."""
        self._bound_to: UUID | _NotBound | None = _NOT_BOUND
        self.bound_with: object = None
        """The result of the binding of the session's last transaction."""

    @property
    def known_tenant(self) -> UUID | None:
        """The tenant that the session has taken; None before its first use."""
        return self._tenant_id

    def acting_tenant(self) -> UUID | None:
        """Return the tenant that this session acts for, and keep to it from now on.

        Raises:
            TenantMismatchError: The context names another one.
        """
        named = current_tenant()
        if self._tenant_id is None:
            self._tenant_id = named or self._binding.use_default_tenant()
        elif named is not None and named != self._tenant_id:
            raise TenantMismatchError(
                f"the session acts for tenant {self._tenant_id} and the context names {named}",
                hint="open a session of its own for each tenant, inside its tenant_context",
            )
        return self._tenant_id

    def required_tenant(self) -> UUID:
        """Return the tenant that this session acts for.

        Raises:
            NoTenantError: There is none.
            TenantMismatchError: The context names another one.
        """
        tenant_id = self.acting_tenant()
        if tenant_id is None:
            raise NoTenantError(
                "no tenant acts: there is no tenant_context and DATABASE_DEFAULT_TENANT is not set",
                hint="wrap the work in `with tenant_context(tenant_id):`",
            )
        return tenant_id

    def has_changes(self) -> bool:
        """Return True if the session has pending changes."""
        return bool(self.identity_map.check_modified() or self.new or self.deleted)

    def bound_connection(self) -> Connection | None:
        """Return the connection of the open transaction, or None if it is not bound to the current tenant.

        Raises:
            NoTenantError: There is no current tenant.
            TenantMismatchError: The context names another one.
        """
        return self.connection_in_use if self._bound_to == self.required_tenant() else None

    def open_connection(self) -> Connection:
        """Begin a transaction if none is open, bind it to the current tenant, and return its connection.

        Raises:
            NoTenantError: There is no current tenant.
            TenantMismatchError: The context names another one.
        """
        self.enter_tenant(required=True)
        return super().connection()

    def keep_rows_to_their_tenant(self) -> None:
        """Fill the tenant in on new rows; refuse another tenant's, new or changed.

        Raises:
            TenantMismatchError: A row is another tenant's.
        """
        for row in (*self.new, *self.dirty, *self.deleted):
            if isinstance(row, TenantBase):
                self.keep_to_its_tenant(row)

    def keep_to_its_tenant(self, row: TenantBase) -> None:
        """Fill the tenant in on a new row.

        Raises:
            TenantMismatchError: It is another tenant's.
        """
        self.enter_tenant(required=True)
        tenant_id = self.required_tenant()
        if row.tenant_id is None:
            row.tenant_id = tenant_id
        elif row.tenant_id != tenant_id:
            raise TenantMismatchError(
                f"a {type(row).__name__} of tenant {row.tenant_id} is in a session that acts for {tenant_id}",
                hint="a row keeps its tenant; open a session of its own for the other one",
            )

    def enter_tenant(self, *, required: bool) -> None:
        """Take the tenant before a statement, and bind the open transaction to it, unless it is bound already."""
        tenant_id = self.required_tenant() if required else self.acting_tenant()
        connection = self.connection_in_use
        if connection is not None and connection.invalidated:
            raise TransactionAborted("a statement")
        if connection is not None and self._bound_to != tenant_id:
            self._bind(connection, tenant_id)

    def begin_on(self, connection: Connection) -> None:
        """Bind a transaction that begins; to no tenant too, whatever a caller has set on its connection before."""
        self._bound_to, self.connection_in_use = _NOT_BOUND, connection
        self._bind(connection, self.acting_tenant())

    def _bind(self, connection: Connection, tenant_id: UUID | None) -> None:
        def bind() -> None:
            self.bound_with = self._binding.bind(connection, tenant_id)

        twice_if_lost(connection, bind)
        self._bound_to = tenant_id

    def forget_binding(self, *, transaction_ended: bool) -> None:
        """Forget the binding at the end of the transaction, or of a savepoint in which it may have been made."""
        self._bound_to, self.connection_in_use = _NOT_BOUND, None if transaction_ended else self.connection_in_use

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        """Send what is pending.

        Raises:
            StaleDataError: A row with a `version` was changed or deleted by another writer since it was read.
            TransactionAborted: An earlier error was caught, so that nothing more can be sent.
        """
        try:
            super().flush(objects)
        except PendingRollbackError as error:
            raise TransactionAborted("a flush") from error
        except orm_exc.StaleDataError as error:
            raise StaleDataError(
                "a row was changed or deleted by another writer since it was read",
                hint="read it again, and apply the change to what is there now",
            ) from error

    def commit(self) -> None:
        """Flush and commit.

        Raises:
            TransactionAborted: An earlier error was caught, so that nothing can be committed.
        """
        try:
            super().commit()
        except PendingRollbackError as error:
            raise TransactionAborted("a flush") from error

    def get(self, entity: Any, ident: Any, **options: Any) -> Any:
        """Fetch by id; a bare id of a tenant's row is completed with the tenant."""
        return super().get(entity, self._full_key(entity, ident), **self._refreshing(options))

    def merge(self, instance: Any, **options: Any) -> Any:
        """Copy a row's state into the session; one without a tenant is this session's."""
        return super().merge(self._with_tenant(instance), **options)

    def merge_all(self, instances: Iterable[Any], **options: Any) -> list[Any]:
        """Copy the state of several rows into the session, as `merge` does."""
        return list(super().merge_all([self._with_tenant(instance) for instance in instances], **options))

    def _with_tenant(self, instance: Any) -> Any:
        if isinstance(instance, TenantBase) and instance.tenant_id is None:
            instance.tenant_id = self.required_tenant()
        return instance

    def get_one(self, entity: Any, ident: Any, **options: Any) -> Any:
        """Fetch by id as `get` does, or raise where there is no such row."""
        return super().get_one(entity, self._full_key(entity, ident), **self._refreshing(options))

    def _refreshing(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "populate_existing": True} if self.always_refreshes else options

    def _full_key(self, entity: Any, ident: Any) -> Any:
        mapped = entity.class_ if isinstance(entity, Mapper) else entity
        if not (isinstance(mapped, type) and issubclass(mapped, TenantBase)):
            return ident
        self.enter_tenant(required=True)
        tenant_id = self.required_tenant()
        if isinstance(ident, dict):
            return {"tenant_id": tenant_id, **ident}
        return ident if isinstance(ident, tuple) else (tenant_id, ident)


class AsyncSession(GuardedAsyncSession):
    """SQLAlchemy's, with a tenant: it binds every transaction, fills ``tenant_id`` in and refuses another's rows."""

    sync_session_class = TenantSession
    sync_session: TenantSession

    @property
    def tenant_id(self) -> UUID:
        """The tenant that this session acts for.

        Raises:
            NoTenantError: There is none.
            TenantMismatchError: The context names another one.
        """
        return self.sync_session.required_tenant()


@event.listens_for(TenantSession, "after_begin")
def _bind_transaction(session: TenantSession, transaction: SessionTransaction, connection: Connection) -> None:
    if not transaction.nested:  # a savepoint keeps what its transaction has
        session.begin_on(connection)


@event.listens_for(TenantSession, "after_transaction_end")
def _forget_transaction(session: TenantSession, transaction: SessionTransaction) -> None:
    if transaction.parent is None or transaction.nested:
        session.forget_binding(transaction_ended=transaction.parent is None)


@event.listens_for(TenantSession, "do_orm_execute")
def _settle_tenant(state: ORMExecuteState) -> None:
    if state.is_column_load and not in_greenlet():  # an attribute was read; `refresh` would be in one
        raise _expired(state)
    session = cast("TenantSession", state.session)
    if not session.is_active:
        raise TransactionAborted("a flush")
    if session.always_refreshes and state.is_select and not state.is_column_load:
        # A row that comes along through a relationship stays as it is: it may be the row that it is loaded for.
        state.update_execution_options(populate_existing=not state.is_relationship_load)
    session.enter_tenant(required=any(issubclass(mapper.class_, TenantBase) for mapper in state.all_mappers))


def _expired(state: ORMExecuteState) -> LazyLoadError:
    mapper = state.bind_mapper
    name = mapper.class_.__name__ if mapper is not None else "row"
    return LazyLoadError(
        f"the attributes of a {name} have expired: its transaction was rolled back, or `expire` was called",
        hint="read the row again, or `await session.refresh(row)`; ids that outlive a rollback are kept in variables",
    )


@event.listens_for(TenantSession, "before_flush")
def _before_flush(session: TenantSession, _context: UOWTransaction, _instances: Any) -> None:
    session.keep_rows_to_their_tenant()
