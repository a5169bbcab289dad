"""Upgrade the schema, import a Telegram file, then print each query: through a repository, and as another tenant."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final
from uuid import uuid5

import typer
from sqlalchemy import text

from src.config import Settings
from src.database.base import utc_now, uuid7
from src.database.cli.output import print_rows, print_warning, progress
from src.database.integrations.telegram import ImportReport, import_messages, read_telegram
from src.database.migrate import upgrade
from src.database.models import Conversation, MessageHistory, User
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    NoteRepository,
    UserRepository,
)
from src.database.session import AsyncSession, get_db, tenant_context

LAST_MESSAGES: Final = 10
MAX_CELL: Final = 90
NOTE_LENGTH: Final = 2000
UPCOMING: Final = (("Call the bank", 3), ("Dentist / Dentista", 26), ("Flight to Oaxaca", 24 * 9))
"""The titles of generated events, and the hours until they begin."""
_SAMPLE: Final = "the sample (dialogues of chatterbot-corpus, BSD licence)"


async def run_demo(settings: Settings, file: Path | None, *, account: str) -> None:
    """Import a Telegram file into the database of the settings, and print queries.

    Args:
        settings: The settings.
        file: Bot API updates or a Telegram Desktop export; None: the sample.
        account: The name of the account that exported the file, a part of each message's key.

    Raises:
        ConfigurationError: The file has neither format.
        DatabaseError: The import failed.
    """
    if file is None:
        with as_file(files(__package__) / "sample.jsonl") as sample:
            report = await _import(settings, sample, _SAMPLE, account)
    else:
        report = await _import(settings, file, str(file), account)
    if report.conversations:
        await _show_queries(report)


async def _import(settings: Settings, file: Path, source: str, account: str) -> ImportReport:
    content = read_telegram(file)
    await upgrade(settings)
    typer.echo(f"Reading {source}: {content.kind}, {content.count:,} messages")
    started = time.perf_counter()
    with progress("messages", total=content.count) as advance:
        report = await import_messages(content.messages(), account=account, on_progress=advance)
    seconds = time.perf_counter() - started
    typer.echo(
        f"{report.added:,} added, {report.duplicates:,} duplicates, {report.edited:,} edits applied,"
        f" {report.users_created:,} users created; {seconds:.1f} s, {content.count / seconds:,.0f} messages/s"
    )
    if content.skipped:
        typer.echo(f"{content.skipped.total():,} entries have no message and were skipped: {_counts(content.skipped)}")
    if content.first_fault:
        print_warning(f"the first entry that cannot be read: {content.first_fault}")
    if report.refused:
        print_warning(f"the database refused {report.refused.total():,} messages: {_counts(report.refused)}")
    if report.conflicts:
        print_warning(
            f"{report.conflicts:,} messages were refused: another message with the same key has other content. Telegram"
            " numbers the messages of private chats and small groups for each account: name the file's account with"
            " --account"
        )
    return report


def _counts(kinds: Counter[str]) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common())


async def _show_queries(report: ImportReport) -> None:
    """Print the queries of an assistant for the conversation with the most imported messages."""
    busiest = max(report.conversations, key=lambda conversation_id: report.conversations[conversation_id])
    async with get_db() as session:
        conversation = await ConversationRepository(session).get(busiest)
        user = await UserRepository(session).get(conversation.user_id)
        await _store_events(session, user)
        word = await _store_note(session, user, conversation)
    async with get_db() as session:
        await _show_counts(session)
        _show_messages(user, await MessageHistoryRepository(session).recent(conversation.id, limit=LAST_MESSAGES))
        upcoming = await EventRepository(session).upcoming(user.id)
    rows = [(f"{event.start_datetime:%Y-%m-%d %H:%M}", event.title) for event in upcoming]
    print_rows("Upcoming events", ("starts (UTC)", "title"), rows)
    await _send_due_reminders(user)
    async with get_db() as session:
        hits = await NoteRepository(session).search(user.id, word)
    print_rows(
        f"Notes that a search for {word!r} finds",
        ("rank", "snippet"),
        [(f"{hit.rank:.2f}", _cell(hit.snippet)) for hit in hits],
    )
    await _query_as_another_tenant(user, conversation, word)


async def _store_events(session: AsyncSession, user: User) -> None:
    """Create the events, the first with a due reminder; another run replaces them."""
    now = utc_now()
    for number, (title, hours) in enumerate(UPCOMING):
        start = now + timedelta(hours=hours)
        await EventRepository(session).upsert(
            {
                "id": uuid5(user.id, f"demo-event-{number}"),
                "user_id": user.id,
                "title": title,
                "start_datetime": start,
                "reminder_datetime": now - timedelta(minutes=1) if number == 0 else start - timedelta(hours=1),
                "reminder_sent_at": None,
            },
            key=["id"],
        )


async def _store_note(session: AsyncSession, user: User, conversation: Conversation) -> str:
    """Store the recent message with the most different words as a note; return its longest word."""
    recent = await MessageHistoryRepository(session).recent(conversation.id, limit=500)
    wordiest = max(recent, key=lambda message: len(set(_words(message.content or ""))))
    content = (wordiest.content or "Nothing but pictures")[:NOTE_LENGTH]
    await NoteRepository(session).upsert(
        {
            "id": uuid5(user.id, "demo-note"),
            "user_id": user.id,
            "title": "From the chat",
            "content": content,
            "source_message_id": wordiest.id,
        },
        key=["id"],
    )
    return max(_words(content) or ["pictures"], key=len)


async def _show_counts(session: AsyncSession) -> None:
    counts = {
        "users": await UserRepository(session).count(),
        "conversations": await ConversationRepository(session).count(),
        "messages": await MessageHistoryRepository(session).count(),
        "events": await EventRepository(session).count(),
        "notes": await NoteRepository(session).count(),
    }
    rows = [(name, f"{count:,}") for name, count in counts.items()]
    print_rows("The rows of this tenant", ("table", "rows"), rows)


def _show_messages(user: User, messages: Sequence[MessageHistory]) -> None:
    name = user.display_name or user.username or f"user {user.telegram_id}"
    rows = []
    for message in messages:
        content = message.content or f"[{', '.join(str(file.get('kind')) for file in message.attachments)}]"
        rows.append((str(message.seq), f"{message.created_at:%Y-%m-%d %H:%M}", message.role, _cell(content)))
    print_rows(f"The last {len(rows)} messages with {name}", ("seq", "time (UTC)", "role", "content"), rows)


async def _send_due_reminders(user: User) -> None:
    """Claim the due reminders of this user and acknowledge each in a transaction of its own, as a worker does."""
    rows = []
    async with get_db() as session:
        claimed = await EventRepository(session).claim_due_reminders("demo", user_id=user.id)
    for event in claimed:
        assert event.reminder_token is not None  # noqa: S101 - claim_due_reminders sets it
        async with get_db() as session:
            sent = await EventRepository(session).ack_reminder(event.id, event.reminder_token)
        due = f"{event.reminder_datetime:%Y-%m-%d %H:%M:%S}"
        rows.append((event.title, due, str(event.reminder_attempts), f"{sent.reminder_sent_at:%H:%M:%S}"))
    print_rows("A due reminder, claimed and acknowledged", ("event", "due (UTC)", "attempt", "sent"), rows)


async def _query_as_another_tenant(user: User, conversation: Conversation, word: str) -> None:
    """Run the queries as a tenant without rows: none of them finds a row."""
    with tenant_context(uuid7()):
        async with get_db() as session:
            found = {
                "users": await UserRepository(session).count(),
                "messages": len(await MessageHistoryRepository(session).recent(conversation.id)),
                "upcoming events": len(await EventRepository(session).upcoming(user.id)),
                "notes found": len(await NoteRepository(session).search(user.id, word)),
                "SELECT count(*) FROM message_history": await session.scalar(
                    text("SELECT count(*) FROM message_history")
                ),
            }
    rows = [(query, str(count)) for query, count in found.items()]
    print_rows("The same queries as another tenant", ("query", "rows"), rows)


def _words(content: str) -> list[str]:
    return re.findall(r"[^\W\d_]{4,20}", content)


def _cell(content: str) -> str:
    """Return a text on one line, shortened to the width of a cell."""
    line = " ".join(content.split())
    return line if len(line) <= MAX_CELL else f"{line[: MAX_CELL - 1]}…"
