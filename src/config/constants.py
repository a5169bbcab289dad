"""Constants that several packages use."""

from typing import Final
from uuid import UUID

APPLICATION_NAME: Final = "thea-database"

LOCAL_ENVIRONMENTS: Final = frozenset({"development", "test"})
"""In these the embedded server is the default target, connections are not pooled, and there is a default tenant."""

PROFILES: Final = {"development": "DB_VM_", "staging": "DB_STAGING_", "production": "DB_PROD_"}
"""The prefix of the variables that describe an environment's target. Test has none: tests must not use other data."""

DEFAULT_TENANT_ID: Final = UUID("00000000-0000-7000-8000-000000000001")
"""The current tenant in development and test, outside of `tenant_context`."""

MIGRATION_WAIT_SECONDS: Final = 120.0
"""How long a migration waits for another one to finish, by default."""

MIGRATION_ATTEMPTS: Final = 10
"""How often a migration that does not get a lock is attempted, by default."""
