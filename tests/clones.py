"""Databases like the migrated template, one a test, for what really commits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import psycopg

from src.database.embedded import SUPERUSER


class Clones:
    """Makes databases like a template; each is dropped when the next one is made.

    Not at once: the server waits 100 ms for a connection that is about to end before it drops a database, which took as
    long as all the rest. And it copies files, which without fsync takes half the time of writing them into its log.

    Args:
        server: A superuser's connection to another database.
        template: What they are like; nobody is connected to it.
        owner: Whose they are; by default the superuser's.
    """

    def __init__(self, server: psycopg.Connection, template: str, owner: str = SUPERUSER) -> None:
        self._server = server
        self._template = template
        self._owner = owner
        self._numbers = count(1)
        self._left: list[str] = []

    @contextmanager
    def one(self) -> Iterator[str]:
        """Make a database and give its name."""
        self.drop()
        name = f"{self._template}_{next(self._numbers)}"
        self._server.execute(f"CREATE DATABASE {name} OWNER {self._owner} TEMPLATE {self._template} STRATEGY file_copy")
        try:
            yield name
        finally:
            self._left.append(name)

    def drop(self) -> None:
        """Drop those that nobody uses any more."""
        while self._left:
            self._server.execute(f"DROP DATABASE {self._left[-1]} WITH (FORCE)")
            self._left.pop()
