"""jsonb as the driver hands it to SQLAlchemy."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["decode_jsonb"]


async def decode_jsonb(connection: Any) -> None:
    """Have the driver decode what is nearly always empty, and what is not, with less on the way than SQLAlchemy has.

    Args:
        connection: SQLAlchemy's, of the driver's.
    """
    await connection.driver_connection.set_type_codec(
        "jsonb", encoder=str, decoder=_loads, schema="pg_catalog", format="text"
    )


def _loads(text: str) -> Any:
    if text == "{}":
        return {}
    return [] if text == "[]" else json.loads(text)
