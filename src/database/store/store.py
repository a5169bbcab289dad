"""The store: the few calls of every turn, with immutable rows.

Almost every call is one round trip; `Store` lists the exceptions.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from functools import partial
from operator import attrgetter, itemgetter
from typing import Any, Final
from uuid import UUID

from src.database.base import check_id, uuid7
from src.database.errors import DatabaseError
from src.database.observability import names_statements, source_of
from src.database.repositories import EventRepository
from src.database.session import get_db, get_engine, tenant_binding
from src.database.statements import (
    COLUMN_COUNTS,
    Call,
    Identity,
    InvalidCursorError,
    Latest,
    NewMessage,
    Page,
    Turn,
    Unanswered,
    append_messages,
    check_limit,
    check_outcome,
    conversation_changes,
    conversations,
    decode_cursor,
    encode_cursor,
    history,
    in_call_order,
    message_changes,
    pack_columns,
    reminders,
    turns,
    users,
    whole_pairs,
    windows,
)
from src.database.store import statements
from src.database.store.calls import Calls
from src.database.store.pool import StorePool
from src.database.store.rows import (
    NO_PROFILE,
    AppendedRow,
    ConversationRow,
    EventRow,
    MessageRow,
    Profile,
    TurnRows,
    UserRow,
)
from src.database.store.state import StateStore
from src.database.store.watched import WatchedCalls, WatchedPool

POOL_NAME: Final = "store"
_APPENDED: Final = attrgetter("message_id", "id", "conversation_id", "seq", "created_at", "is_inserted", "is_live")

DEFAULT_RECENT: Final = 20
_REFUSED: Final = {"TH002": "other_content", "TH003": "other_chat"}
"""The SQLSTATE with which app_turn refuses a message; the constraint's name is the message's key."""
_KINDS: Final = 3
"""The kinds of rows that app_turn returns: user and conversation, earlier messages, appended messages."""
_OF_CHAT: Final = 12
"""The number of arguments before the messages, without the tenant."""
_TURN: Final[Mapping[int, Call[MessageRow]]] = {
    columns: Call("app_turn", 1 + _OF_CHAT + columns, row=MessageRow)
    for columns in (*COLUMN_COUNTS, max(COLUMN_COUNTS) + users.OF_IDENTITY)
}
"""The calls by the number of columns that are sent of a message, with those of an identity after all columns."""
_user: Final = itemgetter(
    "user_id", "telegram_id", "username", "display_name", "locale", "timezone", "is_active", "last_seen_at",
    "is_person", "user_created_at", "preferences",
)  # fmt: skip
_conversation: Final = itemgetter(
    "id", "user_id", "session_id", "channel", "external_chat_id", "title", "summary", "summary_upto_seq", "last_seq",
    "last_message_at", "created_at",
)  # fmt: skip
_appended: Final = itemgetter("message_id", "id", "conversation_id", "seq", "created_at")
PAGE_LIMIT: Final = 100


@names_statements
class Store:
    """The few calls of every turn, on the fast path.

    Each call is one atomic statement and one round trip. There are two exceptions: a stream is a transaction that
    reads in batches, and `claim_due_reminders` sends more statements if a series has used up its attempts.

    The guarantees are those of the repositories. Rows are immutable and belong to no session. The work of a method is
    committed when the method returns.

    Args:
        sender: Sends the statements.
    """

    def __init__(self, sender: Calls) -> None:
        self._sender = sender

    @property
    def pool(self) -> StorePool:
        """The connections, for metrics."""
        return self._sender.pool

    @property
    def state(self) -> StateStore:
        """The values under keys."""
        return StateStore(self._sender)

    async def user_by_telegram_id(self, telegram_id: int) -> UserRow | None:
        """Return the user with this Telegram id, or None.

        Raises:
            ValueError: It is not a whole number above 0.
        """
        users.check_telegram_id(telegram_id)
        rows = await self._sender.read(statements.BY_TELEGRAM_ID, telegram_id)
        return UserRow._make(rows[0]) if rows else None

    async def get_or_create_user(self, telegram_id: int, profile: Profile = NO_PROFILE) -> tuple[UserRow, bool]:
        """Return the user with this Telegram id, and True if this call created the user, with the profile.

        Raises:
            CommitOutcomeUnknown: The connection was lost before the server answered: call again.
            ValueError: The id is not a whole number above 0, the zone is not an IANA name, the locale is not a language
                tag, or a name is too short or too long.
        """
        users.check_telegram_id(telegram_id)
        new_id = uuid7()
        [row] = await self._sender.call(statements.GET_OR_CREATE, telegram_id, new_id, *profile.checked())
        user = UserRow._make(row)
        return user, user.id == new_id

    async def get_or_create_by_identity(
        self, provider: str, subject: str, profile: Profile = NO_PROFILE, *, is_person: bool = True
    ) -> tuple[UserRow, bool]:
        """Return the user with an identity, and True if this call created the user; see `UserRepository`.

        Raises:
            CommitOutcomeUnknown: The connection was lost before the server answered: call again.
            ValueError: The provider or the subject is not a text of 1 to 255 characters, the provider is `telegram`, or
                the profile is invalid.
        """
        new_id = uuid7()
        identity = users.Identity(provider, subject, is_person).arguments()
        [row] = await self._sender.call(statements.BY_IDENTITY, *identity, new_id, *profile.checked())
        user = UserRow._make(row)
        return user, user.id == new_id

    async def open_conversation(
        self,
        session_id: str,
        user_id: UUID,
        *,
        channel: str = conversation_changes.SESSION_CHANNEL,
        extra: Mapping[str, Any] | None = None,
    ) -> tuple[ConversationRow, bool]:
        """Return the conversation with this session id, opened if there is none; see `ConversationRepository.open`.

        Raises:
            CommitOutcomeUnknown: The connection was lost before the server answered: call again.
            DuplicateKeyError: The session id belongs to a conversation of another user.
            ForeignKeyError: There is no such conversation, and the tenant has no such user or the user is deleted.
            ValueError: The session id is empty, the channel is too long, or `extra` is no JSON object.
        """
        send = partial(self._conversations, conversation_changes.OPEN)
        return await conversation_changes.open_by_session_id(send, session_id, user_id, channel, extra)

    async def clear(self, conversation_id: UUID, *, turn: int | None = None) -> int:
        """Delete all messages of a conversation softly; see `ConversationRepository.clear`.

        Raises:
            CommitOutcomeUnknown: The connection was lost before the server answered: call again.
            NotFoundError: This tenant has no such conversation.
            StaleDataError: Another worker has claimed the turn.
        """
        count, _ = await conversation_changes.clear(self._sender, conversation_id, turn)
        return count

    async def fork(
        self, conversation_id: UUID, *, upto_seq: int | None = None, session_id: str | None = None
    ) -> ConversationRow:
        """Copy a conversation with its messages; see `ConversationRepository.fork`.

        Raises:
            CommitOutcomeUnknown: The connection was lost before the server answered: the copy exists or not. A second
                call makes another copy, or raises DuplicateKeyError if `session_id` is given and the copy exists.
            DuplicateKeyError: The session id is taken.
            NotFoundError: This tenant has no such conversation.
            ValueError: `upto_seq` is negative, or the session id is empty.
        """
        send = partial(self._conversations, conversation_changes.FORK)
        return await conversation_changes.fork(send, conversation_id, upto_seq, session_id)

    async def _conversations(self, call: Call[Any], *arguments: Any) -> list[ConversationRow]:
        return [ConversationRow._make(_conversation(row)) for row in await self._sender.call(call, *arguments)]

    async def append(
        self,
        conversation_id: UUID,
        message: NewMessage,
        *,
        turn: int | None = None,
        expected_last_seq: int | None = None,
    ) -> AppendedRow:
        """Append one message to a conversation; see `append_many`."""
        [appended] = await self.append_many(conversation_id, [message], turn=turn, expected_last_seq=expected_last_seq)
        return appended

    async def append_many(
        self,
        conversation_id: UUID,
        messages: Sequence[NewMessage],
        *,
        turn: int | None = None,
        expected_last_seq: int | None = None,
    ) -> list[AppendedRow]:
        """Append messages in this order, each once, without gaps; see `MessageHistoryRepository.append_many`.

        Raises:
            CommitOutcomeUnknown: The connection was lost before the server answered: send them again.
            IdempotencyConflictError: A key is taken by a message with other content, or by another chat's.
            NotFoundError: This tenant has no such conversation.
            StaleDataError: Another worker has claimed the turn, or has appended messages.
            ValueError: There are more than 1000, or `turn` is no token.
        """
        _, outcomes = await append_messages(
            self._sender, conversation_id, messages, turn=turn, expected_last_seq=expected_last_seq
        )
        return [AppendedRow._make(_APPENDED(one)) for one in outcomes]

    async def delete_conversation(self, conversation_id: UUID) -> None:
        """Delete a conversation softly; `ConversationRepository.restore` brings it back.

        Raises:
            CommitOutcomeUnknown: The connection was lost before the server answered: call again. If the first call has
                deleted the conversation, the second one raises NotFoundError.
            NotFoundError: This tenant has no such conversation.
        """
        await conversation_changes.delete(self._sender, conversation_id)

    async def claim_turn(
        self,
        conversation_id: UUID,
        worker: str,
        *,
        lease: timedelta = turns.LEASE,
        wait_seconds: float | None = None,
    ) -> Turn | None:
        """Claim the turn to answer in a conversation; see `ConversationRepository.claim_turn`.

        A call that waits makes several attempts, one round trip each, and holds no connection between them. If the call
        is cancelled, it holds no turn.

        Raises:
            CommitOutcomeUnknown: The connection was lost: a turn that was claimed is free when its lease ends.
            LockNotAvailable: Another claim still held the turn after `wait_seconds`.
            NotFoundError: This tenant has no such conversation.
            ValueError: `worker` is empty, or the lease or `wait_seconds` is out of range.
        """
        return await turns.claim_turn(self._sender, conversation_id, worker, lease, wait_seconds)

    async def renew_turn(self, turn: Turn, *, lease: timedelta = turns.LEASE) -> Turn:
        """Renew the lease of a turn, counted from now; see `ConversationRepository.renew_turn`.

        Raises:
            CommitOutcomeUnknown: The connection was lost before the server answered: call again.
            StaleDataError: Another worker has claimed the turn, or the turn was released.
            ValueError: The lease is out of range.
        """
        return await turns.renew_turn(self._sender, turn, lease)

    async def release_turn(self, turn: Turn) -> None:
        """Release a turn before its lease ends. Releasing a released turn does nothing.

        Raises:
            CommitOutcomeUnknown: The connection was lost before the server answered: call again.
            StaleDataError: Another worker has claimed the turn.
        """
        await turns.release_turn(self._sender, turn)

    async def pop(
        self, conversation_id: UUID, limit: int = 1, *, last_seq: int | None = None, turn: int | None = None
    ) -> list[MessageRow]:
        """Soft-delete the last messages of a conversation, and return them; see `MessageHistoryRepository.pop`.

        Raises:
            CommitOutcomeUnknown: The connection was lost before the server answered. With `last_seq`, call again: the
                messages are then deleted, by one of the calls. Without it, a second call can delete further messages.
            NotFoundError: This tenant has no such conversation.
            StaleDataError: Another worker has claimed the turn.
            ValueError: The limit is out of range, `last_seq` is negative, or `turn` is not a token.
        """
        return await message_changes.pop(
            self._sender, statements.POP, conversation_id, limit=limit, last_seq=last_seq, turn=turn
        )

    async def turn(
        self,
        sender: int | Identity,
        channel: str,
        external_chat_id: str | None,
        messages: Sequence[NewMessage],
        *,
        recent: int = DEFAULT_RECENT,
        idle_timeout: timedelta | None = None,
        profile: Profile = NO_PROFILE,
        unanswered: Unanswered = "drop",
    ) -> TurnRows:
        """Append messages to the active conversation of a user's chat; create the user and the conversation if needed.

        One atomic call for `get_or_create_by_telegram_id` or `get_or_create_by_identity`, `get_or_start`, `append_many`
        and, for the earlier messages, `recent`. A tool call in the earlier messages is kept if the new messages contain
        its result.

        Args:
            sender: The user: a Telegram id, or the identity at another system.
            channel: The channel, for example `telegram`.
            external_chat_id: The chat's id in the channel; None is one chat too.
            messages: The new messages, 1 to 1000.
            recent: How many of the messages before them to return, 1 to 1000.
            idle_timeout: A conversation without a message for longer is closed, and another one started.
            profile: The attributes of a user that is created.
            unanswered: "keep" keeps the tool calls that have no result; see `recent`.

        Raises:
            CommitOutcomeUnknown: The connection was lost before the server answered: call again with the same messages.
            IdempotencyConflictError: A key is taken by a message with other content, or by another chat's.
            ValueError: An argument is out of range, the profile is invalid, or there are no messages.

        Example:
            question = NewMessage(message_id="telegram:my_bot:42:1", role="user", content="Hello!")
            turn = await get_store().turn(42, "telegram", "42", [question], recent=20)
            if turn.appended[0].inserted:  # False if Telegram delivers the message again
                prompt = [message.content for message in turn.recent] + [question.content]
        """
        check_limit(recent)
        if not messages:
            raise ValueError("messages must be at least one, got none; to read without a new message, use `recent`")
        conversations.check_silence("idle_timeout", idle_timeout or timedelta(0))
        chat = conversations.stored_chat(channel, external_chat_id)
        user_id, conversation_id = uuid7(), uuid7()
        telegram_id, new_messages = _sent_by(sender, pack_columns(messages))
        rows = await self._turn(
            _TURN[len(new_messages)],
            telegram_id, user_id, *profile.checked(), *chat, conversation_id, str(uuid7()), idle_timeout, recent,
            *new_messages,
        )  # fmt: skip
        kinds: tuple[list[Any], ...] = tuple([] for _ in range(_KINDS))
        for row in rows:
            kinds[row["kind"]].append(row)
        [about], said_before, new = kinds
        user, conversation = UserRow._make(_user(about)), ConversationRow._make(_conversation(about))
        appended = {
            row["message_id"]: AppendedRow._make((*_appended(row), row["outcome"] == "inserted", row["is_live"]))
            for row in new
        }
        return TurnRows(
            user,
            user.id == user_id,
            conversation,
            conversation.id == conversation_id,
            whole_pairs(said_before[::-1], following=messages, unanswered=unanswered),
            in_call_order(messages, appended, as_duplicate=lambda row: row._replace(inserted=False)),
        )

    async def _turn(self, call: Call[MessageRow], *arguments: Any) -> list[MessageRow]:
        """Call app_turn.

        Raises:
            IdempotencyConflictError: The function has refused a message.
        """
        try:
            return await self._sender.call(call, *arguments)
        except DatabaseError as error:
            if (outcome := _REFUSED.get(error.sqlstate or "")) is not None:
                check_outcome(outcome, error.constraint or "")
            raise

    async def recent(
        self,
        conversation_id: UUID,
        *,
        limit: int | None = None,
        token_budget: int | None = None,
        unanswered: Unanswered = "drop",
    ) -> list[MessageRow]:
        """Return the last messages, the oldest first; tool calls stay with their results.

        See `MessageHistoryRepository.recent`.

        Raises:
            ValueError: The limit is not from 1 to 1000, the budget is negative, or `unanswered` is unknown.

        Example:
            for message in await get_store().recent(conversation.id, token_budget=4000):
                print(message.role, message.content)
        """
        limit = windows.window_limit(limit, token_budget=token_budget)
        if token_budget is None:
            rows = await self._sender.read(statements.NEWEST, conversation_id, limit)
        else:
            budget = windows.check_number("token_budget", token_budget)
            rows = await self._sender.read(statements.WITHIN_BUDGET, conversation_id, limit, budget)
        return whole_pairs(rows[::-1], unanswered=unanswered)

    async def last(self, conversation_id: UUID, limit: int = windows.DEFAULT_LIMIT) -> list[MessageRow]:
        """Return exactly the last messages, the oldest first; see `MessageHistoryRepository.last`.

        Raises:
            ValueError: The limit is not from 1 to 1000.
        """
        check_limit(limit)
        return (await self._sender.read(statements.NEWEST, conversation_id, limit))[::-1]

    async def page(
        self, conversation_id: UUID, *, after: str | None = None, limit: int = PAGE_LIMIT
    ) -> Page[MessageRow]:
        """Return one page of a conversation's messages in their order, after a cursor.

        Raises:
            InvalidCursorError: The cursor is not from this conversation.
            ValueError: The limit is not from 1 to 1000.
        """
        check_limit(limit)
        scope = f"store:{self._sender.tenant_id}:{conversation_id}"
        seq = 0 if after is None else _position(after, scope)
        rows = await self._sender.read(statements.AFTER, conversation_id, seq, limit + 1)
        if len(rows) <= limit:
            return Page(rows, None)
        del rows[limit:]
        return Page(rows, encode_cursor([rows[-1].seq], scope=scope))

    async def page_since(
        self,
        since: datetime,
        *,
        conversation_id: UUID | None = None,
        user_id: UUID | None = None,
        after: str | None = None,
        limit: int = PAGE_LIMIT,
    ) -> Page[MessageRow]:
        """Return one page of the messages since an instant; see `MessageHistoryRepository.page_since`.

        Raises:
            InvalidCursorError: The cursor is not from this query.
            ValueError: Both ids or none are given, `since` is naive, or the limit is out of range.
        """
        of = {"conversation_id": conversation_id, "user_id": user_id}
        return await history.since_page(self._sends, self._sender.tenant_id, since, of, after=after, limit=limit)

    async def search(
        self, user_id: UUID, query: str, *, config: str = "simple", after: str | None = None, limit: int = 20
    ) -> Page[MessageRow]:
        """Return one page of a user's messages that match a query; see `MessageHistoryRepository.search`.

        Raises:
            InvalidCursorError: The cursor is not from this query.
            ValueError: The server has no such configuration, the query is too long, or the limit is out of range.
        """
        tenant_id = self._sender.tenant_id
        return await history.search_page(
            self._sends, tenant_id, user_id, query, config=config, after=after, limit=limit
        )

    async def latest_conversations(
        self, user_id: UUID, *, after: str | None = None, limit: int = 50
    ) -> Page[Latest[ConversationRow]]:
        """Return one page of a user's conversations with their last messages; see `ConversationRepository.latest`.

        Raises:
            InvalidCursorError: The cursor is not from this query.
            ValueError: The limit is out of range.
        """
        sends = lambda build: partial(self._latest, self._sends(build))  # noqa: E731
        return await history.latest_page(sends, self._sender.tenant_id, user_id, after=after, limit=limit)

    async def _latest(self, send: Callable[..., Awaitable[list[Any]]], **values: Any) -> list[tuple[Any, ...]]:
        width = len(ConversationRow._fields)
        return [(ConversationRow._make(row[:width]), *row[width:]) for row in await send(**values)]

    def _sends(self, build: history.Build) -> Callable[..., Awaitable[list[Any]]]:
        read = statements.of_history(build)
        return lambda **values: self._sender.read(read, *(values[name] for name in read.parameters))

    async def stream_conversation(
        self, conversation_id: UUID, *, after_seq: int = 0
    ) -> AsyncGenerator[MessageRow, None]:
        """Yield all messages of a conversation in their order, as `stream_messages` does for a user.

        Raises:
            ValueError: `after_seq` is negative.
        """
        check_id("conversation_id", conversation_id)
        position = windows.check_number("after_seq", after_seq)
        async with aclosing(self._sender.stream(statements.ALL_AFTER, conversation_id, position)) as batches:
            async for rows in batches:
                for row in rows:
                    yield row

    async def stream_messages(self, user_id: UUID) -> AsyncGenerator[MessageRow, None]:
        """Yield all messages of a user in the order of their time, from one snapshot; 1000 are in memory at a time.

        The stream holds a connection until it ends; `contextlib.aclosing` ends it early.
        """
        async with aclosing(self._sender.stream(statements.OF_USER, user_id)) as batches:
            async for rows in batches:
                for row in rows:
                    yield row

    async def claim_due_reminders(
        self,
        worker: str,
        *,
        limit: int = 10,
        lease: timedelta = timedelta(minutes=5),
        max_attempts: int = reminders.MAX_ATTEMPTS,
    ) -> list[EventRow]:
        """Claim due reminders for the time of the lease, and commit; see `EventRepository.claim_due_reminders`.

        Returns:
            The events, the longest due first; `ack_reminder` takes their `reminder_token`.

        Raises:
            CommitOutcomeUnknown: The connection was lost: what was claimed is free again when the lease ends.
            ValueError: The limit is not from 1 to 1000, the lease not positive or longer than a year, or the worker
                has no name.
        """
        return await reminders.claim_due(
            partial(self._sender.call, statements.CLAIM),
            _give_up,
            worker,
            limit=limit,
            lease=lease,
            max_attempts=max_attempts,
        )


async def _give_up(events: Sequence[EventRow]) -> None:
    """Skip the claimed reminders of series, in a transaction of a session."""
    async with get_db() as session:
        repository = EventRepository(session)
        for event in events:
            await repository.skip_reminder(event.id, event.reminder_token)


def get_store() -> Store:
    """Return the store of the running event loop. It has a pool of its own, and opens no connection before its use.

    DATABASE_POOL_SIZE and DATABASE_MAX_OVERFLOW, or `pool_max` of the URL, limit the pool, as they limit each pool.
    `await get_engine("store").dispose()` closes the connections.

    Raises:
        ConfigurationError: The settings are not valid.

    Example:
        message = NewMessage(message_id="telegram:my_bot:7:2", role="assistant", content="Hi!")
        await get_store().append(conversation.id, message)
    """
    engine = get_engine(POOL_NAME)
    store: Store | None = engine.attached.get(POOL_NAME)
    if store is None:
        options = {"is_pooled_elsewhere": engine.is_pooled_elsewhere}
        sender: Calls
        if (source := source_of(engine)) is None:
            sender = Calls(StorePool(engine.open_connection, engine.limits), tenant_binding(), **options)
        else:
            sender = WatchedCalls(WatchedPool(engine, source), tenant_binding(), source, **options)
        engine.close_with(sender.pool.close)
        store = engine.attached[POOL_NAME] = Store(sender)
    return store


def _sent_by(sender: int | Identity, columns: Sequence[Any]) -> tuple[int | None, Sequence[Any]]:
    """Return the Telegram id of a turn, and the columns of its messages, with the identity after all of them.

    Raises:
        ValueError: The sender is neither a Telegram id nor a valid identity.
    """
    if isinstance(sender, Identity):
        missing = max(COLUMN_COUNTS) - len(columns)
        return None, (*columns, *[None] * missing, *sender.arguments())
    users.check_telegram_id(sender)
    return sender, columns


def _position(cursor: str, scope: str) -> int:
    values = decode_cursor(cursor, scope=scope)
    if len(values) != 1 or type(values[0]) is not int or not 0 <= values[0] <= windows.MAX_SEQ:
        raise InvalidCursorError("the cursor cannot be read; begin again without a cursor")
    return values[0]
