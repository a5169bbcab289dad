"""The wall in the database: what migrations call for each table of tenants' rows."""

from __future__ import annotations

from typing import Final

from alembic import op

__all__ = ["POLICY", "create_binding_function", "drop_binding_function", "protect", "protect_registry"]

POLICY: Final = "tenant_isolation"

# Plain, without a subquery: Citus refuses one in a policy, and beside an explicit `tenant_id = $1` it gains nothing.
# NULLIF: after a first SET LOCAL in a session the setting falls back to '' and not to NULL.
_IS_OWN_ROW: Final = "tenant_id = NULLIF(current_setting('app.tenant_id', true), '')::uuid"
# The second setting names an entry without binding the transaction to that tenant's rows: see TenantRepository.
_IS_OWN_ENTRY: Final = (
    "id = NULLIF(current_setting('app.tenant_id', true), '')::uuid"
    " OR id = NULLIF(current_setting('app.registry_id', true), '')::uuid"
)

# A function that EXECUTEs SET LOCAL, and not set_config(): on Citus only the former reaches the workers.
_CREATE_FUNCTION: Final = """
CREATE FUNCTION app_set_tenant(tenant_id uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'SET LOCAL app.tenant_id = ' || quote_literal(coalesce(tenant_id::text, ''));
END
$$
"""


def create_binding_function() -> None:
    """Create ``app_set_tenant(uuid)``, which binds the current transaction to a tenant."""
    op.execute(_CREATE_FUNCTION)


def drop_binding_function() -> None:
    """Drop ``app_set_tenant(uuid)``."""
    op.execute("DROP FUNCTION app_set_tenant(uuid)")


def protect(table: str) -> None:
    """Show a transaction the rows of its own tenant and no others, the table's owner included."""
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY {POLICY} ON {table} USING ({_IS_OWN_ROW}) WITH CHECK ({_IS_OWN_ROW})")


def protect_registry(table: str) -> None:
    """Let a transaction read and insert every tenant, and change or delete its own entry alone, the owner's too."""
    op.execute(f"CREATE POLICY {POLICY} ON {table} USING ({_IS_OWN_ENTRY}) WITH CHECK ({_IS_OWN_ENTRY})")
    op.execute(f"CREATE POLICY registry_read ON {table} FOR SELECT USING (true)")
    op.execute(f"CREATE POLICY registry_insert ON {table} FOR INSERT WITH CHECK (true)")
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
