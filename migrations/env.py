"""Alembic's environment: our engine, one migrator at a time, a transaction for each migration."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.util import CommandError

from src.config import get_settings
from src.database import models
from src.database.base import Base, CleanText, Json, UtcDateTime
from src.database.errors import DatabaseError
from src.database.schema import explain, migration_connection
from src.database.schema.steps import CONNECTION, print_steps, run_steps

assert models.User.metadata is Base.metadata  # noqa: S101 - importing the models is what fills the metadata

SQL_TYPES: Final = {
    CleanText: "sa.Text()",
    Json: "postgresql.JSONB()",
    UtcDateTime: "sa.DateTime(timezone=True)",
}
"""How a generated revision writes our types: as the database has them, so that it outlives them."""

ONLY_READ: Final = {"branches", "check", "current", "history", "revision"}
"""Alembic's commands that need not wait for a migration to end."""


def render_item(kind: str, item: Any, autogenerate: AutogenContext) -> str | Literal[False]:
    """Write our own column types as plain SQL types."""
    if kind != "type" or type(item) not in SQL_TYPES:
        return False
    autogenerate.imports.add("from sqlalchemy.dialects import postgresql")
    return SQL_TYPES[type(item)]


OPTIONS: Final[dict[str, Any]] = {
    "dialect_name": "postgresql+asyncpg",
    "target_metadata": Base.metadata,
    "compare_server_default": True,
    "render_item": render_item,
}


async def run_online(asked: str) -> None:
    """Connect as the settings say, and run."""
    async with migration_connection(get_settings(), alone=asked not in ONLY_READ) as connection:
        await connection.run_sync(run_steps, **OPTIONS)


def run_for_alembic(asked: str) -> None:
    """Run for `alembic` itself, which knows its own errors and shows them without a traceback."""
    try:
        if context.is_offline_mode():
            print_steps(**OPTIONS)
        else:
            asyncio.run(run_online(asked))
    except DatabaseError as error:
        raise CommandError(str(error)) from error
    except CommandError as error:
        raise CommandError(str(explain(error))) from error


command, *_ = getattr(context.config.cmd_opts, "cmd", (None,))
if (given := context.config.attributes.get(CONNECTION)) is not None:
    run_steps(given, **OPTIONS)
elif command is None and context.is_offline_mode():
    print_steps(**OPTIONS)
else:
    run_for_alembic(getattr(command, "__name__", ""))
