"""thea-db tenant: the registry, and what is held on a tenant and on a person."""

from src.database.cli.tenant.commands import tenant_app

__all__ = ["tenant_app"]
