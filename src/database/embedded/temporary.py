"""The server of a test run: fast and not durable, and removed with its folder after its last user."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from src.database.embedded.server import EmbeddedServer

# Durability is not needed. Without fsync and full pages, cloning a template is five times as fast.
SERVER_PARAMETERS: Final = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "io_method": "sync",
    "shared_buffers": "32MB",
    "autovacuum": "off",  # it would process hundreds of databases; tests that need statistics run ANALYZE
    "dynamic_shared_memory_type": "mmap",  # also for replicas: leaves nothing in /dev/shm
}


def temporary_server(folder: Path) -> EmbeddedServer:
    """Return the handle for the temporary server of a folder, which may not be running yet."""
    return EmbeddedServer(folder, config=SERVER_PARAMETERS, is_temporary=True)


@contextmanager
def starting(folder: Path) -> Iterator[None]:
    """Start the temporary server of a folder in a thread while this block runs, and use it until the block ends.

    Creating a cluster takes a second, in which this process can import modules. The block acquires the server with a
    handle of its own, which waits for the thread. An error is not raised here: acquiring the server raises it again.
    """
    folder.mkdir(mode=0o711, exist_ok=True)  # as root the server runs as another user, who enters it
    server = temporary_server(folder)
    executor = ThreadPoolExecutor(1, thread_name_prefix="thea-server")
    executor.submit(server.acquire)
    try:
        yield
    finally:
        executor.shutdown()
        server.release()
