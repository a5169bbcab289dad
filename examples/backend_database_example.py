"""Connect to the database of this environment and print which one it is. The code is the same in every environment.

    python examples/backend_database_example.py

Environment variables or a `.env` file select the database: ENVIRONMENT, and DB_VM_*, DB_STAGING_*, DB_PROD_* or
DATABASE_URL. Without any of these, the embedded PostgreSQL is used.
"""

import asyncio
import sys

from sqlalchemy import text

from src.config import EnvironmentConfig, get_environment_config
from src.database import engine
from src.database.errors import DatabaseError


def describe(config: EnvironmentConfig) -> str:
    """Return the address of the target, and how the connection is protected."""
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
    """Connect, run a query, and close all connections."""
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
