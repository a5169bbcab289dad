"""What is measured, and the bar for each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from benchmarks.contenders.base import Contender
from benchmarks.sample import Sample

__all__ = ["OPERATIONS", "STREAM", "Operation"]

PEER: Final = "asyncpg"
ORM: Final = "sqlalchemy"


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that is asked of the contenders.

    Attributes:
        name: What `--only` takes; the contenders' method of this name does it, if they do not name another.
        title: What the table says.
        call: Does it once, with rows of the sample.
        bars: For each number of callers at once the least ratio to `against`, or None.
        path: Which of the project's paths the bar is for.
        against: With whom that is compared.
        most: At most so many calls a round: they are long, or the table would grow.
        expected: How many rows it has to return.
        method: The contenders' method.
    """

    name: str
    title: str
    call: Callable[[Any, Sample], Awaitable[Any]]
    bars: dict[int, float | None]
    path: str = "store"
    against: str = PEER
    most: int | None = None
    expected: Callable[[Sample], int] = lambda _: 1
    method: str = ""

    def is_taken_by(self, contender: type[Contender]) -> bool:
        """Whether the contender has a way to do it."""
        method = self.method or self.name
        return getattr(contender, method) is not getattr(Contender, method)


def _same(bar: float | None) -> dict[int, float | None]:
    return {1: bar, 16: bar}


STREAM: Final = Operation(
    "stream",
    "stream a user's messages",
    lambda who, of: who.stream(of.exporting_user_id),
    {1: 1.3},
    most=1,
    expected=lambda of: of.exported,
)

_STORE: Final = (
    Operation(
        "user_by_telegram_id",
        "user by telegram_id",
        lambda who, of: who.user_by_telegram_id(of.telegram_id()),
        _same(2.0),
    ),
    Operation(
        "append",
        "append a message, touch its conversation",
        lambda who, of: who.append(of.conversation(), of.said()),
        _same(1.8),
    ),
    Operation(
        "recent",
        "last 50 messages",
        lambda who, of: who.recent(of.conversation(), 50),
        _same(1.5),
        expected=lambda _: 50,
    ),
    Operation(
        "get_or_create_user",
        "get or create a user",
        lambda who, of: who.get_or_create_user(of.telegram_id_or_new()),
        _same(1.8),
    ),
    Operation(
        "turn",
        "the turn: user, conversation, last 20, append 2",
        lambda who, of: who.turn(*of.chat(), [of.said(), of.said("assistant")]),
        {1: 1.8, 16: 1.4},
        expected=lambda _: 20,
    ),
    Operation(
        "pages",
        "a long conversation by cursor, 100 a page",
        lambda who, of: who.pages(of.long_conversation(), of.long // 100),
        {1: 1.3},
        expected=lambda of: of.long,
    ),
    Operation(
        "append_many",
        "insert 1,000 messages",
        lambda who, of: who.append_many(of.conversation(), [of.said() for _ in range(of.bulk)]),
        {1: 0.6},
        most=8,
        expected=lambda of: of.bulk,
    ),
    STREAM,
    Operation(
        "hot",
        "one hot conversation, 16 writers",
        lambda who, of: who.append_locked(of.hot_conversation_id, of.said()),
        {16: 2.0},
        method="append_locked",
    ),
)
_REPOSITORIES: Final = (
    Operation(
        "search",
        "a user's full-text search, top 10",
        lambda who, of: who.search(of.searcher(), "reunion presupuesto"),
        _same(0.8),
        path="repositories",
        expected=lambda _: 10,
    ),
    Operation(
        "user_by_id",
        "user by id",
        lambda who, of: who.user_by_id(of.user()),
        _same(2.0),
        path="repositories",
        against=ORM,
    ),
    Operation(
        "conversations_of",
        "a user's conversations",
        lambda who, of: who.conversations_of(of.user()),
        _same(2.0),
        path="repositories",
        against=ORM,
        expected=lambda _: 2,
    ),
    Operation(
        "notes_of",
        "a user's last 20 notes",
        lambda who, of: who.notes_of(of.searcher()),
        _same(2.0),
        path="repositories",
        against=ORM,
        expected=lambda _: 20,
    ),
    Operation(
        "upcoming",
        "a user's next 10 events",
        lambda who, of: who.upcoming(of.user(), datetime.now(UTC)),
        _same(2.0),
        path="repositories",
        against=ORM,
        expected=lambda _: 0,
    ),
    Operation(
        "add_note",
        "add a note",
        lambda who, of: who.add_note(of.user(), "Comprar", "Comprar el pan y la leche"),
        _same(2.0),
        path="repositories",
        against=ORM,
    ),
    Operation(
        "set_timezone",
        "change a user",
        lambda who, of: who.set_timezone(of.user(), "Europe/Madrid" if of.coin() else "America/Lima"),
        _same(2.0),
        path="repositories",
        against=ORM,
    ),
)
OPERATIONS: Final = {one.name: one for one in (*_STORE, *_REPOSITORIES)}
