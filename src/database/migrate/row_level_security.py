"""Row-level security: the operations that migrations call for each table of tenants' rows."""

from __future__ import annotations

from typing import Final

from alembic import op

POLICY: Final = "tenant_isolation"

# Without a subquery: Citus refuses one in a policy, and beside an explicit `tenant_id = $1` it gains nothing.
# NULLIF: after a first SET LOCAL in a session the setting is '' again and not NULL.
_IS_OWN_ROW: Final = "tenant_id = NULLIF(current_setting('app.tenant_id', true), '')::uuid"
# The second setting names an entry without binding the transaction to that tenant's rows: see TenantRepository.
_IS_OWN_ENTRY: Final = (
    "id = NULLIF(current_setting('app.tenant_id', true), '')::uuid"
    " OR id = NULLIF(current_setting('app.registry_id', true), '')::uuid"
)

# SET LOCAL by EXECUTE, and not set_config(): on Citus only the former reaches the workers.
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
    """Restrict each transaction to the rows of its own tenant, also that of the table's owner."""
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY {POLICY} ON {table} USING ({_IS_OWN_ROW}) WITH CHECK ({_IS_OWN_ROW})")


def protect_registry(table: str) -> None:
    """Allow each transaction to read and insert every tenant, and to change or delete its own entry alone."""
    op.execute(f"CREATE POLICY {POLICY} ON {table} USING ({_IS_OWN_ENTRY}) WITH CHECK ({_IS_OWN_ENTRY})")
    op.execute(f"CREATE POLICY registry_read ON {table} FOR SELECT USING (true)")
    op.execute(f"CREATE POLICY registry_insert ON {table} FOR INSERT WITH CHECK (true)")
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
