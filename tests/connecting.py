"""A connection of the driver to a target, without an engine."""

from __future__ import annotations

from typing import Any

import asyncpg

from src.database.connect import Connector
from src.database.target import Target


async def connect(target: Target) -> asyncpg.Connection[Any]:
    """Open a connection without a tunnel and without the Cloud SQL connector; the caller closes it."""
    return await Connector(target).connect()
