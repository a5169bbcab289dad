"""thea-db tenant: the registry of tenants, and the data of a tenant and of a person."""

from src.database.cli.tenant.commands import tenant_app

__all__ = ["tenant_app"]
