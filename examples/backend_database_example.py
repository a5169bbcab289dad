"""Connects to the database of this environment, whichever it is, and says to what: the code is the same in all.

    python examples/backend_database_example.py

What differs is in the environment or in a `.env` file: ENVIRONMENT, and DB_VM_*, DB_STAGING_*, DB_PROD_* or
DATABASE_URL. With nothing set it is the embedded PostgreSQL.
"""

import asyncio
import sys

from sqlalchemy import text

from src.config import EnvironmentConfig, get_environment_config
from src.database import engine
from src.database.errors import DatabaseError


def describe(config: EnvironmentConfig) -> str:
    """Say where the connection leads, and how it is protected."""
    target = config.target
    if target is None:
        return "PostgreSQL embebido"
    where = ", ".join(f"{host.name}:{host.port}" for host in target.hosts)
    if config.use_vm:
        return f"{where} (VM via port forwarding)"
    if target.route != "direct":
        where = f"{where} ({target.route})"
    if target.ssl_mode == "disable" or target.is_socket:
        return where
    return f"{where} con SSL + certificado" if target.ssl_ca else f"{where} con SSL"


async def main() -> None:
    """Connect, ask the server something, and let go."""
    config = get_environment_config()
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    await engine.dispose()
    print(f"[OK] Conectado a {describe(config)}")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except DatabaseError as error:
        sys.exit(f"[ERROR] {error}")
