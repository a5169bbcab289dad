"""A server killed under writers: acknowledged messages are stored once, and writing continues after its restart."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database import AsyncSession, engine, get_db, get_engine, run_transaction
from src.database.embedded import APP_ROLE, DATABASE, SUPERUSER
from src.database.errors import CommitOutcomeUnknown, ConnectionFailed
from src.database.repositories import (
    ConversationRepository,
    MessageHistoryRepository,
    NewMessage,
    UserRepository,
)
from src.database.session import transaction_status
from src.database.store import get_store
from tests.acceptance.replication import Node, _copy_template

Append = Callable[[UUID, NewMessage], Awaitable[None]]
WRITERS = 20
CONVERSATIONS = 4
BETWEEN_KILLS = 3
"""The least number of acknowledged writes of each path between two kills."""
GENEROUS_SECONDS = 20


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A server whose commits survive the end of its processes."""
    with tempfile.TemporaryDirectory(prefix="thea-k-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        node = Node(Path(name) / "node")
        _copy_template(node)
        node.start()
        yield node
        node.stop("immediate")


def kill_all(node: Node) -> None:
    """Kill the postmaster and its processes, and remove its pid file."""
    mark = node.data / "postmaster.pid"
    postmaster = mark.read_text().splitlines()[0]
    pids = [postmaster, *(pid for pid, (_, parent) in processes().items() if parent == postmaster)]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    while any(
        state != "Z" for pid, (state, _) in processes().items() if pid in pids
    ):  # a zombie may have no parent that reaps it
        time.sleep(0.005)
    for leftover in (mark, *node.folder.glob(".s.PGSQL.5432*")):
        leftover.unlink()


def processes() -> dict[str, tuple[str, str]]:
    """Return the state and the parent of each process."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
            found[status.parent.name] = state, parent
    return found


async def by_session(conversation_id: UUID, message: NewMessage) -> None:
    async with get_db() as session:
        await MessageHistoryRepository(session).append(conversation_id, message)


async def by_store(conversation_id: UUID, message: NewMessage) -> None:
    await get_store().append(conversation_id, message)


async def by_transaction(conversation_id: UUID, message: NewMessage) -> None:
    async def unit(session: AsyncSession) -> None:
        await MessageHistoryRepository(session).append(conversation_id, message)

    await run_transaction(unit, idempotent=True)


PATHS: tuple[Append, ...] = (by_session, by_store, by_transaction)


class Writers:
    """Writers without pauses; each repeats a message under its key until it is acknowledged."""

    def __init__(self, conversations: list[UUID]) -> None:
        self._conversations = conversations
        self.acknowledged: dict[Append, dict[str, float]] = {path: {} for path in PATHS}
        self.raised: Counter[str] = Counter()
        self._is_over = False

    async def write(self, writer: int) -> None:
        path = PATHS[writer % len(PATHS)]
        number = 0
        while not self._is_over:
            key = f"{writer}:{number}"
            try:
                await path(self._conversations[writer % CONVERSATIONS], NewMessage(message_id=key, role="user"))
            except (CommitOutcomeUnknown, ConnectionFailed) as error:
                self.raised[type(error).__name__] += 1
                await asyncio.sleep(0.02)
                continue
            self.acknowledged[path][key] = time.monotonic()
            number += 1

    async def until_written(self) -> None:
        """Wait until each path has acknowledged further messages."""
        goals = {path: len(keys) + BETWEEN_KILLS for path, keys in self.acknowledged.items()}
        async with asyncio.timeout(GENEROUS_SECONDS * 2):
            while any(len(self.acknowledged[path]) < goal for path, goal in goals.items()):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.005)

    def stop(self) -> None:
        self._is_over = True

    def first_since(self, path: Append, moment: float) -> float:
        return min(at for at in self.acknowledged[path].values() if at > moment)


async def conversations() -> list[UUID]:
    async with get_db() as session:
        user, _ = await UserRepository(session).get_or_create_by_telegram_id(1)
        chats = ConversationRepository(session)
        return [(await chats.get_or_start(user.id, "test", str(n)))[0].id for n in range(CONVERSATIONS)]


async def kill_and_return(node: Node, writers: Writers) -> dict[Append, float]:
    """Kill the server and start it; return the seconds until the first success of each path."""
    killed = time.monotonic()
    kill_all(node)
    await asyncio.to_thread(node.start)
    returned = time.monotonic()
    await writers.until_written()
    # A path that succeeded before `pg_ctl` saw the server has not waited at all.
    return {path: max(0.0, writers.first_since(path, killed) - returned) for path in PATHS}


async def stored(node: Node) -> dict[str, list[tuple[str, int]]]:
    """Read the messages of each conversation with another driver."""
    connection = await asyncpg.connect(host=str(node.folder), user=SUPERUSER, database=DATABASE)
    rows = await connection.fetch("SELECT conversation_id, message_id, seq FROM message_history ORDER BY 1, 3")
    await connection.close()
    found: dict[str, list[tuple[str, int]]] = {}
    for conversation_id, key, seq in rows:
        found.setdefault(str(conversation_id), []).append((key, seq))
    return found


def test_a_crash_is_distinguished_from_a_regular_restart(node: Node) -> None:
    """After a crash the server assigns unwritten transaction numbers again: `run_transaction` must notice the crash."""

    def life() -> object:
        return node.sql(transaction_status._PROBE)

    first = life()
    node.stop()
    node.start()
    after_a_restart = life()
    kill_all(node)
    node.start()
    after_a_crash = life()

    assert first == after_a_restart != after_a_crash


@pytest.mark.slow
async def test_acknowledged_messages_are_stored_once_and_writing_continues_within_a_second(
    node: Node, use_database: Callable[..., Settings], is_long: bool
) -> None:
    query = {"host": str(node.folder), "pool_max": str(WRITERS)}
    use_database(URL.create("postgresql+asyncpg", username=APP_ROLE, database=DATABASE, query=query))
    writers = Writers(await conversations())
    kills = 20 if is_long else 2
    waited: dict[Append, list[float]] = {path: [] for path in PATHS}

    async with asyncio.TaskGroup() as group:
        for writer in range(WRITERS):
            group.create_task(writers.write(writer))
        await writers.until_written()
        for _ in range(kills):
            for path, seconds in (await kill_and_return(node, writers)).items():
                waited[path].append(seconds)
        writers.stop()
    await engine.dispose()
    await get_engine("store").dispose()

    there = await stored(node)
    keys = Counter(key for messages in there.values() for key, _ in messages)
    acknowledged = {key for of_path in writers.acknowledged.values() for key in of_path}
    worst = {path.__name__: f"{max(seconds):.3f} s" for path, seconds in waited.items()}
    figures = f"{kills} kills, {len(acknowledged)} acknowledged, {len(keys)} stored, raised {dict(writers.raised)}"
    print(f"{figures}; first success after the server's return, at worst: {worst}")  # noqa: T201 - the figures
    assert acknowledged <= set(keys), "no acknowledged message is lost"
    assert set(keys.values()) == {1}, "no message is doubled"
    for messages in there.values():
        assert [seq for _, seq in messages] == list(range(1, len(messages) + 1)), "there is no gap"
    assert max(max(seconds) for seconds in waited.values()) < GENEROUS_SECONDS
