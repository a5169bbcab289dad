"""thea-db wait: waits until the server accepts connections; ends immediately if waiting cannot help."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

import typer

from src.config import Settings
from src.database.cli.output import EXIT_ERROR, EXIT_FAILED, print_error, print_json
from src.database.cli.running import run_coroutine
from src.database.doctor.wait import wait_for_server

_EXIT_CODES: Final = {"up": 0, "down": EXIT_FAILED, "failed": EXIT_ERROR}


def run_wait(settings: Settings, *, timeout: float, interval: float, as_json: bool) -> int:
    """Wait and print the result; each new reason for waiting is printed to standard error.

    Args:
        settings: The settings.
        timeout: The limit for all attempts together, in seconds.
        interval: The pause between two attempts, in seconds.
        as_json: Print one JSON document.

    Returns:
        The exit code: 0 up, 1 still down, 2 waiting cannot help.
    """

    def print_reason(reason: str) -> None:
        typer.echo(f"waiting: {reason}", err=True)

    waited = run_coroutine(
        wait_for_server(settings, timeout_seconds=timeout, interval_seconds=interval, on_reason=print_reason)
    )
    if as_json:
        print_json(asdict(waited))
    elif waited.status == "up":
        typer.echo(f"up after {waited.seconds} s: {waited.target}")
    if waited.status != "up":
        outcome = f"still down after {waited.seconds} s" if waited.status == "down" else "waiting cannot help"
        hint = f"\nhint: {waited.hint}" if waited.hint else ""
        print_error(f"{outcome}: {waited.reason}{hint}")
    return _EXIT_CODES[waited.status]
