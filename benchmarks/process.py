"""A contender's process, as the one who measures sees it."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from benchmarks.contenders import Entry
from benchmarks.sample import Sample

__all__ = ["FailedError", "Process", "running"]

HEAP: Final = {"MALLOC_TRIM_THRESHOLD_": "67108864", "MALLOC_MMAP_THRESHOLD_": "33554432"}
"""asyncio reads into a fresh 256 KiB each time, and glibc gives it back each time in a process that is small: without
this, who has allocated more is faster for it."""
LONGEST_LINE: Final = 2**26
LONGEST_ERROR: Final = 300


class FailedError(Exception):
    """A contender could not do what it was asked."""


class Process:
    """One contender's process, connected and idle until it is asked."""

    def __init__(self, process: asyncio.subprocess.Process, errors: Any) -> None:
        self._process = process
        self._errors = errors
        self.operations: list[str] = []

    async def start(self, sample: Sample) -> None:
        """Send the sample, and learn what it takes part in."""
        self.operations = (await self._send(sample.as_json()))["operations"]

    async def ask(self, do: str, **options: Any) -> dict[str, Any]:
        """Have it do something, and return what came of it.

        Raises:
            FailedError: It could not.
        """
        answer = await self._send({"do": do, **options})
        if "error" in answer:
            raise FailedError(answer["error"])
        return answer

    async def _send(self, message: Mapping[str, Any]) -> dict[str, Any]:
        if self._process.stdin is None or self._process.stdout is None:
            raise FailedError("it has no pipes")
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            await self._process.stdin.drain()
            line = await self._process.stdout.readline()
        except OSError as error:
            raise FailedError(self._last_words()) from error
        if not line:
            raise FailedError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        telling = [line for line in lines if "Error" in line] or lines or ["its process ended"]
        return str(telling[-1][:LONGEST_ERROR])

    async def stop(self) -> None:
        """Let it close its connections and end."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def running(entry: Entry, sample: Sample, environment: Mapping[str, str]) -> AsyncIterator[Process]:
    """Start a contender's process, and end it.

    Raises:
        FailedError: It does not start.
        NotInstalledError: What it needs is not there.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_", "DB_"))}
    with tempfile.TemporaryFile() as errors:
        started = await asyncio.create_subprocess_exec(
            *entry.command(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={**kept, **HEAP, **environment},
            limit=LONGEST_LINE,
        )
        process = Process(started, errors)
        try:
            await process.start(sample)
            yield process
        finally:
            await process.stop()
