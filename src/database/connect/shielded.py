"""Running what a cancellation must not leave half done."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def run_shielded(work: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine to completion even if the caller is cancelled; re-raise the cancellation afterwards.

    A second cancellation is not delayed. What the coroutine raises is raised here, unless the caller is cancelled:
    then asyncio logs it.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
