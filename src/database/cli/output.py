"""Output of the commands: one JSON document for scripts, lines and tables for people, and a progress bar."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.text import Text

from src.database.check_result import FAILURES, CheckResult, CheckStatus

EXIT_FAILED: Final = 1
"""The exit code of a command that ran, and found a fault."""
EXIT_ERROR: Final = 2
"""The exit code of a command that could not do its work."""
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

_WORDS: Final[Mapping[CheckStatus, str]] = {"healthy": "ok", "degraded": "warning", "unhealthy": "failed"}
_COLORS: Final[Mapping[str, str]] = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}
_STATUS_WIDTH: Final = max(map(len, _COLORS))


def print_json(document: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Print a JSON document. Characters that are not printable are escaped: they could control the terminal.

    Args:
        document: The document.
        indent: The indentation; None: one line, for the logs of a deployment.
    """
    lines = json.dumps(document, indent=indent, ensure_ascii=False).split("\n")
    typer.echo("\n".join(map(escape_unprintable, lines)))


def print_lines(title: str, lines: Iterable[tuple[str, object]]) -> None:
    """Print a title, and under it the names and values; a value of None is left out."""
    shown = [(name, str(value)) for name, value in lines if value is not None]
    width = max((len(name) for name, _ in shown), default=0)
    _print(Text(title, style="bold"))
    for name, value in shown:
        _print(Text(f"  {name:<{width}}  {value}"))


def print_rows(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, under: Sequence[str] | None = None
) -> None:
    """Print a title, and under it a table; in the cells, characters that are not printable are replaced by spaces.

    Args:
        title: The title.
        header: The names of the columns.
        rows: The cells of each row.
        under: For each row, a text to print under it, or an empty one.
    """
    table = [[_without_unprintable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    _print(Text(title, style="bold"))
    for number, row in enumerate(table):
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        if line:
            _print(Text(f"  {line}", style="" if number else "dim"))
        if number and under is not None and under[number - 1]:
            _print(Text(f"    {_without_unprintable(under[number - 1])}"))


def format_counts(counts: Mapping[str, int]) -> str:
    """Return the counts that are not 0, such as `2 notes, 1,000 users`; `nothing` if all are 0."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "nothing"


def report_checks(checks: Mapping[str, CheckResult], *, as_json: bool) -> int:
    """Print the results of checks, by name.

    Returns:
        The exit code: 1 if a check failed, else 0.
    """
    if as_json:
        documents = [
            {"name": name, "status": check.status, "found": check.found, "remedy": check.remedy}
            for name, check in checks.items()
        ]
        print_json({"checks": documents})
    else:
        print_checks(checks)
    return EXIT_FAILED if any(check.status in FAILURES for check in checks.values()) else 0


def print_checks(checks: Mapping[str, CheckResult]) -> None:
    """Print each check on a line, and its remedy under it."""
    width = max(map(len, checks), default=0)
    indent = " " * (_STATUS_WIDTH + width + 4)
    for name, check in checks.items():
        word = _WORDS.get(check.status, check.status)
        found = check.found.replace("\n", f"\n{indent}")
        _print(Text.assemble((f"{word:<{_STATUS_WIDTH}}", _COLORS[word]), f"  {name:<{width}}  {found}"))
        if check.remedy is not None:
            remedy = check.remedy.replace("\n", f"\n{indent}{' ' * len('remedy: ')}")
            _print(Text(f"{indent}remedy: {remedy}"))


@contextmanager
def progress(noun: str, *, total: int | None = None, is_shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error while the block runs; none if standard error is not a terminal.

    Args:
        noun: The name of the counted items, in the plural.
        total: The number to reach; None if it is not known.
        is_shown: False: show no progress bar.

    Yields:
        The function to call with the number of items that have been done since its last call.
    """
    from rich.progress import (  # noqa: PLC0415 - 30 ms that only the commands with a progress bar need
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (is_shown and console.is_terminal)) as shown:
        task = shown.add_task(noun, total=total)
        yield lambda count: shown.advance(task, count)


def print_error(text: str) -> None:
    """Print an error to standard error."""
    Console(stderr=True, highlight=False).print(Text(f"error: {text}", style="red"), soft_wrap=True)


def print_warning(text: str) -> None:
    """Print a warning."""
    _print(Text.assemble(("warning: ", _COLORS["warning"]), text))


def escape_unprintable(text: str) -> str:
    """Escape the characters that move the cursor, color the terminal, or reverse the direction of the text."""
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def _without_unprintable(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)


def _print(text: Text) -> None:
    # Without soft_wrap rich breaks lines at the width of the terminal, and `grep` finds half a line.
    Console(highlight=False).print(text, soft_wrap=True)
