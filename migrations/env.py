"""Alembic's environment: our engine, one migrator at a time, a transaction for each migration."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.util import CommandError
from sqlalchemy import Connection

from src.config import get_settings
from src.database import models
from src.database.base import Base, CleanText, Json, UtcDateTime
from src.database.errors import DatabaseError
from src.database.schema.migrate import migration_connection

assert models.User.metadata is Base.metadata  # noqa: S101 - importing the models is what fills the metadata

SQL_TYPES: Final = {
    CleanText: "sa.Text()",
    Json: "postgresql.JSONB()",
    UtcDateTime: "sa.DateTime(timezone=True)",
}
"""How a generated revision writes our types: as the database has them, so that it outlives them."""


def render_item(kind: str, item: Any, autogenerate: AutogenContext) -> str | Literal[False]:
    """Write our own column types as plain SQL types."""
    if kind != "type" or type(item) not in SQL_TYPES:
        return False
    autogenerate.imports.add("from sqlalchemy.dialects import postgresql")
    return SQL_TYPES[type(item)]


def configure_and_run(connection: Connection | None) -> None:
    """Run the migrations over a connection, or print their SQL where there is none."""
    context.configure(
        connection=connection,
        dialect_name="postgresql+asyncpg",
        target_metadata=Base.metadata,
        compare_server_default=True,
        render_item=render_item,
        transaction_per_migration=True,
        literal_binds=connection is None,
    )
    with context.begin_transaction():
        context.run_migrations()


async def run_online() -> None:
    """Connect as the settings say, and run."""
    async with migration_connection(get_settings()) as connection:
        await connection.run_sync(configure_and_run)


if context.is_offline_mode():
    configure_and_run(None)
elif (given := context.config.attributes.get("connection")) is not None:
    configure_and_run(given)
else:
    try:
        asyncio.run(run_online())
    except DatabaseError as error:
        raise CommandError(str(error)) from error
