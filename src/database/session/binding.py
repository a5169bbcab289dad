"""The tenant binding of a transaction: it sets the parameter that the policies of row-level security read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast
from uuid import UUID
from weakref import WeakSet

import asyncpg
from sqlalchemy import Connection, Engine, TextClause, Uuid, bindparam, text

from src.database.connect import TEMPORARY_LAST
from src.database.engine import READS_ONLY, begin_with, has_fast_path, raise_as_sqlalchemy
from src.database.observability import names_statements

_IS_MIGRATED: Final = "SELECT to_regprocedure('app_set_tenant(uuid)') IS NOT NULL"
# On a server that accepts no writes, the default tenant counts as registered.
_IS_REGISTERED: Final = (
    "SELECT current_setting('transaction_read_only')::boolean OR EXISTS (SELECT FROM tenants WHERE id = $1)"
)
# Any conflict: two processes that register the same tenant at the same time can conflict on the id or on the slug.
_REGISTER: Final = "INSERT INTO tenants (id, slug, name) VALUES ($1, $2, 'Default') ON CONFLICT DO NOTHING"


@names_statements
class TenantBinding:
    """Binds transactions to their tenant with one statement; before the first one of an engine it checks the schema.

    Args:
        default_tenant: The tenant of work without a current tenant; it is registered at the first use of an engine.
        limits: Server parameters to set with each binding: behind a transaction pooler a connection keeps none.
        on_default_tenant: Called each time the default tenant is used.
    """

    observed_as = "TenantBinding"
    """The name of the statement in metrics, also for subclasses."""

    def __init__(
        self,
        default_tenant: UUID | None = None,
        *,
        limits: Mapping[str, str] | None = None,
        on_default_tenant: Callable[[], None] | None = None,
    ) -> None:
        self.default_tenant = default_tenant
        self._on_default_tenant = on_default_tenant
        self._limits = dict(limits or {})
        # Behind a pooler the server connection can have temporary tables of another client, which hide tables of the
        # same name, and it lacks the search path of the engine.
        self._search_path = [TEMPORARY_LAST.format(is_local="true")] if self._limits else []
        self._statement = self._create_statement()
        self._checked: WeakSet[Engine] = WeakSet()
        """Engines whose database has the schema, and the default tenant in its registry."""

    def _create_statement(self, *also: str) -> TextClause:
        calls = ["app_set_tenant(:tenant_id)", *(f"set_config('{name}', :{name}, true)" for name in self._limits)]
        statement = text("SELECT " + ", ".join([*calls, *self._search_path, *also]))
        return statement.bindparams(bindparam("tenant_id", type_=Uuid())).execution_options(**READS_ONLY)

    def use_default_tenant(self) -> UUID | None:
        """Return the default tenant, and report that it is used."""
        if self.default_tenant is not None and self._on_default_tenant is not None:
            self._on_default_tenant()
        return self.default_tenant

    @property
    def sets_limits(self) -> bool:
        """True if a binding sets server parameters besides the tenant."""
        return bool(self._limits)

    def bind(self, connection: Connection, tenant_id: UUID | None) -> object:
        """Bind the connection's transaction to a tenant, or to none; call it in a greenlet.

        The binding ends with the transaction. If the transaction has not begun on the server, BEGIN and the binding are
        one round trip.

        Returns:
            None; a subclass returns what it reads in the same round trip.
        """
        if connection.engine not in self._checked and not self._check(connection):
            return None
        adapter: Any = connection.connection.dbapi_connection
        is_begun = adapter.autocommit or adapter.driver_connection.is_in_transaction()
        if is_begun or not has_fast_path(connection):
            connection.execute(self._statement, {"tenant_id": tenant_id, **self._limits})
            if not is_begun and adapter.readonly and adapter.isolation_level is None:
                adapter.driver_connection.state.began(f"BEGIN READ ONLY; {self._script(tenant_id)}")
        else:
            begin_with(connection, self._script(tenant_id))
        return None

    def _check(self, connection: Connection) -> bool:
        """Return True if the schema exists; before the first migration there is no function to bind with.

        This uses the driver's connection before BEGIN is sent. So the row of the default tenant is committed
        immediately, and no other session that registers the tenant waits for this transaction.
        """
        driver = cast("Any", connection.connection.dbapi_connection)
        try:
            is_migrated: bool = driver.run_async(self.prepare)
        except BaseException as error:
            raise_as_sqlalchemy(connection, _IS_MIGRATED, error)
            raise
        # In a transaction, a rollback would undo the registration.
        if is_migrated and not driver.driver_connection.is_in_transaction():
            self._checked.add(connection.engine)
        return is_migrated

    def as_script(self, tenant_id: UUID, *, read_only: bool = False) -> str:
        """Return a script that begins and binds a transaction, for the simple protocol: one round trip."""
        return f"BEGIN{' READ ONLY' if read_only else ''}; {self._script(tenant_id)}"

    def _script(self, tenant_id: UUID | None) -> str:
        limits = [f"set_config('{name}', '{value}', true)" for name, value in self._limits.items()]
        tenant = "NULL" if tenant_id is None else f"'{tenant_id}'"
        return "SELECT " + ", ".join([f"app_set_tenant({tenant})", *limits, *self._search_path])

    async def prepare(self, connection: asyncpg.Connection[Any]) -> bool:
        """Register the default tenant if necessary; return True if the database has the schema."""
        if not await connection.fetchval(_IS_MIGRATED):
            return False
        default = self.default_tenant
        if default is not None and not await connection.fetchval(_IS_REGISTERED, default):
            await connection.execute(_REGISTER, default, f"default-{default.hex}")
        return True
