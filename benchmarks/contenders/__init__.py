"""The contenders: each is a module that is imported only in the contender's own process."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from benchmarks.contenders.base import Contender
from benchmarks.contenders.node import NotInstalledError, node_command

__all__ = ["CONTENDERS", "Entry", "NotInstalledError", "contender"]

ROOT: Final = Path(__file__).parents[2]
FRAMEWORKS: Final = ".cache/frameworks"
"""The environment of `make test-frameworks`: the libraries of SDKs are not installed for the other targets."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A contender: its names, its module and the package that it needs."""

    name: str
    title: str
    path: str
    needs: str
    is_plain: bool = True
    """It uses the plain schema; otherwise this project's, under row-level security."""
    is_extra: bool = False
    """It takes part with `--all` or `--with` only."""
    environment: str = ""
    """The folder of the Python environment with its package; by default the environment of the run."""

    def command(self) -> list[str]:
        """Return the command that starts its process.

        Raises:
            NotInstalledError: The package that it needs is missing.
        """
        if self.path.endswith(".mjs"):
            return node_command(self.path)
        python = ROOT / self.environment / "bin" / "python" if self.environment else Path(sys.executable)
        is_installed = python.exists() if self.environment else find_spec(self.needs) is not None
        if not is_installed:
            raise NotInstalledError(f"{self.needs} is not installed")
        return [str(python), "-m", "benchmarks.worker", self.name]


CONTENDERS: Final = {
    entry.name: entry
    for entry in (
        Entry("store", "store", "store:StoreContender", "asyncpg", is_plain=False),
        Entry("repositories", "repositories", "repositories:RepositoriesContender", "asyncpg", is_plain=False),
        Entry(
            "session",
            "session of openai-agents over the store",
            "agent_sessions:StoredSessions",
            "agents",
            is_plain=False,
            environment=FRAMEWORKS,
        ),
        Entry(
            "sdk_session",
            "SQLAlchemySession of openai-agents",
            "agent_sessions:SqlalchemySessions",
            "agents",
            environment=FRAMEWORKS,
        ),
        Entry("floor", "asyncpg, floor", "asyncpg_floor:AsyncpgFloor", "asyncpg", is_plain=False),
        Entry("asyncpg", "asyncpg, its pool", "asyncpg_pool:AsyncpgPool", "asyncpg"),
        Entry("sqlalchemy", "SQLAlchemy ORM", "sqlalchemy_orm:SqlalchemyOrm", "sqlalchemy"),
        Entry("advanced_alchemy", "Advanced Alchemy", "advanced_alchemy:AdvancedAlchemy", "advanced_alchemy"),
        Entry("tortoise", "Tortoise", "tortoise:TortoiseOrm", "tortoise"),
        Entry("drizzle", "Drizzle, postgres.js", "drizzle.mjs", "node"),
        Entry("psycopg", "psycopg 3", "psycopg_pool:PsycopgPool", "psycopg_pool", is_extra=True),
        Entry("django", "Django", "django:DjangoOrm", "django", is_extra=True),
    )
}


def contender(name: str) -> type[Contender]:
    """Import a contender, and return its class."""
    module, _, kind = CONTENDERS[name].path.partition(":")
    found: type[Contender] = getattr(import_module(f"benchmarks.contenders.{module}"), kind)
    return found
