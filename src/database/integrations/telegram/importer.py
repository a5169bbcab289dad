"""Write Telegram messages as an adapter does: user, active conversation, append, edit; several chats at a time."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final
from uuid import UUID

from src.database.base import clean_text
from src.database.errors import DatabaseError, IdempotencyConflictError, IntegrityError
from src.database.integrations.telegram.files import TelegramMessage
from src.database.models import User, attributes, limits
from src.database.repositories import (
    ConversationRepository,
    MessageHistoryRepository,
    NewMessage,
    UserRepository,
)
from src.database.session import AsyncSession, get_db
from src.database.store import Identity

CHANNEL: Final = "telegram"
CHAT_PROVIDER: Final = "telegram_chat"
"""The provider of the identities of chats that write messages: channels, and groups with anonymous administrators."""
CONCURRENT_CHATS: Final = 8
BATCH: Final = 50
"""The number of messages in one transaction."""
WINDOW: Final = 2_000
"""The number of messages in memory: they are read, sorted, and written chat by chat."""
NAME_LENGTH: Final = 256
USERNAME_LENGTH: Final = 64


@dataclass(slots=True)
class ImportReport:
    """The result of an import: how many messages, users and conversations."""

    added: int = 0
    duplicates: int = 0
    edited: int = 0
    conflicts: int = 0
    users_created: int = 0
    conversations_started: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """How many messages the database refused, by the class of the error."""
    conversations: dict[UUID, int] = field(default_factory=dict)
    """How many messages of the file belong to each conversation."""


def sender_of(author_id: int) -> int | Identity:
    """Return the sender of a message as `store.turn` takes it.

    Args:
        author_id: The id of the message's `sender_chat`, or else of its `from`, or else of its `chat`. With a
            `sender_chat`, `from` is a bot of Telegram: GroupAnonymousBot, Channel_Bot, or Telegram itself for a post
            that a channel forwards to its group.

    Returns:
        The Telegram id of a person or a bot; of a channel or a group, which has a negative id, an identity.

    Example:
        from src.database.integrations.telegram import sender_of

        post = NewMessage(message_id="telegram:my_bot:-1001234567890:1", role="user", content="News")
        turn = await get_store().turn(sender_of(-1001234567890), "telegram", "-1001234567890", [post])
    """
    return Identity(CHAT_PROVIDER, str(author_id), is_person=False) if author_id < 0 else author_id


async def import_messages(
    messages: Iterable[TelegramMessage], *, account: str, on_progress: Callable[[int], None]
) -> ImportReport:
    """Write messages in constant memory, several chats at a time. A refused message is counted and skipped.

    A second import of the same messages adds nothing, since the number of a message is its idempotency key.

    Args:
        messages: In any order, with duplicates; each window of 2,000 is sorted by the numbers of the messages.
        account: The account that numbered the messages; a part of the idempotency keys.
        on_progress: Called after each batch with its number of messages.

    Raises:
        DatabaseError: An error that is not of one message, such as a lost connection.
    """
    report = ImportReport()
    remaining = iter(messages)
    while window := list(islice(remaining, WINDOW)):
        await _write_window(window, account, report, on_progress)
    return report


async def _write_window(
    window: list[TelegramMessage], account: str, report: ImportReport, on_progress: Callable[[int], None]
) -> None:
    chats: dict[tuple[str, int, int], list[TelegramMessage]] = defaultdict(list)
    for message in sorted(window, key=_by_number):
        chats[message.business or "", message.chat_id, message.owner_id].append(message)
    limit = asyncio.Semaphore(CONCURRENT_CHATS)

    async def write_chat(chat: Sequence[TelegramMessage]) -> None:
        async with limit:
            for start in range(0, len(chat), BATCH):
                batch = chat[start : start + BATCH]
                await _write(batch, account, report)
                on_progress(len(batch))

    try:
        async with asyncio.TaskGroup() as tasks:
            for chat in chats.values():
                tasks.create_task(write_chat(chat))
    except ExceptionGroup as group:  # not `except*`, which would wrap the error below in another group
        ours = group.subgroup(DatabaseError)
        if ours is None:
            raise
        raise ours.exceptions[0] from group


def _by_number(message: TelegramMessage) -> tuple[int, int, float]:
    """Return the sort key: a message before its edits, edits in the order of their times."""
    return message.chat_id, message.number, message.edited_at.timestamp() if message.edited_at else 0.0


async def _write(batch: Sequence[TelegramMessage], account: str, report: ImportReport) -> None:
    """Write a batch in one transaction; if a message is refused, write each message in a transaction of its own."""
    try:
        done = await _append(batch, account)
    except (IntegrityError, ValueError) as error:
        # The transaction of the whole batch is rolled back. Each message alone shows which one is refused.
        if len(batch) > 1:
            for message in batch:
                await _write([message], account, report)
            return
        as_stored = await _with_stored_role(batch[0], account) if isinstance(error, IdempotencyConflictError) else None
        if as_stored is not None:
            await _write([as_stored], account, report)
        elif isinstance(error, IdempotencyConflictError):
            report.conflicts += 1
        else:
            report.refused[type(error).__name__] += 1
        return
    report.added += done.added
    report.duplicates += done.duplicates
    report.edited += done.edited
    report.users_created += done.users_created
    report.conversations_started += done.conversations_started
    for conversation_id, count in done.conversations.items():
        report.conversations[conversation_id] = report.conversations.get(conversation_id, 0) + count


async def _with_stored_role(message: TelegramMessage, account: str) -> TelegramMessage | None:
    """Return the message with the stored role, or None if the roles are equal: an export of a group marks no bots."""
    async with get_db() as session:
        stored = await MessageHistoryRepository(session).get_by_message_id(_key(message, account))
    if stored is None or (stored.role == "assistant") == message.is_bot:
        return None
    return replace(message, is_bot=not message.is_bot)


async def _append(batch: Sequence[TelegramMessage], account: str) -> ImportReport:
    done = ImportReport()
    first = batch[0]
    async with get_db() as session:
        messages = MessageHistoryRepository(session)
        user, created = await _user(session, first.owner_id, _profile(batch))
        conversation, started = await ConversationRepository(session).get_or_start(user.id, CHANNEL, _chat(first))
        results = await messages.append_many(conversation.id, [_to_append(message, account) for message in batch])
        for message, result in zip(batch, results, strict=True):
            if result.inserted:
                done.added += 1
            elif await _edit(messages, message, account):
                done.edited += 1
            else:
                done.duplicates += 1
    done.users_created, done.conversations_started = int(created), int(started)
    done.conversations[conversation.id] = len(batch)
    return done


async def _user(session: AsyncSession, owner_id: int, profile: attributes.NewUser) -> tuple[User, bool]:
    users, sender = UserRepository(session), sender_of(owner_id)
    if isinstance(sender, Identity):
        return await users.get_or_create_by_identity(*sender[:2], is_person=sender.is_person, **profile)
    return await users.get_or_create_by_telegram_id(sender, **profile)


async def _edit(messages: MessageHistoryRepository, message: TelegramMessage, account: str) -> bool:
    """Store a later version; return False if there is none, or if the message was deleted."""
    if message.edited_at is None or await messages.get_by_message_id(_key(message, account)) is None:
        return False
    return await messages.edit(_key(message, account), message.text, edited_at=message.edited_at)


def _profile(batch: Sequence[TelegramMessage]) -> attributes.NewUser:
    """Return the profile of the user from a message that the user wrote, if the batch has one."""
    own = next((message for message in batch if message.is_by_owner), None)
    if own is None:
        return {}
    return {
        "display_name": clean_text(own.author_name)[:NAME_LENGTH] if own.author_name else None,
        "username": own.username[:USERNAME_LENGTH] if own.username else None,
        "locale": own.language if own.language and limits.is_locale(own.language) else None,
    }


def _key(message: TelegramMessage, account: str) -> str:
    if message.business is not None:  # that account numbers the message, not the bot's account
        account = f"{account}.{message.business}"
    return f"{CHANNEL}:{account}:{message.chat_id}:{message.number}"


def _chat(message: TelegramMessage) -> str:
    return str(message.chat_id) if message.business is None else f"{message.business}:{message.chat_id}"


def _to_append(message: TelegramMessage, account: str) -> NewMessage:
    return NewMessage(
        message_id=_key(message, account),
        role="assistant" if message.is_bot else "user",
        content=message.text,
        attachments=message.attachments,
        created_at=message.sent_at,
        edited_at=message.edited_at,
    )
