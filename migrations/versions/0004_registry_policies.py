"""Row-level security on the registry of tenants; only the owner writes alembic_version.

Until now the application's role could change every tenant's `status` and `retention_days`, and the revision. From here
on it reads and registers every tenant, and changes or removes the current tenant's entry, or the one that
`TenantRepository` names. The release before this one still reads, registers, and changes the current tenant's entry; of
another tenant's entry it reports that there is none.

Revision ID: 0004
Revises: 0003
Create Date: 2026-11-30
"""

from __future__ import annotations

from collections.abc import Sequence

from alembic import op

from src.database.migrate import REVOKE_WRITES
from src.database.migrate.row_level_security import protect_registry

revision: str = "0004"
down_revision: str | Sequence[str] | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute(REVOKE_WRITES)
    protect_registry("tenants")


def downgrade() -> None:
    # The rights on alembic_version stay revoked: no release needs them.
    op.execute("ALTER TABLE tenants NO FORCE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE tenants DISABLE ROW LEVEL SECURITY")
    for policy in ("tenant_isolation", "registry_read", "registry_insert"):
        op.execute(f"DROP POLICY {policy} ON tenants")
