"""What the server calls a connection: pg_stat_activity and the server's log then say whose it is."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["MOST_BYTES", "connection_name"]

MOST_BYTES: Final = 63
"""What the server keeps of a name; the rest it cuts off."""


def connection_name(service: str, environment: str, pool: str) -> str:
    """Return ``<service>/<environment>/<pool>/<process>`` in ASCII, the process as its number.

    It is made for each connection, since a process that was forked has another number. Where it would be too long, the
    service's name gives way: pools have at most 32 characters, and the process is what one looks for.
    """
    rest = f"/{environment}/{pool}/{os.getpid()}"
    plain = service.encode("ascii", "replace").decode()  # the server would put an escape of several signs in its place
    return f"{plain[: MOST_BYTES - len(rest)]}{rest}"
