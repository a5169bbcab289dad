"""The turn, as it is called: one statement as a rule, the repositories for what is rare."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from operator import itemgetter
from typing import Any, Final

from src.database.base import clean_text, uuid7
from src.database.errors import DuplicateKeyError
from src.database.models import Conversation, User
from src.database.pagination import check_limit
from src.database.repositories import ConversationRepository, MessageHistoryRepository, NewMessage, UserRepository
from src.database.repositories.conversations import check_silence
from src.database.repositories.message_appending import KEY as MESSAGE_KEY
from src.database.repositories.message_appending import check_batch, first_of_each_key
from src.database.repositories.tool_pairs import whole_pairs
from src.database.repositories.users import check_telegram_id
from src.database.session import get_db
from src.database.store.appending import ROUNDS, appended_row, packed
from src.database.store.reading import StoreReading
from src.database.store.rows import NOBODY, AppendedRow, ConversationRow, MessageRow, Profile, TurnRows, UserRow
from src.database.store.turn_statement import (
    ABOUT,
    ABOUT_CONVERSATION,
    ABOUT_USER,
    KIND,
    NEW,
    RECENT,
    TURN,
    TURN_GOES_ON,
)
from src.database.store.users import KEY as USER_KEY

__all__ = ["StoreTurns"]

DEFAULT_RECENT: Final = 20
TAKEN: Final = (USER_KEY, "uq_conversations_active", MESSAGE_KEY)
"""What another call may have been faster with."""
APPENDED: Final = AppendedRow._fields[:5]
_seq: Final = itemgetter("seq")


class StoreTurns(StoreReading):
    """What a turn begins with."""

    async def turn(
        self,
        telegram_id: int,
        channel: str,
        external_chat_id: str | None,
        messages: Sequence[NewMessage],
        *,
        recent: int = DEFAULT_RECENT,
        idle_timeout: timedelta | None = None,
        profile: Profile = NOBODY,
    ) -> TurnRows:
        """Append what was said to the active conversation of a user's chat; each of them is made where there is none.

        It is `get_or_create_by_telegram_id`, `get_or_start`, `append_many` and, for what was said before,
        `recent(before_seq=...)`, and promises what they promise.

        Args:
            telegram_id: Whose turn.
            channel: Where, e.g. `telegram`.
            external_chat_id: The chat's id there; None is one chat too.
            messages: What is new, 1 to 1000.
            recent: How many of the messages before them to return, 1 to 1000.
            idle_timeout: After so long without a message the conversation is closed and another one started.
            profile: What a new user is made of.

        Raises:
            CheckViolation: A name, a key or the channel is too long.
            CommitOutcomeUnknown: The connection was lost before the server answered: call again with the same messages.
            IdempotencyConflictError: A key is taken by a message with other content, or by another chat's.
            ValueError: A value is none of what its name says.
        """
        check_telegram_id(telegram_id)
        check_limit(recent)
        check_batch(messages)
        if not messages:
            raise ValueError("messages must be at least one, got none; to look without one, use `recent`")
        check_silence("idle_timeout", idle_timeout or timedelta(0))
        first = list(first_of_each_key(messages).values())
        who = telegram_id, uuid7(), *profile.checked()
        where = clean_text(channel), None if external_chat_id is None else clean_text(external_chat_id)
        shape, sent = packed(first)
        goes_on, begins = TURN_GOES_ON[shape], TURN[shape]
        for statement in (goes_on, *[begins] * ROUNDS) if len(first) == len(messages) else ():
            try:
                ids = uuid7(), str(uuid7())
                rows = await self._write(statement, *who, *where, *ids, idle_timeout, recent, *sent)
            except DuplicateKeyError as error:
                if error.constraint not in TAKEN:
                    raise
                continue
            if rows:
                return await self._unpacked(rows, recent)
            if statement is begins:
                break  # something of it was sent before
        options: dict[str, Any] = {"recent": recent, "idle_timeout": idle_timeout, "profile": profile}
        return await self._by_repositories(telegram_id, where, messages, **options)

    async def _unpacked(self, rows: list[Any], limit: int) -> TurnRows:
        """Make of the statement's rows what a turn begins with."""
        kinds: tuple[list[Any], ...] = ([], [], [])
        for row in rows:
            kinds[row[KIND]].append(row)
        [about] = kinds[ABOUT]
        *user, created = about[ABOUT_USER]
        *conversation, started, began_with = about[ABOUT_CONVERSATION]
        there = ConversationRow._make(conversation)
        before: list[MessageRow] = sorted(kinds[RECENT], key=_seq)
        new = [AppendedRow._make((*map(row.get, APPENDED), True, True)) for row in sorted(kinds[NEW], key=_seq)]
        if not started and began_with != there.last_seq - len(new):  # an append came in between: look again
            before = await self._before(there.id, new[0].seq, limit)
        said = whole_pairs(before, is_followed=True)
        return TurnRows(UserRow._make(user), created, there, started, said, new)

    async def _by_repositories(
        self,
        telegram_id: int,
        chat: tuple[str, str | None],
        messages: Sequence[NewMessage],
        *,
        recent: int,
        idle_timeout: timedelta | None,
        profile: Profile,
    ) -> TurnRows:
        async with get_db() as session:
            user, created = await UserRepository(session).get_or_create_by_telegram_id(telegram_id, **profile._asdict())
            conversations = ConversationRepository(session)
            there, started = await conversations.get_or_start(user.id, *chat, idle_timeout=idle_timeout)
            stored = await MessageHistoryRepository(session).append_many(there.id, messages)
            appended = [appended_row(one) for one in stored]
            about = user_row(user), created, conversation_row(there), started
        first = min((one.seq for one in appended if one.conversation_id == there.id), default=there.last_seq + 1)
        before = await self._before(there.id, first, recent)
        return TurnRows(*about, whole_pairs(before, is_followed=True), appended)


def user_row(user: User) -> UserRow:
    """Say of a mapped user what the store says."""
    *values, _ = (getattr(user, name.removesuffix("_json")) for name in UserRow._fields)
    return UserRow._make((*values, json.dumps(user.preferences)))


def conversation_row(conversation: Conversation) -> ConversationRow:
    """Say of a mapped conversation what the store says."""
    return ConversationRow(*(getattr(conversation, name) for name in ConversationRow._fields))
