"""Clones of the migrated template database, one for each test that commits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import psycopg

from src.database.embedded import SUPERUSER


class Clones:
    """Clones of a template database; each clone is dropped when the next one is created.

    Dropping a clone directly after its test would wait: DROP DATABASE gives connections that are about to end 100 ms.
    STRATEGY file_copy takes half of the time of wal_log when fsync is off.

    Args:
        server: A superuser's connection to another database.
        template: The database to clone; it must have no connections.
        owner: The owner of the clones; by default the superuser.
    """

    def __init__(self, server: psycopg.Connection, template: str, owner: str = SUPERUSER) -> None:
        self._server = server
        self._template = template
        self._owner = owner
        self._numbers = count(1)
        self._left: list[str] = []

    @contextmanager
    def one(self) -> Iterator[str]:
        """Create a clone, and yield its name."""
        self.drop()
        name = f"{self._template}_{next(self._numbers)}"
        self._server.execute(f"CREATE DATABASE {name} OWNER {self._owner} TEMPLATE {self._template} STRATEGY file_copy")
        try:
            yield name
        finally:
            self._left.append(name)

    def drop(self) -> None:
        """Drop the clones that are not in use any more."""
        while self._left:
            self._server.execute(f"DROP DATABASE {self._left[-1]} WITH (FORCE)")
            self._left.pop()
