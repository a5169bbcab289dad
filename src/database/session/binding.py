"""How a transaction is bound to the tenant that acts: what row-level security goes by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast
from uuid import UUID
from weakref import WeakSet

import asyncpg
from sqlalchemy import Connection, Engine, TextClause, Uuid, bindparam, text

from src.database.connect import TEMPORARY_LAST
from src.database.engine.commits import READS_ONLY
from src.database.engine.sqlalchemy_internals import begin_with, has_fast_path, raise_as_sqlalchemy
from src.database.observability import names_statements

_IS_MIGRATED: Final = "SELECT to_regprocedure('app_set_tenant(uuid)') IS NOT NULL"
# Where nothing can be written, on a replica, it is taken as it is.
_IS_REGISTERED: Final = (
    "SELECT current_setting('transaction_read_only')::boolean OR EXISTS (SELECT FROM tenants WHERE id = $1)"
)
# Any conflict: two that register the same tenant at once may meet on its slug, which is made of its id.
_REGISTER: Final = "INSERT INTO tenants (id, slug, name) VALUES ($1, $2, 'Default') ON CONFLICT DO NOTHING"


@names_statements
class TenantBinding:
    """How a transaction is bound to its tenant: one statement, and on an engine's first use a look at the schema.

    Args:
        default_tenant: Who acts when nobody is named; entered in the registry on first use.
        limits: Server parameters to set for each transaction, with its tenant: a transaction pooler keeps none.
        on_default_tenant: Called each time the default tenant is used because none is named.
    """

    observed_as = "TenantBinding"
    """Subclasses bind by other means; the statement has one name."""

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
        # Behind a pooler the server's connection has another client's temporary tables, and not our search path.
        self._search_path = [TEMPORARY_LAST.format(is_local="true")] if self._limits else []
        self._statement = self._make_statement()
        self._ready: WeakSet[Engine] = WeakSet()

    def _make_statement(self, *also: str) -> TextClause:
        calls = ["app_set_tenant(:tenant_id)", *(f"set_config('{name}', :{name}, true)" for name in self._limits)]
        statement = text("SELECT " + ", ".join([*calls, *self._search_path, *also]))
        return statement.bindparams(bindparam("tenant_id", type_=Uuid())).execution_options(**READS_ONLY)

    def use_default_tenant(self) -> UUID | None:
        """Return the default tenant, for work that names none, and report that it is used."""
        if self.default_tenant is not None and self._on_default_tenant is not None:
            self._on_default_tenant()
        return self.default_tenant

    @property
    def sets_limits(self) -> bool:
        """True if more is set for each transaction than its tenant."""
        return bool(self._limits)

    def bind(self, connection: Connection, tenant_id: UUID | None) -> object:
        """Bind the connection's transaction, and nothing beyond it, to a tenant, or to none.

        If the transaction has not begun on the server, BEGIN and the binding are one round trip.

        Returns:
            What a subclass reads in the same round trip.
        """
        if connection.engine not in self._ready and not self._is_ready(connection):
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

    def _is_ready(self, connection: Connection) -> bool:
        """Return True if the schema exists; before the first migration there is nothing to bind.

        It runs on the driver's connection before BEGIN is sent, so the registry's row is committed at once and no
        other session waits for it.
        """
        driver = cast("Any", connection.connection.dbapi_connection)
        try:
            is_migrated: bool = driver.run_async(self.prepare)
        except BaseException as error:
            raise_as_sqlalchemy(connection, _IS_MIGRATED, error)
            raise
        if is_migrated and not driver.driver_connection.is_in_transaction():  # inside one, it could still be undone
            self._ready.add(connection.engine)
        return is_migrated

    def as_script(self, tenant_id: UUID, *, read_only: bool = False) -> str:
        """Return what begins a transaction and binds it, for the simple protocol: one round trip, no parameters."""
        return f"BEGIN{' READ ONLY' if read_only else ''}; {self._script(tenant_id)}"

    def _script(self, tenant_id: UUID | None) -> str:
        limits = [f"set_config('{name}', '{value}', true)" for name, value in self._limits.items()]
        tenant = "NULL" if tenant_id is None else f"'{tenant_id}'"
        return "SELECT " + ", ".join([f"app_set_tenant({tenant})", *limits, *self._search_path])

    async def prepare(self, connection: asyncpg.Connection[Any]) -> bool:
        """Enter the default tenant in the registry; return whether there is one, and a schema at all."""
        if not await connection.fetchval(_IS_MIGRATED):
            return False
        default = self.default_tenant
        if default is not None and not await connection.fetchval(_IS_REGISTERED, default):
            await connection.execute(_REGISTER, default, f"default-{default.hex}")
        return True
