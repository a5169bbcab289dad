"""Names and numbers that more than one room uses."""

from typing import Final
from uuid import UUID

__all__ = [
    "APPLICATION_NAME",
    "DEFAULT_TENANT_ID",
    "ENVIRONMENTS",
    "LOCAL_ENVIRONMENTS",
    "MIGRATION_ATTEMPTS",
    "MIGRATION_WAIT_SECONDS",
    "PROFILES",
]

APPLICATION_NAME: Final = "thea-database"

ENVIRONMENTS: Final = ("development", "test", "staging", "production")

LOCAL_ENVIRONMENTS: Final = frozenset({"development", "test"})
"""Where the embedded server may stand in for a target, nothing is pooled, and a default tenant acts."""

PROFILES: Final = {"development": "DB_VM_", "staging": "DB_STAGING_", "production": "DB_PROD_"}
"""What the variables of an environment's own target begin with. None for test: it must not find a developer's data."""

DEFAULT_TENANT_ID: Final = UUID("00000000-0000-7000-8000-000000000001")
"""Who acts in development and test when nobody is named."""

MIGRATION_WAIT_SECONDS: Final = 120.0
"""How long a migration waits for another migrator, by default."""

MIGRATION_ATTEMPTS: Final = 10
"""How often a migration that does not get a lock is tried, by default."""
