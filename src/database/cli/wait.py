"""thea-db wait: waits until the server accepts connections; ends immediately if waiting cannot help."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Final, Literal

import typer
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import NullPool

from src.config import Settings
from src.database.cli.output import print_error, print_json
from src.database.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    DatabaseError,
    DatabaseMissing,
    TlsFailed,
    TunnelFailed,
)
from src.database.session import create_engine, resolve_target

Status = Literal["up", "down", "failed"]

EXIT_CODES: Final[dict[Status, int]] = {"up": 0, "down": 1, "failed": 2}

# By name, because asyncssh is an extra: the gateway rejects this client, or its key is not known here.
_FINAL_CAUSES_OF_TUNNELS: Final = {"HostKeyNotVerifiable", "KeyImportError", "PermissionDenied"}


class AbandonedThreads(ThreadPoolExecutor):
    """Threads that are not waited for: a silent name server blocks a thread for longer than the command may run."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Return immediately; the threads continue."""
        super().shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waited:
    """The result of waiting: ``up``; ``down`` until the time was over; ``failed`` for a permanent reason."""

    status: Status
    target: str
    seconds: float
    attempts: int
    reason: str | None = None
    hint: str | None = None


def run_wait(settings: Settings, *, timeout: float, interval: float, as_json: bool) -> int:
    """Wait and print the result; return the exit code: 0 up, 1 still down, 2 waiting cannot help."""

    def print_reason(reason: str) -> None:
        typer.echo(f"waiting: {reason}", err=True)

    waited = asyncio.run(
        wait_for_server(settings, timeout_seconds=timeout, interval_seconds=interval, on_reason=print_reason)
    )
    if as_json:
        print_json(asdict(waited))
    elif waited.status == "up":
        typer.echo(f"up after {waited.seconds} s: {waited.target}")
    if waited.status != "up":
        how = f"still down after {waited.seconds} s" if waited.status == "down" else "waiting does not heal this"
        hint = f"\nhint: {waited.hint}" if waited.hint else ""
        print_error(f"{how}: {waited.reason}{hint}")
    return EXIT_CODES[waited.status]


async def wait_for_server(
    settings: Settings, *, timeout_seconds: float, interval_seconds: float, on_reason: Callable[[str], None]
) -> Waited:
    """Try to connect until it succeeds, fails permanently, or the time is over; an attempt can be cut short.

    Args:
        settings: The settings.
        timeout_seconds: The limit for all attempts together.
        interval_seconds: The pause between two attempts.
        on_reason: Called with each new reason why there is no connection yet.

    Raises:
        ConfigurationError: The settings name no usable target.
    """
    asyncio.get_running_loop().set_default_executor(AbandonedThreads())
    target = str(resolve_target(settings))
    engine = create_engine(settings, poolclass=NullPool)
    attempts = _Attempts(on_reason)
    started = time.monotonic()
    status: Status = "down"
    try:
        async with asyncio.timeout(timeout_seconds):
            status = "up" if await attempts.succeed(engine, interval_seconds) else "failed"
    except TimeoutError:
        attempts.reason = attempts.reason or ConnectionFailed(f"no connection to {target}: it did not answer in time")
    finally:
        await engine.dispose()
    seconds = round(time.monotonic() - started, 1)
    why = None if status == "up" else attempts.reason
    return Waited(
        status=status,
        target=target,
        seconds=seconds,
        attempts=attempts.count,
        reason=None if why is None else str(why.args[0]),
        hint=None if why is None else why.hint,
    )


@dataclass(slots=True)
class _Attempts:
    """The number of attempts, and the reason of the last failure."""

    on_reason: Callable[[str], None]
    count: int = 0
    reason: DatabaseError | None = None

    async def succeed(self, engine: AsyncEngine, interval_seconds: float) -> bool:
        """Return True when an attempt succeeds, and False if it fails permanently."""
        while True:
            self.count += 1
            try:
                async with engine.connect():
                    return True
            except DatabaseError as error:
                is_new = str(error) != str(self.reason)
                self.reason = error
                if not time_heals(error):
                    return False
                if is_new:
                    self.on_reason(str(error.args[0]))
            await asyncio.sleep(interval_seconds)


def time_heals(error: DatabaseError) -> bool:
    """Return True if the next attempt may succeed without a changed setting.

    A name that is not known yet, a server that starts, shuts down or is full, no writer among the hosts: all of these
    occur while services start together. A missing database is permanent: the server is up, and nothing creates it.
    """
    if isinstance(error, TunnelFailed):
        return type(error.__cause__).__name__ not in _FINAL_CAUSES_OF_TUNNELS
    return isinstance(error, ConnectionFailed) and not isinstance(
        error, AuthenticationFailed | DatabaseMissing | TlsFailed
    )
