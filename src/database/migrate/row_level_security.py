"""Row-level security: the operations that migrations call for each table with rows of tenants."""

from __future__ import annotations

from typing import Final

from alembic import op

POLICY: Final = "tenant_isolation"

# No subquery: Citus rejects a subquery in a policy. NULLIF: when a transaction with SET LOCAL ends, a custom setting
# that the session did not have before becomes '' and not NULL, and ''::uuid would be an error.
_IS_OWN_ROW: Final = "tenant_id = NULLIF(current_setting('app.tenant_id', true), '')::uuid"
# app.registry_id allows a transaction to change the entry of a tenant without being bound to the rows of that tenant:
# see TenantRepository.
_IS_OWN_ENTRY: Final = (
    "id = NULLIF(current_setting('app.tenant_id', true), '')::uuid"
    " OR id = NULLIF(current_setting('app.registry_id', true), '')::uuid"
)

# EXECUTE 'SET LOCAL ...', not set_config(): Citus propagates only SET LOCAL to the workers.
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
    """Restrict each transaction to the rows of its tenant, including transactions of the table's owner.

    Args:
        table: A table with the column `tenant_id`.
    """
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY {POLICY} ON {table} USING ({_IS_OWN_ROW}) WITH CHECK ({_IS_OWN_ROW})")


def protect_registry(table: str) -> None:
    """Allow each transaction to read and insert every tenant, and to update and delete only the entry of its tenant.

    Args:
        table: The registry, whose `id` is the id of the tenant.
    """
    op.execute(f"CREATE POLICY {POLICY} ON {table} USING ({_IS_OWN_ENTRY}) WITH CHECK ({_IS_OWN_ENTRY})")
    op.execute(f"CREATE POLICY registry_read ON {table} FOR SELECT USING (true)")
    op.execute(f"CREATE POLICY registry_insert ON {table} FOR INSERT WITH CHECK (true)")
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
