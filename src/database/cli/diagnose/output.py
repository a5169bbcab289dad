"""How the commands print: one JSON document for scripts, lines for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import typer
from rich.console import Console
from rich.text import Text

from src.database.cli.diagnose.finding import Finding, Status

__all__ = ["print_error", "print_findings", "print_json", "print_lines", "print_rows", "print_warning"]

_COLOURS: Final[Mapping[Status, str]] = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}
_STATUS_WIDTH: Final = max(map(len, _COLOURS))


def print_json(document: Mapping[str, Any]) -> None:
    """Print a document, and nothing beside it."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_lines(title: str, lines: Iterable[tuple[str, object]]) -> None:
    """Print a title, and under it names and values; a value of None is left out."""
    shown = [(name, str(value)) for name, value in lines if value is not None]
    width = max((len(name) for name, _ in shown), default=0)
    _print(Text(title, style="bold"))
    for name, value in shown:
        _print(Text(f"  {name:<{width}}  {value}"))


def print_rows(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, under: Sequence[str] | None = None
) -> None:
    """Print a title, and under it a table; under each row what else there is to say of it.

    Others' text is in it: what is not printable, and could command the terminal, is left out.
    """
    table = [[_printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    _print(Text(title, style="bold"))
    for number, row in enumerate(table):
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        if line:
            _print(Text(f"  {line}", style="" if number else "dim"))
        if number and under is not None and under[number - 1]:
            _print(Text(f"    {_printable(under[number - 1])}"))


def print_findings(findings: Mapping[str, Finding]) -> None:
    """Print a line for each check, and its remedy under it."""
    width = max(map(len, findings), default=0)
    for name, finding in findings.items():
        status = Text(f"{finding.status:<{_STATUS_WIDTH}}", style=_COLOURS[finding.status])
        indent = " " * (_STATUS_WIDTH + width + 4)
        found = finding.found.replace("\n", f"\n{indent}")
        _print(Text.assemble(status, f"  {name:<{width}}  {found}"))
        if finding.remedy is not None:
            remedy = finding.remedy.replace("\n", f"\n{indent}{' ' * len('remedy: ')}")
            _print(Text(f"{indent}remedy: {remedy}"))


def print_error(text: str) -> None:
    """Print why it does not work, beside the output proper."""
    Console(stderr=True, highlight=False).print(Text(f"error: {text}", style="red"), soft_wrap=True)


def print_warning(text: str) -> None:
    """Print what the reader should do something about."""
    _print(Text.assemble(("warning: ", _COLOURS["warning"]), text))


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _print(text: Text) -> None:
    # A line stays one line, however narrow the terminal: it is searched and cut.
    Console(highlight=False).print(text, soft_wrap=True)
