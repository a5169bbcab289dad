"""Runs the demonstration: schema, import with a progress bar, then the tables."""

from __future__ import annotations

import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from src.config import Settings
from src.database.cli.demo.show import show_what_it_is_for
from src.database.integrations.telegram import ImportReport, TelegramFile, import_messages, read_telegram
from src.database.migrate import upgrade

_SAMPLE: Final = "the sample (dialogues of chatterbot-corpus, BSD licence)"


class _Rate(ProgressColumn):
    """The number of messages per second."""

    def render(self, task: Task) -> Text:
        """Return the rate up to now."""
        return Text(f"{task.finished_speed or task.speed or 0:,.0f} messages/s")


async def run_demo(settings: Settings, file: Path | None, *, account: str) -> None:
    """Import a Telegram file, or the sample, into the database of the settings, and print queries of it.

    Raises:
        ConfigurationError: The file is of neither format.
        DatabaseError: The import failed.
    """
    console = Console()
    if file is None:
        with as_file(files(__package__) / "sample.jsonl") as sample:
            report = await _read_and_import(settings, sample, _SAMPLE, account, console)
    else:
        report = await _read_and_import(settings, file, str(file), account, console)
    if report.conversations:
        await show_what_it_is_for(report, console)


async def _read_and_import(settings: Settings, file: Path, source: str, account: str, console: Console) -> ImportReport:
    content = read_telegram(file)
    await upgrade(settings)
    console.print(f"Reading {source}: {content.kind}, {content.count:,} messages", highlight=False)
    started = time.perf_counter()
    report = await _import(content, account, console)
    _print_report(report, content, time.perf_counter() - started, console)
    return report


async def _import(content: TelegramFile, account: str, console: Console) -> ImportReport:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("Writing", total=content.count)
        return await import_messages(
            content.messages(), account=account, on_progress=lambda count: progress.advance(bar, count)
        )


def _print_report(report: ImportReport, content: TelegramFile, seconds: float, console: Console) -> None:
    rate = content.count / seconds
    console.print(
        f"{report.added:,} added, {report.duplicates:,} duplicates, {report.edited:,} edits applied,"
        f" {report.users_created:,} users created; {seconds:.1f} s, {rate:,.0f} messages/s",
        highlight=False,
    )
    if content.skipped:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in content.skipped.most_common())
        console.print(
            f"{content.skipped.total():,} entries bring no message and were not imported: {kinds}",
            highlight=False,
            markup=False,
        )
    if content.first_fault:
        console.print(
            f"The first one that cannot be read: {content.first_fault}", style="yellow", highlight=False, markup=False
        )
    if report.refused:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in report.refused.most_common())
        console.print(
            f"The database refused {report.refused.total():,} messages: {kinds}", style="yellow", highlight=False
        )
    if report.conflicts:
        console.print(
            f"{report.conflicts:,} messages were refused: their key is taken by a message with other content."
            " Private chats and small groups are numbered by each account for itself: name the file's with --account.",
            style="yellow",
            highlight=False,
        )
