"""The operations that are measured, and the bar of each path for each of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from benchmarks.contenders.base import Contender
from benchmarks.sample import Rows

__all__ = ["OPERATIONS", "PEERS", "STREAM", "Operation"]

PEERS: Final = {"store": "asyncpg", "repositories": "sqlalchemy", "session": "sdk_session"}
"""The contender that each path of this project is compared with."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation that the contenders perform.

    Attributes:
        name: What `--only` takes; the contenders' method of this name performs it, unless `method` names another.
        title: Its name in the tables.
        call: Performs it once, with rows of the sample.
        bars: For each path the least ratio to its peer, in the order of `callers`.
        callers: The numbers of concurrent callers that it is measured with.
        in_one_tenant: Measure it also with the rows of one tenant.
        is_one_statement: The store sends one statement: its throughput must not depend on the number of tenants.
        most: At most so many calls a round, where a call is long or fills the table.
        expected: The number of rows that it must return.
        method: The contenders' method.
    """

    name: str
    title: str
    call: Callable[[Any, Rows], Awaitable[Any]]
    bars: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    callers: tuple[int, ...] = (1, 16)
    in_one_tenant: bool = False
    is_one_statement: bool = False
    most: int | None = None
    expected: Callable[[Rows], int] = lambda _: 1
    method: str = ""

    def is_taken_by(self, contender: type[Contender]) -> bool:
        """Return True if the contender overrides the method of this operation."""
        method = self.method or self.name
        return getattr(contender, method) is not getattr(Contender, method)

    def bar(self, path: str, callers: int) -> float | None:
        """Return the least ratio of a path to its peer, or None if there is no bar."""
        return dict(zip(self.callers, self.bars.get(path, ()), strict=False)).get(callers)


def _first_page(name: str, title: str, call: Callable[[Any, Rows], Awaitable[Any]], **options: Any) -> Operation:
    return Operation(name, title, call, in_one_tenant=True, **options)


def _repositories(
    name: str, title: str, call: Callable[[Any, Rows], Awaitable[Any]], *, bar: float = 2.0, **options: Any
) -> Operation:
    return Operation(name, title, call, {"repositories": (bar, bar)}, **options)


STREAM: Final = Operation(
    "stream",
    "stream a user's messages",
    lambda who, of: who.stream(*of.exporter),
    {"store": (1.0,), "repositories": (1.0,)},
    callers=(1,),
    most=1,
    expected=lambda of: of.exported,
)

_ALL: Final = (
    _first_page(
        "user_by_telegram_id",
        "user by telegram_id",
        lambda who, of: who.user_by_telegram_id(*of.telegram_id()),
        bars={"store": (2.0, 1.8), "repositories": (2.0, 2.0)},
        is_one_statement=True,
    ),
    _first_page(
        "append",
        "append a message",
        lambda who, of: who.append(*of.conversation(), of.message()),
        bars={"store": (1.6, 1.25), "repositories": (1.3, 1.3)},
        is_one_statement=True,
    ),
    _first_page(
        "recent",
        "last 50 messages",
        lambda who, of: who.recent(*of.conversation(), 50),
        bars={"store": (1.5, 1.4), "repositories": (1.8, 1.6)},
        expected=lambda _: 50,
        is_one_statement=True,
    ),
    _first_page(
        "get_or_create_user",
        "get or create a user",
        lambda who, of: who.get_or_create_user(*of.telegram_id_or_new()),
        bars={"store": (1.7, 1.5), "repositories": (1.8, 1.5)},
        is_one_statement=True,
    ),
    _first_page(
        "get_or_start",
        "get or start a conversation",
        lambda who, of: who.get_or_start(*of.chat_or_new()),
        bars={"repositories": (1.8, 1.5)},
    ),
    _first_page(
        "turn",
        "the turn: user, conversation, last 20, append 2",
        lambda who, of: who.turn(*of.chat(), [of.message(), of.message("assistant")]),
        bars={"store": (1.5, 1.1), "repositories": (1.3, 1.3)},
        expected=lambda _: 20,
        is_one_statement=True,
    ),
    _first_page(
        "search",
        "a user's full-text search, top 10 with snippets",
        lambda who, of: who.search(*of.searcher(), "reunion presupuesto"),
        bars={"repositories": (1.0, 1.0)},
        expected=lambda _: 10,
    ),
    Operation(
        "pages",
        "a long conversation by cursor, 100 a page",
        lambda who, of: who.pages(*of.long_conversation(), of.long // 100),
        {"store": (1.2,), "repositories": (1.5,)},
        callers=(1,),
        expected=lambda of: of.long,
    ),
    STREAM,
    Operation(
        "append_many",
        "insert 1,000 messages",
        lambda who, of: who.append_many(*of.conversation(), [of.message() for _ in range(of.bulk)]),
        {"store": (0.6,), "repositories": (1.0,)},
        callers=(1,),
        most=8,
        expected=lambda of: of.bulk,
    ),
    Operation(
        "hot",
        "one hot conversation, 16 writers",
        lambda who, of: who.append_locked(*of.hot, of.message()),
        {"store": (2.0,)},
        callers=(16,),
        method="append_locked",
    ),
    _repositories("user_by_id", "user by id", lambda who, of: who.user_by_id(*of.user())),
    _repositories(
        "conversations_of",
        "a user's conversations",
        lambda who, of: who.conversations_of(*of.user()),
        expected=lambda _: 2,
    ),
    _repositories(
        "notes_of", "a user's last 20 notes", lambda who, of: who.notes_of(*of.searcher()), expected=lambda _: 20
    ),
    _repositories(
        "upcoming",
        "a user's next 10 events",
        lambda who, of: who.upcoming(*of.user(), datetime.now(UTC)),
        expected=lambda _: 0,
    ),
    _repositories(
        "add_note",
        "add a note",
        lambda who, of: who.add_note(*of.user(), "Comprar", "Comprar el pan y la leche"),
        bar=1.0,
    ),
    _repositories(
        "set_timezone",
        "change a user",
        lambda who, of: who.set_timezone(*of.user(), of.either("Europe/Madrid", "America/Lima")),
    ),
    Operation(
        "session_add",
        "session of openai-agents: add 2 items",
        lambda who, of: who.session_add(*of.session(), [of.message(), of.message("assistant")]),
        {"session": (1.3, 1.3)},
        callers=(1, 8),
    ),
    Operation(
        "session_get",
        "session of openai-agents: read 20 items",
        lambda who, of: who.session_get(*of.session(), 20),
        {"session": (2.0, 2.0)},
        callers=(1, 8),
        expected=lambda _: 20,
    ),
    Operation(
        "session_writers",
        "session of openai-agents: add to one session, 8 writers",
        lambda who, of: who.session_add(*of.people[0][:2], [of.message()]),
        {"session": (2.0,)},
        callers=(8,),
        method="session_add",
    ),
    Operation(
        "session_run",
        "session of openai-agents: a new session object, read 20, add 2",
        lambda who, of: who.session_run(*of.session(), [of.message(), of.message("assistant")]),
        callers=(1, 8),
    ),
)
OPERATIONS: Final = {operation.name: operation for operation in _ALL}
