"""The session of one tenant: it binds each transaction for row-level security, and keeps rows to their tenant."""

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
from src.database.engine import begin_on_live_connection
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
    """The state before a binding; None is a binding to no tenant, under which no row is visible."""

    NOT_BOUND = "not bound"


_NOT_BOUND: Final = _NotBound.NOT_BOUND


@guard_operations
class TenantSession(Session):
    """The synchronous half of :class:`AsyncSession`: it takes a tenant at its first use, and keeps it.

    Attributes:
        always_refreshes: A row that is read again gets its present values.
        has_only_read: The session has only read, and its block ended without an error: there was nothing to commit.
        use: Whether the session is open, and which task uses it.
        connection_in_use: The connection of the open transaction.
        bound_with: The result of the last binding.
    """

    always_refreshes: ClassVar[bool] = False
    has_only_read = False

    def __init__(self, *args: Any, binding: TenantBinding | None = None, **kwargs: Any) -> None:
        # With SQLAlchemy's default, True, a closed session begins a new transaction when it is used again.
        super().__init__(*args, **{"close_resets_only": False, **kwargs})
        self.use = SessionUse()
        self._binding = binding or TenantBinding()
        self._tenant_id: UUID | None = None
        self.connection_in_use: Connection | None = None
        self._bound_to: UUID | _NotBound | None = _NOT_BOUND
        self.bound_with: object = None

    @property
    def known_tenant(self) -> UUID | None:
        """The tenant that the session has taken; None before its first use."""
        return self._tenant_id

    def take_tenant(self) -> UUID | None:
        """Return the session's tenant; at the first use, take the current tenant, or the default one.

        Raises:
            TenantMismatchError: The current tenant is another one.
        """
        current = current_tenant()
        if self._tenant_id is None:
            self._tenant_id = current or self._binding.use_default_tenant()
        elif current is not None and current != self._tenant_id:
            raise TenantMismatchError(
                f"the session belongs to tenant {self._tenant_id} and the current tenant is {current}",
                hint="open a session for each tenant, inside its tenant_context",
            )
        return self._tenant_id

    def required_tenant(self) -> UUID:
        """Return the session's tenant.

        Raises:
            NoTenantError: There is none.
            TenantMismatchError: The current tenant is another one.
        """
        tenant_id = self.take_tenant()
        if tenant_id is None:
            raise NoTenantError(
                "there is no current tenant: no tenant_context is open and DATABASE_DEFAULT_TENANT is not set",
                hint="wrap the work in `with tenant_context(tenant_id):`",
            )
        return tenant_id

    def has_changes(self) -> bool:
        """Return True if the session has pending changes."""
        return bool(self.identity_map.check_modified() or self.new or self.deleted)

    def bound_connection(self) -> Connection | None:
        """Return the connection of the open transaction, or None if it is not bound to the session's tenant.

        Raises:
            NoTenantError: There is no current tenant.
            TenantMismatchError: The current tenant is another one.
        """
        return self.connection_in_use if self._bound_to == self.required_tenant() else None

    def open_connection(self) -> Connection:
        """Begin a transaction if none is open, bind it to the session's tenant, and return its connection.

        Raises:
            NoTenantError: There is no current tenant.
            TenantMismatchError: The current tenant is another one.
        """
        self.bind_required_tenant()
        return super().connection()

    def bind_tenant(self) -> None:
        """Bind the open transaction to the session's tenant, or to none, unless that is done already."""
        self._rebind(self.take_tenant())

    def bind_required_tenant(self) -> UUID:
        """Bind the open transaction to the session's tenant unless that is done already, and return the tenant."""
        tenant_id = self.required_tenant()
        self._rebind(tenant_id)
        return tenant_id

    def _rebind(self, tenant_id: UUID | None) -> None:
        """Bind the open transaction unless it is bound to this tenant: a session may take its tenant after BEGIN."""
        connection = self.connection_in_use
        if connection is not None and connection.invalidated:
            raise TransactionAborted("a statement")
        if connection is not None and self._bound_to != tenant_id:
            self._bind(connection, tenant_id)

    def bind_new_transaction(self, connection: Connection) -> None:
        """Bind a transaction that begins, even to no tenant: the caller may have set a tenant on the connection."""
        self._bound_to, self.connection_in_use = _NOT_BOUND, connection
        self._bind(connection, self.take_tenant())

    def _bind(self, connection: Connection, tenant_id: UUID | None) -> None:
        def bind() -> None:
            self.bound_with = self._binding.bind(connection, tenant_id)

        begin_on_live_connection(connection, bind)
        self._bound_to = tenant_id

    def forget_binding(self, *, transaction_ended: bool) -> None:
        """Forget the binding at the end of the transaction or of a savepoint.

        A rollback to the savepoint undoes a binding that was made after it.
        """
        self._bound_to, self.connection_in_use = _NOT_BOUND, None if transaction_ended else self.connection_in_use

    def check_tenant(self, row: TenantBase) -> None:
        """Set the tenant of a row that has none, and check the tenant of any other row.

        Raises:
            TenantMismatchError: The row belongs to another tenant.
        """
        tenant_id = self.bind_required_tenant()
        if row.tenant_id is None:
            row.tenant_id = tenant_id
        elif row.tenant_id != tenant_id:
            raise TenantMismatchError(
                f"a {type(row).__name__} of tenant {row.tenant_id} is in a session of tenant {tenant_id}",
                hint="a row keeps its tenant; open a session for the other tenant",
            )

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        """Send the pending changes.

        Raises:
            StaleDataError: A row with a `version` was changed or deleted by another writer since it was read.
            TransactionAborted: An earlier error was caught, and the transaction can only be rolled back.
        """
        try:
            super().flush(objects)
        except PendingRollbackError as error:
            raise TransactionAborted("a flush") from error
        except orm_exc.StaleDataError as error:
            raise StaleDataError(
                "a row was changed or deleted by another writer since it was read",
                hint="read the row again, and apply the change to its present values",
            ) from error

    def commit(self) -> None:
        """Flush and commit.

        Raises:
            TransactionAborted: An earlier error was caught, and the transaction can only be rolled back.
        """
        try:
            super().commit()
        except PendingRollbackError as error:
            raise TransactionAborted("a flush") from error

    def get(self, entity: Any, ident: Any, **options: Any) -> Any:
        """Return the row of an id, or None. The tenant is added to the id of a row that belongs to a tenant."""
        return super().get(entity, self._full_key(entity, ident), **self._refreshing(options))

    def get_one(self, entity: Any, ident: Any, **options: Any) -> Any:
        """Return the row of an id, as `get` does, or raise SQLAlchemy's NoResultFound."""
        return super().get_one(entity, self._full_key(entity, ident), **self._refreshing(options))

    def merge(self, instance: Any, **options: Any) -> Any:
        """Copy the state of a row into the session; fill the tenant in if the row has none."""
        return super().merge(self._with_tenant(instance), **options)

    def merge_all(self, instances: Iterable[Any], **options: Any) -> list[Any]:
        """Copy the state of several rows into the session, as `merge` does."""
        return list(super().merge_all([self._with_tenant(instance) for instance in instances], **options))

    def _with_tenant(self, instance: Any) -> Any:
        if isinstance(instance, TenantBase) and instance.tenant_id is None:
            instance.tenant_id = self.required_tenant()
        return instance

    def _refreshing(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "populate_existing": True} if self.always_refreshes else options

    def _full_key(self, entity: Any, ident: Any) -> Any:
        mapped = entity.class_ if isinstance(entity, Mapper) else entity
        if not (isinstance(mapped, type) and issubclass(mapped, TenantBase)):
            return ident
        tenant_id = self.bind_required_tenant()
        if isinstance(ident, dict):
            return {"tenant_id": tenant_id, **ident}
        return ident if isinstance(ident, tuple) else (tenant_id, ident)


class AsyncSession(GuardedAsyncSession):
    """SQLAlchemy's AsyncSession for one tenant.

    It binds every transaction to its tenant, fills `tenant_id` in on new rows, and refuses rows of other tenants. One
    task uses it at a time.
    """

    sync_session_class = TenantSession
    sync_session: TenantSession

    @property
    def tenant_id(self) -> UUID:
        """The tenant of the session.

        Raises:
            NoTenantError: There is no current tenant.
            TenantMismatchError: The current tenant is another one.
        """
        return self.sync_session.required_tenant()


@event.listens_for(TenantSession, "after_begin")
def _bind_transaction(session: TenantSession, transaction: SessionTransaction, connection: Connection) -> None:
    if not transaction.nested:  # a savepoint keeps the binding of its transaction
        session.bind_new_transaction(connection)


@event.listens_for(TenantSession, "after_transaction_end")
def _forget_transaction(session: TenantSession, transaction: SessionTransaction) -> None:
    if transaction.parent is None or transaction.nested:
        session.forget_binding(transaction_ended=transaction.parent is None)


@event.listens_for(TenantSession, "do_orm_execute")
def _before_statement(state: ORMExecuteState) -> None:
    if state.is_column_load and not in_greenlet():  # an expired attribute is read; `refresh` would run in a greenlet
        raise _expired(state)
    session = cast("TenantSession", state.session)
    if not session.is_active:
        raise TransactionAborted("a flush")
    if session.always_refreshes and state.is_select and not state.is_column_load:
        # Not for a relationship load: it can contain the row that it is loaded for, and would replace its attributes.
        state.update_execution_options(populate_existing=not state.is_relationship_load)
    if any(issubclass(mapper.class_, TenantBase) for mapper in state.all_mappers):
        session.bind_required_tenant()
    else:
        session.bind_tenant()


def _expired(state: ORMExecuteState) -> LazyLoadError:
    mapper = state.bind_mapper
    name = mapper.class_.__name__ if mapper is not None else "row"
    return LazyLoadError(
        f"the attributes of a {name} have expired: its transaction was rolled back, or `expire` was called",
        hint="read the row again, or `await session.refresh(row)`; if you need an id after a rollback, store the id in"
        " a variable before",
    )


@event.listens_for(TenantSession, "before_flush")
def _before_flush(session: TenantSession, _context: UOWTransaction, _instances: Any) -> None:
    for row in (*session.new, *session.dirty, *session.deleted):
        if isinstance(row, TenantBase):
            session.check_tenant(row)
