"""The environment variables of the tests: the service's settings, without those that name a database."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dotenv import dotenv_values

from src.config import Settings
from src.config.files import environment_files

_NAMES_A_DATABASE: Final = re.compile(
    r"DB_|DATABASE_(\w*URL|EMBEDDED_DIR|PASSWORD_PROVIDER|PGBOUNCER\w*|SSL_\w+|DEFAULT_TENANT)$"
)
NONE_CHOSEN: Final = "postgresql://none@127.0.0.1:1/use_the_fixture_committed_database"
"""The URL in tests that choose no database: a test must not reach a database by accident."""


def variables_of_tests(environ: Mapping[str, str], empty_file: Path) -> dict[str, str | None]:
    """Return the changes of the environment for tests; None removes a variable.

    The settings of the service's `.env` and `.env.test` apply, except those that name a database.

    Args:
        environ: The environment.
        empty_file: An empty file, which takes the place of the `.env` files.

    Raises:
        ConfigurationError: A file cannot be read.
    """
    stated: dict[str, str | None] = {}
    for file in environment_files({**environ, "ENVIRONMENT": "test"}):
        stated |= dotenv_values(file)
    kept = {
        name: value
        for name, value in stated.items()
        if name in Settings.model_fields and name not in environ and not _NAMES_A_DATABASE.match(name)
    }
    removed = dict.fromkeys((name for name in environ if _NAMES_A_DATABASE.match(name)), None)
    return {**removed, **kept, "ENVIRONMENT": "test", "ENV_FILE": str(empty_file), "DATABASE_URL": NONE_CHOSEN}
