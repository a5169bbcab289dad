"""Finishes what a cancellation must not leave half done."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["to_its_end"]


async def to_its_end(work: Coroutine[Any, Any, object]) -> None:
    """Have work of a moment end before a cancellation goes on; a second one waits no longer.

    What the work raises comes out, unless its caller is cancelled: asyncio logs it then.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
