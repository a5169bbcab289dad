"""Wait until the server accepts connections; stop immediately if waiting cannot help."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import NullPool

from src.config import Settings
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

# By name, because asyncssh is an extra: the gateway rejects this client, or the gateway's key is not known here.
_FINAL_CAUSES_OF_TUNNELS: Final = {"HostKeyNotVerifiable", "KeyImportError", "PermissionDenied"}


class AbandonedThreads(ThreadPoolExecutor):
    """An executor whose threads are not joined at shutdown.

    asyncio resolves host names in threads, and getaddrinfo cannot be cancelled: with a silent name server, asyncio.run
    would wait for the thread for longer than the command may run.
    """

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Return immediately; running threads continue."""
        super().shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waited:
    """The result of waiting.

    Args:
        status: `up`; `down` until the time limit; `failed` for a reason that waiting does not remove.
        target: The target, without a password.
        seconds: How long the attempts took.
        attempts: The number of attempts.
        reason: Why the last attempt failed; None if the server is up.
        hint: The remedy for the reason, if there is one.
    """

    status: Status
    target: str
    seconds: float
    attempts: int
    reason: str | None = None
    hint: str | None = None


async def wait_for_server(
    settings: Settings, *, timeout_seconds: float, interval_seconds: float, on_reason: Callable[[str], None]
) -> Waited:
    """Try to connect until an attempt succeeds, an attempt fails permanently, or the time is over.

    The time limit also ends an attempt that is under way.

    Args:
        settings: The settings.
        timeout_seconds: The limit for all attempts together.
        interval_seconds: The pause between two attempts.
        on_reason: Called with the reason when an attempt fails for another reason than the last one.

    Raises:
        ConfigurationError: The settings name no usable target.
    """
    asyncio.get_running_loop().set_default_executor(AbandonedThreads())  # it resolves the host names
    target = str(resolve_target(settings))
    engine = create_engine(settings, poolclass=NullPool)
    attempts = _Attempts(on_reason)
    started = time.monotonic()
    status: Status = "down"
    try:
        async with asyncio.timeout(timeout_seconds):
            status = "up" if await attempts.succeed(engine, interval_seconds) else "failed"
    except TimeoutError:
        attempts.reason = attempts.reason or ConnectionFailed(
            f"no connection to {target}: the server did not answer in time"
        )
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
    """The number of attempts, and the error of the last one."""

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
                if not is_temporary(error):
                    return False
                if is_new:
                    self.on_reason(str(error.args[0]))
            await asyncio.sleep(interval_seconds)


def is_temporary(error: DatabaseError) -> bool:
    """Return True if the next attempt may succeed without a changed setting.

    Temporary while services start together: a host name that is not known yet; a server that starts, shuts down or has
    no connection free; no primary among the hosts. A missing database is permanent: no service creates it.
    """
    if isinstance(error, TunnelFailed):
        return type(error.__cause__).__name__ not in _FINAL_CAUSES_OF_TUNNELS
    return isinstance(error, ConnectionFailed) and not isinstance(
        error, AuthenticationFailed | DatabaseMissing | TlsFailed
    )
