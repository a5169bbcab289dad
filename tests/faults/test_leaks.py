"""Canaries in passwords and in users' data: after every kind of failure, none is in any output for an operator."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, select, text

from src.config import Settings
from src.database import engine, get_db, get_engine, get_read_db
from src.database.models import Conversation, Note, User
from src.database.repositories import (
    ConversationRepository,
    MessageHistoryRepository,
    NewMessage,
    NoteRepository,
    UserRepository,
)
from src.database.store import Profile, get_store
from tests.acceptance.command import run
from tests.faults import canary
from tests.faults.canary import CONTENT, SECRET, collecting
from tests.faults.failures import IN_THE_DATABASE, USER_TEXT, Failing
from tests.faults.public_objects import ON_THE_WAY, PUBLIC
from tests.faults.refusing_server import refusing_server


@pytest.fixture
async def failing(
    cloned_database: URL, superuser: psycopg.Connection, use_database: Callable[..., Settings]
) -> AsyncIterator[Failing]:
    use_database(cloned_database.update_query_dict({"pool_max": "2"}))
    async with get_db() as session:
        user = await UserRepository(session).add(User(telegram_id=1, display_name=CONTENT))
        row = Conversation(user_id=user.id, channel="x", session_id="x", title=USER_TEXT)
        conversation = await ConversationRepository(session).add(row)
    yield Failing(cloned_database, superuser, user.id, conversation.id)
    await get_engine("store").dispose()
    await engine.dispose()


async def test_no_failure_of_the_database_reveals_users_data(
    failing: Failing, capfd: pytest.CaptureFixture[str]
) -> None:
    unfailing = []
    with collecting(capfd) as seen:
        for failure in IN_THE_DATABASE:
            try:
                await failure(failing)
            except Exception as error:  # noqa: BLE001 - every error is searched
                seen.note_error(failure.__name__, error)
            else:
                unfailing.append(failure.__name__)

    assert "\n".join(seen.hits()) == ""
    assert unfailing == []


async def test_no_failure_of_connecting_reveals_a_secret(capfd: pytest.CaptureFixture[str]) -> None:
    unfailing = []
    async with refusing_server() as port:
        with collecting(capfd) as seen:
            for name, fail in ON_THE_WAY.items():
                try:
                    await fail(port)
                except Exception as error:  # noqa: BLE001 - every error is searched
                    seen.note_error(name, error)
                else:
                    unfailing.append(name)

    assert "\n".join(seen.hits()) == ""
    assert unfailing == []


async def test_an_unretrieved_error_reveals_nothing(failing: Failing, capfd: pytest.CaptureFixture[str]) -> None:
    """The event loop logs the error when the task is garbage-collected."""
    loop = asyncio.get_running_loop()
    with collecting(capfd) as seen:
        loop.call_exception_handler(
            {"message": "Task exception was never retrieved", "exception": await _raised(failing)}
        )

    assert any("was never retrieved" in text for _, text in seen.texts)
    assert seen.hits() == []


async def _raised(failing: Failing) -> Exception:
    try:
        await IN_THE_DATABASE[0](failing)
    except Exception as error:  # noqa: BLE001 - any error
        return error
    raise AssertionError("it did not fail")


@pytest.mark.parametrize("name", PUBLIC)
def test_no_repr_of_a_public_object_reveals_a_secret(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with collecting(capfd) as seen:
        made = PUBLIC[name]()
        seen.note(name, f"{made} {made!r} {[made]}")

    assert seen.hits() == []


async def test_no_log_or_repr_of_a_read_reveals_users_data(failing: Failing, capfd: pytest.CaptureFixture[str]) -> None:
    """All logs at DEBUG, the engine's log of rows included, and the reprs of returned objects."""
    message = NewMessage(message_id="m", role="user", content=USER_TEXT, parts=[USER_TEXT], extra={"x": USER_TEXT})
    with collecting(capfd) as seen:
        async with get_db() as session:
            notes, messages = NoteRepository(session), MessageHistoryRepository(session)
            await notes.add(Note(user_id=failing.user, content=USER_TEXT, title=USER_TEXT, tags=[CONTENT]))
            found: list[Any] = [
                await notes.search(failing.user, CONTENT),
                await notes.tags(failing.user),
                await notes.page(order_by=Note.content, limit=1),
                await UserRepository(session).upsert({"telegram_id": 5, "display_name": CONTENT}, key=["telegram_id"]),
                await messages.append(failing.conversation, message),
                await messages.recent(failing.conversation),
                await messages.usage(user_id=failing.user, by=["model"]),
                await ConversationRepository(session).page_for_user(failing.user),
                await ConversationRepository(session).claim_turn(failing.conversation, "w"),
                (await session.scalars(select(User))).all(),
                session,
            ]
        async with get_read_db() as reading:
            await reading.execute(text("SELECT content FROM notes WHERE content = :said"), {"said": USER_TEXT})
        store = get_store()
        found += [
            await store.turn(2, "x", "y", [NewMessage(message_id="n", role="user", content=USER_TEXT)],
                             profile=Profile(display_name=CONTENT)),
            await store.recent(failing.conversation),
            await store.page(failing.conversation),
            [row async for row in store.stream_messages(failing.user)],
            await store.user_by_telegram_id(1),
            store,
        ]  # fmt: skip
        for one in found:
            seen.note(f"repr of {type(one).__name__}", f"{one!r} {one!s}")

    assert "\n".join(seen.hits()) == ""
    assert any(where.startswith("log of sqlalchemy.engine") for where, _ in seen.texts), "they were logged"
    assert seen.hits() == []


COMMANDS = [
    ["verify"], ["tenant", "list", "--json"], ["backup", "x"], ["info"], ["info", "--json"], ["doctor"], ["pool"],
    ["wait", "--timeout", "0.3"], ["current"], ["upgrade"], ["tenant", "list"], ["history"], ["bootstrap", "--sql"],
]  # fmt: skip


@pytest.mark.slow
def test_no_command_prints_a_secret(tmp_path: Any, *, is_long: bool) -> None:
    """The server cannot be reached, so that each command fails as late as possible."""
    url = f"postgresql://u:{SECRET}@127.0.0.1:1/d"
    for command in COMMANDS if is_long else COMMANDS[:3]:
        done = run(
            *command, folder=tmp_path, DATABASE_URL=url, DATABASE_MIGRATION_URL=url, DATABASE_ADMIN_URL=url,
            DATABASE_BACKUP_URL=url,
        )  # fmt: skip
        assert SECRET not in done.stdout + done.stderr, command


def test_a_leaked_canary_is_found(capfd: pytest.CaptureFixture[str]) -> None:
    """The search finds a canary in a log, a suppressed cause, a note, a stream and an added output."""
    with collecting(capfd) as seen:
        logging.getLogger("x").debug("said %s", CONTENT)
        try:
            try:
                int(SECRET)
            except ValueError:
                raise TypeError("x") from None
        except TypeError as error:
            error.add_note(CONTENT)
            seen.note_error("an error", error)
        print(SECRET)  # noqa: T201 - the canary to find
    canary.MORE_SOURCES.append(lambda: SECRET)
    try:
        sources = {hit.split(":")[0] for hit in seen.hits()}
    finally:
        canary.MORE_SOURCES.pop()

    assert sources == {"log of x", "an error", "standard output", "more"}
