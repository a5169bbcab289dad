"""The run's side of a contender's process."""

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
"""asyncio allocates a new buffer of 256 KiB for each read, and glibc returns it to the system each time in a small
process: without this, a process that has allocated more is faster."""
LONGEST_LINE: Final = 2**26
LONGEST_ERROR: Final = 300


class FailedError(Exception):
    """A contender failed at a command."""


class Process:
    """One contender's process: connected, and idle between commands."""

    def __init__(self, process: asyncio.subprocess.Process, errors: Any) -> None:
        self._process = process
        self._errors = errors
        self.operations: list[str] = []

    async def start(self, sample: Sample) -> None:
        """Send the sample, and receive the operations that the contender takes part in."""
        self.operations = (await self._send(sample.as_json()))["operations"]

    async def request(self, do: str, **options: Any) -> dict[str, Any]:
        """Run a command in the process, and return its result.

        Raises:
            FailedError: The command failed.
        """
        answer = await self._send(json.dumps({"do": do, **options}).encode())
        if "error" in answer:
            raise FailedError(answer["error"])
        return answer

    async def _send(self, line: bytes) -> dict[str, Any]:
        if self._process.stdin is None or self._process.stdout is None:
            raise FailedError("the process has no pipes")
        try:
            self._process.stdin.write(line + b"\n")
            await self._process.stdin.drain()
            answer = await self._process.stdout.readline()
        except OSError as error:
            raise FailedError(self._last_error()) from error
        if not answer:
            raise FailedError(self._last_error())
        result: dict[str, Any] = json.loads(answer)
        return result

    def _last_error(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        errors = [line for line in lines if "Error" in line] or lines or ["its process ended"]
        return str(errors[-1][:LONGEST_ERROR])

    async def stop(self) -> None:
        """Wait until the process has closed its connections and ended."""
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
    """Start a contender's process, and stop it at the end of the block.

    Raises:
        FailedError: It does not start.
        NotInstalledError: A package or a program that it needs is missing.
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
