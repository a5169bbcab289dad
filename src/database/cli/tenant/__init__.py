"""thea-db tenant: the registry of tenants, and the data of a tenant or of one of its users."""

from src.database.cli.tenant.commands import tenant_app

__all__ = ["tenant_app"]
