"""The contenders, each in a module of its own, which is imported only in its own process."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Final

from benchmarks.contenders.base import Contender
from benchmarks.contenders.node import NotInstalledError, node_command

__all__ = ["CONTENDERS", "Entry", "NotInstalledError", "contender"]


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a contender is, what it is called, and what has to be installed for it."""

    name: str
    title: str
    path: str
    needs: str
    is_extra: bool = False

    def command(self) -> list[str]:
        """Return what starts its process.

        Raises:
            NotInstalledError: What it needs is not there.
        """
        if self.path.endswith(".mjs"):
            return node_command(self.path)
        if find_spec(self.needs) is None:
            raise NotInstalledError(f"{self.needs} is not installed")
        return [sys.executable, "-m", "benchmarks.worker", self.name]


CONTENDERS: Final = {
    one.name: one
    for one in (
        Entry("store", "store", "store:StoreContender", "asyncpg"),
        Entry("repositories", "repositories", "repositories:RepositoriesContender", "asyncpg"),
        Entry("asyncpg", "asyncpg, its pool", "asyncpg_pool:AsyncpgPool", "asyncpg"),
        Entry("floor", "asyncpg, floor", "asyncpg_floor:AsyncpgFloor", "asyncpg"),
        Entry("sqlalchemy", "SQLAlchemy ORM", "sqlalchemy_orm:SqlalchemyOrm", "sqlalchemy"),
        Entry("advanced_alchemy", "Advanced Alchemy", "advanced_alchemy:AdvancedAlchemy", "advanced_alchemy"),
        Entry("tortoise", "Tortoise", "tortoise:TortoiseOrm", "tortoise"),
        Entry("psycopg", "psycopg 3", "psycopg_pool:PsycopgPool", "psycopg_pool", is_extra=True),
        Entry("sqlmodel", "SQLModel", "sqlmodel:SqlmodelOrm", "sqlmodel", is_extra=True),
        Entry("piccolo", "Piccolo", "piccolo:PiccoloOrm", "piccolo", is_extra=True),
        Entry("django", "Django", "django:DjangoOrm", "django", is_extra=True),
        Entry("drizzle", "Drizzle, postgres.js", "drizzle.mjs", "node", is_extra=True),
    )
}


def contender(name: str) -> type[Contender]:
    """Import a contender."""
    module, _, kind = CONTENDERS[name].path.partition(":")
    found: type[Contender] = getattr(import_module(f"benchmarks.contenders.{module}"), kind)
    return found
