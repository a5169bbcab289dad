"""Prints tables of what an assistant reads: each query through a repository, then again as another tenant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID, uuid5

from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import text

from src.database.base import utc_now, uuid7
from src.database.integrations.telegram import ImportReport
from src.database.models import Conversation, Event, MessageHistory, User
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    NoteHit,
    NoteRepository,
    UserRepository,
)
from src.database.session import AsyncSession, get_db, tenant_context

LAST: Final = 10
SHOWN_LENGTH: Final = 90
NOTE_LENGTH: Final = 2000
UPCOMING: Final = (("Call the bank", 3), ("Dentist / Dentista", 26), ("Flight to Oaxaca", 24 * 9))
"""Made-up events and the hours until they begin."""


async def show_what_it_is_for(report: ImportReport, console: Console) -> None:
    """Print the queries of an assistant for the conversation with the most messages."""
    busiest = max(report.conversations, key=lambda conversation_id: report.conversations[conversation_id])
    async with get_db() as session:
        conversation = await ConversationRepository(session).get(busiest)
        user = await UserRepository(session).get(conversation.user_id)
        await _keep_events(session, user)
        word = await _keep_note(session, user, conversation)
    async with get_db() as session:
        console.print(await _counts(session))
        console.print(_messages(user, await MessageHistoryRepository(session).recent(conversation.id, limit=LAST)))
        console.print(_upcoming(await EventRepository(session).upcoming(user.id)))
    console.print(await _send_due_reminders(user))
    async with get_db() as session:
        console.print(_hits(word, await NoteRepository(session).search(user.id, word)))
    console.print(await _ask_as_another_tenant(user, conversation, word))


async def _keep_events(session: AsyncSession, user: User) -> None:
    """Create three future events and one due reminder, the same ones at each run."""
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


async def _keep_note(session: AsyncSession, user: User, conversation: Conversation) -> str:
    """Store the recent message with the most words as a note; return its longest word."""
    recent = await MessageHistoryRepository(session).recent(conversation.id, limit=500)
    wordiest = max(recent, key=lambda message: len(set(_words(message.content or ""))))
    content = wordiest.content or "Nothing but pictures"
    await NoteRepository(session).upsert(
        {
            "id": uuid5(user.id, "demo-note"),
            "user_id": user.id,
            "title": "From the chat",
            "content": content[:NOTE_LENGTH],
            "source_message_id": wordiest.id,
        },
        key=["id"],
    )
    return max(_words(content[:NOTE_LENGTH]) or ["pictures"], key=len)


async def _counts(session: AsyncSession) -> Table:
    table = Table("table", "rows", title="What this tenant has")
    table.add_row("users", f"{await UserRepository(session).count():,}")
    table.add_row("conversations", f"{await ConversationRepository(session).count():,}")
    table.add_row("messages", f"{await MessageHistoryRepository(session).count():,}")
    table.add_row("events", f"{await EventRepository(session).count():,}")
    table.add_row("notes", f"{await NoteRepository(session).count():,}")
    return table


def _messages(user: User, messages: Sequence[MessageHistory]) -> Table:
    table = Table("seq", "when (UTC)", "role", "content", title=f"The last {len(messages)} messages with {_name(user)}")
    for message in messages:
        content = message.content or f"[{', '.join(str(file.get('kind')) for file in message.attachments)}]"
        table.add_row(str(message.seq), f"{message.created_at:%Y-%m-%d %H:%M}", message.role, Text(_shorten(content)))
    return table


def _upcoming(events: Sequence[Event]) -> Table:
    table = Table("starts (UTC)", "title", title="Upcoming events")
    for event in events:
        table.add_row(f"{event.start_datetime:%Y-%m-%d %H:%M}", Text(event.title))
    return table


async def _send_due_reminders(user: User) -> Table:
    """Claim, commit and acknowledge the due reminders of this user, as a worker does."""
    table = Table("event", "was due (UTC)", "attempt", "sent", title="A due reminder, claimed and acknowledged")
    async with get_db() as session:
        claimed = await EventRepository(session).claim_due_reminders("demo", user_id=user.id)
    for event in claimed:
        async with get_db() as session:
            sent = await EventRepository(session).ack_reminder(event.id, _token(event.reminder_token))
        table.add_row(
            Text(event.title),
            f"{event.reminder_datetime:%Y-%m-%d %H:%M:%S}",
            str(event.reminder_attempts),
            f"{sent.reminder_sent_at:%H:%M:%S}",
        )
    return table


def _hits(word: str, hits: Sequence[NoteHit]) -> Table:
    table = Table("rank", "snippet", title=f"Notes that a search for {word!r} finds")
    for hit in hits:
        table.add_row(f"{hit.rank:.2f}", Text(" ".join(hit.snippet.split())))
    return table


async def _ask_as_another_tenant(user: User, conversation: Conversation, word: str) -> Table:
    table = Table("query", "rows", title="The same queries as another tenant")
    with tenant_context(uuid7()):
        async with get_db() as session:
            table.add_row("users", str(await UserRepository(session).count()))
            table.add_row("messages", str(len(await MessageHistoryRepository(session).recent(conversation.id))))
            table.add_row("upcoming events", str(len(await EventRepository(session).upcoming(user.id))))
            table.add_row("notes found", str(len(await NoteRepository(session).search(user.id, word))))
            raw = await session.scalar(text("SELECT count(*) FROM message_history"))
            table.add_row("SELECT count(*) FROM message_history", str(raw))
    return table


def _words(content: str) -> list[str]:
    return re.findall(r"[^\W\d_]{4,20}", content)


def _shorten(content: str) -> str:
    line = " ".join(content.split())
    return line if len(line) <= SHOWN_LENGTH else f"{line[: SHOWN_LENGTH - 1]}…"


def _name(user: User) -> str:
    return user.display_name or user.username or f"user {user.telegram_id}"


def _token(token: UUID | None) -> UUID:
    assert token is not None, "a claimed reminder has its token"  # noqa: S101 - what claim_due_reminders promises
    return token
