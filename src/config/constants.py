"""Names and numbers that several packages use."""

from typing import Final
from uuid import UUID

APPLICATION_NAME: Final = "thea-database"

ENVIRONMENTS: Final = ("development", "test", "staging", "production")

LOCAL_ENVIRONMENTS: Final = frozenset({"development", "test"})
"""The environments with the embedded server as the default target, no pools, and a default tenant."""

PROFILES: Final = {"development": "DB_VM_", "staging": "DB_STAGING_", "production": "DB_PROD_"}
"""The prefixes of the variables of an environment's target. None for test, which must not find a developer's data."""

DEFAULT_TENANT_ID: Final = UUID("00000000-0000-7000-8000-000000000001")
"""The tenant in development and test if there is no tenant context."""

MIGRATION_WAIT_SECONDS: Final = 120.0
"""How long a migration waits for another migrator, by default."""

MIGRATION_ATTEMPTS: Final = 10
"""How often a migration that does not get a lock is tried, by default."""
