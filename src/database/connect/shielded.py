"""Running to completion what a cancellation must not leave half done."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


async def run_shielded(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run a coroutine to completion even if the caller is cancelled; re-raise the cancellation afterwards.

    A second cancellation is not delayed. An error of the coroutine is raised here; if the caller is cancelled, asyncio
    logs the error instead.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
