"""The number of files of this package that one append and one connect pass."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import URL

from src.config import get_settings
from src.database import engine, get_db
from src.database.models import User
from src.database.repositories import ConversationRepository, MessageHistoryRepository, NewMessage, UserRepository
from src.database.store import get_store
from src.database.target import Host, Target

SOURCES = Path(__file__).parents[2] / "src"
DRIVER = str(Path(asyncpg.__file__).parent)
LAYERS = ("session", "engine", "connect", "config", "target")
"""The packages that a URL passes, from the highest to the lowest."""


@contextmanager
def observed(observe: Callable[[FrameType, str], None]) -> Iterator[None]:
    """Call `observe` at each call and return of a Python function in the block."""
    sys.setprofile(lambda frame, event, _argument: observe(frame, event))
    try:
        yield
    finally:
        sys.setprofile(None)


def file_of(frame: FrameType) -> str | None:
    """Return the path of a function's file inside `src`, or None if the file is not ours."""
    path = Path(frame.f_code.co_filename)
    return str(path.relative_to(SOURCES)) if path.is_relative_to(SOURCES) else None


def callers_of(frame: FrameType) -> Iterator[str]:
    """Yield the files of ours on the call stack, the innermost first."""
    caller = frame.f_back
    while caller is not None:
        if (file := file_of(caller)) is not None:
            yield file
        caller = caller.f_back


def layer_of(file: str) -> int:
    return LAYERS.index(file.removeprefix("database/").partition("/")[0])


async def test_a_url_passes_six_files_from_the_settings_to_the_socket(cloned_database: URL) -> None:
    """A file counts if one of its functions has the URL, the target or a host of it in an argument or a variable.

    `Settings` is where the way begins. Each file is entered from its own layer or a higher one, and the URL becomes a
    target once.
    """
    passed: set[str] = set()
    upward: set[tuple[str, str]] = set()
    targets: list[FrameType] = []

    def observe(frame: FrameType, event: str) -> None:
        file = file_of(frame)
        if event != "return" or file is None or file == "config/settings.py":
            return
        if any(isinstance(value, URL | Target | Host) for value in frame.f_locals.values()):
            passed.add(file)
            caller = next(callers_of(frame), file)
            if caller in passed and layer_of(caller) > layer_of(file):
                upward.add((caller, file))
            if frame.f_code.co_name == "from_url":
                targets.append(frame)

    assert cloned_database == get_settings().DATABASE_URL
    with observed(observe):
        async with engine.connect():
            pass

    assert len(passed) <= 6, passed
    assert upward == set()
    assert len(targets) == 1


class Append:
    """The files of one append after two others, which import and compile what they need.

    Attributes:
        passed: The files on the call stack when the driver is called: each hands the message on to the next.
        run: The files of all functions that run: checks, ids and rows beside the call stack. On 2026-11-30 these were
            15 for a repository and 12 for the store.
    """

    def __init__(self) -> None:
        self.passed: set[str] = set()
        self.run: set[str] = set()

    def observe(self, frame: FrameType, event: str) -> None:
        if event != "call":
            return
        if (file := file_of(frame)) is not None:
            self.run.add(file)
        elif frame.f_code.co_filename.startswith(DRIVER):
            self.passed.update(callers_of(frame))


@pytest.fixture
async def conversation_id(cloned_database: URL) -> UUID:
    async with get_db() as session:
        user = await UserRepository(session).add(User(telegram_id=1))
        conversation, _ = await ConversationRepository(session).get_or_start(user.id, "telegram", "1")
        return conversation.id


def message(number: int) -> NewMessage:
    return NewMessage(message_id=f"telegram:1:1:{number}", role="user", content="x")


async def test_a_repositorys_append_passes_five_files(conversation_id: UUID) -> None:
    append = Append()

    async with get_db() as session:
        repository = MessageHistoryRepository(session)
        for number in range(2):
            await repository.append(conversation_id, message(number))
        with observed(append.observe):
            await repository.append(conversation_id, message(2))

    assert len(append.passed) <= 5, append.passed
    assert len(append.run) <= 16, append.run


async def test_an_append_of_the_store_passes_five_files(conversation_id: UUID) -> None:
    append = Append()
    store = get_store()
    for number in range(2):
        await store.append(conversation_id, message(number))

    with observed(append.observe):
        await store.append(conversation_id, message(2))

    assert len(append.passed) <= 5, append.passed
    assert len(append.run) <= 13, append.run
