"""What a command that must end in time does about threads that do not."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

__all__ = ["AbandonedThreads", "leave"]


class AbandonedThreads(ThreadPoolExecutor):
    """Threads that nobody waits for: a name server that says nothing holds one for longer than we may wait."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let them run on."""
        super().shutdown(wait=False, cancel_futures=True)


def leave(code: int) -> NoReturn:
    """End the process at once: Python would wait for such a thread."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
