"""Writes Telegram messages as an adapter would: user, active conversation, append, edit; many chats at once."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from src.database.base import clean_text
from src.database.cli.demo.telegram import TelegramMessage
from src.database.errors import DatabaseError, IdempotencyConflictError
from src.database.regional import is_locale
from src.database.repositories import (
    ConversationRepository,
    MessageHistoryRepository,
    NewMessage,
    UserRepository,
)
from src.database.session import get_db

__all__ = ["ImportReport", "import_messages"]

CHANNEL: Final = "telegram"
CHATS_AT_ONCE: Final = 8
BATCH: Final = 50
NAME_LENGTH: Final = 256
USERNAME_LENGTH: Final = 64


@dataclass(slots=True)
class ImportReport:
    """What an import did."""

    added: int = 0
    duplicates: int = 0
    edited: int = 0
    conflicts: int = 0
    users_created: int = 0
    conversations_started: int = 0
    conversations: dict[UUID, int] = field(default_factory=dict)
    """How many entries of the file belong to each conversation."""


async def import_messages(
    messages: Sequence[TelegramMessage], *, account: str, on_progress: Callable[[int], None]
) -> ImportReport:
    """Write messages, each once, in the order of their numbers; several chats at a time.

    Args:
        messages: In any order, some of them twice.
        account: Whose numbering the messages have.
        on_progress: Called with the number of messages that a batch brought.
    """
    chats: dict[tuple[int, int], list[TelegramMessage]] = defaultdict(list)
    for message in sorted(messages, key=_by_number):
        chats[message.chat_id, message.owner_id].append(message)
    report = ImportReport()
    slots = asyncio.Semaphore(CHATS_AT_ONCE)

    async def one_chat(chat: Sequence[TelegramMessage]) -> None:
        async with slots:
            for start in range(0, len(chat), BATCH):
                batch = chat[start : start + BATCH]
                await _write(batch, account, report)
                on_progress(len(batch))

    try:
        async with asyncio.TaskGroup() as tasks:
            for chat in chats.values():
                tasks.create_task(one_chat(chat))
    except ExceptionGroup as group:  # not `except*`: what is raised in there may come out in a group again
        ours = group.subgroup(DatabaseError)
        if ours is None:
            raise
        raise ours.exceptions[0] from group
    return report


def _by_number(message: TelegramMessage) -> tuple[int, int, float]:
    """Put a message before its edits, and those in the order in which they were made."""
    return message.chat_id, message.number, message.edited_at.timestamp() if message.edited_at else 0.0


async def _write(batch: Sequence[TelegramMessage], account: str, report: ImportReport) -> None:
    """Write a batch in one transaction; where a key in it is taken by another message, each one in its own."""
    try:
        done = await _append(batch, account)
    except IdempotencyConflictError:
        if len(batch) == 1:
            report.conflicts += 1
            return
        for message in batch:
            await _write([message], account, report)
        return
    report.added += done.added
    report.duplicates += done.duplicates
    report.edited += done.edited
    report.users_created += done.users_created
    report.conversations_started += done.conversations_started
    for conversation_id, count in done.conversations.items():
        report.conversations[conversation_id] = report.conversations.get(conversation_id, 0) + count


async def _append(batch: Sequence[TelegramMessage], account: str) -> ImportReport:
    done = ImportReport()
    first = batch[0]
    async with get_db() as session:
        messages = MessageHistoryRepository(session)
        user, created = await UserRepository(session).get_or_create_by_telegram_id(first.owner_id, **_profile(batch))
        conversation, started = await ConversationRepository(session).get_or_start(user.id, CHANNEL, str(first.chat_id))
        results = await messages.append_many(conversation.id, [_to_append(message, account) for message in batch])
        for message, result in zip(batch, results, strict=True):
            if result.inserted:
                done.added += 1
            elif message.edited_at is None:
                done.duplicates += 1
            elif await _edit(messages, message, account):
                done.edited += 1
            else:
                done.duplicates += 1
    done.users_created, done.conversations_started = int(created), int(started)
    done.conversations[conversation.id] = len(batch)
    return done


async def _edit(messages: MessageHistoryRepository, message: TelegramMessage, account: str) -> bool:
    """Apply a later version, unless the message was deleted meanwhile."""
    if message.edited_at is None or await messages.get_by_message_id(_key(message, account)) is None:
        return False
    return await messages.edit(_key(message, account), message.text, edited_at=message.edited_at)


def _profile(batch: Sequence[TelegramMessage]) -> dict[str, Any]:
    """Describe the user by a message of their own, if the batch has one."""
    own = next((message for message in batch if message.author_id == message.owner_id), None)
    if own is None:
        return {}
    return {
        "display_name": clean_text(own.author_name)[:NAME_LENGTH] if own.author_name else None,
        "username": own.username[:USERNAME_LENGTH] if own.username else None,
        "locale": own.language if own.language and is_locale(own.language) else None,
    }


def _key(message: TelegramMessage, account: str) -> str:
    return f"{CHANNEL}:{account}:{message.chat_id}:{message.number}"


def _to_append(message: TelegramMessage, account: str) -> NewMessage:
    return NewMessage(
        message_id=_key(message, account),
        role="assistant" if message.is_bot else "user",
        content=message.text,
        attachments=message.attachments,
        created_at=message.sent_at,
        edited_at=message.edited_at,
    )
