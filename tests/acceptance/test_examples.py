"""The examples of docstrings, and the code of README.md and of pages of docs/, run against a real database.

An example may use without importing them: the public names of `src.database`, its models, repositories, store and
health; `asyncio`, `datetime`, `timedelta`, `UTC`, `select`, `asynccontextmanager`, `AsyncIterator`, `FastAPI` as an
annotation; the `settings`; the `response` of an endpoint; a session of `get_db` as `session`; a user of the current
tenant with a conversation, an event and a note: `user`, `conversation`, `event`, `note`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Final

import pytest
from sqlalchemy import URL, select, text
from sqlalchemy.orm import selectinload

from src import database
from src.config import get_settings
from src.database import engine, get_db, health, models, repositories, store
from src.database.models import Event, Note
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    NewMessage,
    NoteRepository,
    UserRepository,
)
from src.database.session.scopes import read_engine
from src.database.store import get_store
from tests.acceptance.documented import ROOT, blocks, examples, run

PACKAGES: Final = (database, health, models, repositories, store)
EXAMPLES: Final = examples()
MOST_USED: Final = {
    *("get_db", "get_read_db", "get_engine", "get_store", "run_transaction", "tenant_context", "readiness"),
    *("Store.turn", "Store.recent"),
    *("Repository.get", "Repository.add", "Repository.update", "Repository.upsert", "Repository.page"),
    *("UserRepository.get_or_create_by_telegram_id", "UserRepository.export"),
    *("ConversationRepository.get_or_start", "ConversationRepository.claim_turn"),
    *("MessageHistoryRepository.append", "MessageHistoryRepository.recent"),
    *("EventRepository.occurrences", "EventRepository.claim_due_reminders", "NoteRepository.search"),
}


@pytest.fixture
async def names(cloned_database: URL) -> AsyncIterator[dict[str, Any]]:
    """The names that an example may use; the session commits after the example."""
    # `attributes` of the models is for type checkers, and imported at its first use.
    named = ((package, name) for package in PACKAGES for name in package.__all__)
    public = {name: getattr(package, name) for package, name in named if hasattr(package, name)}
    async with get_db() as session:
        user = await UserRepository(session).add(models.User(telegram_id=7, display_name="Ada"))
        conversation, _ = await ConversationRepository(session).get_or_start(user.id, "telegram", "7")
        start = datetime(2030, 1, 7, 9, tzinfo=UTC)
        event = await EventRepository(session).add(
            Event(user_id=user.id, title="Gym", start_datetime=start, rrule="FREQ=WEEKLY", timezone="Europe/Madrid")
        )
        note = await NoteRepository(session).add(Note(user_id=user.id, content="Buy milk", tags=["home"]))
        await MessageHistoryRepository(session).append(
            conversation.id, NewMessage(message_id="telegram:my_bot:7:1", role="user", content="Hello!")
        )
    async with get_db() as session:
        yield public | {
            "asyncio": asyncio,
            "datetime": datetime,
            "timedelta": timedelta,
            "UTC": UTC,
            "select": select,
            "selectinload": selectinload,
            "text": text,
            "AsyncIterator": AsyncIterator,
            "FastAPI": object,  # for an annotation
            "asynccontextmanager": asynccontextmanager,
            "settings": get_settings(),
            "response": SimpleNamespace(),
            "session": session,
            "user": user,
            "conversation": conversation,
            "event": event,
            "note": note,
        }
    await engine.dispose()
    await read_engine.dispose()


def test_the_most_used_functions_have_an_example() -> None:
    assert EXAMPLES.keys() >= MOST_USED


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
async def test_an_example_runs(name: str, names: dict[str, Any]) -> None:
    await run(EXAMPLES[name], f"<example of {name}>", names)


def test_the_code_of_the_readme_prints_what_was_appended(
    cloned_database: URL, capsys: pytest.CaptureFixture[str]
) -> None:
    [program] = blocks((ROOT / "README.md").read_text())

    exec(compile(program, "README.md", "exec"), {})  # noqa: S102 - the page's own code

    assert capsys.readouterr().out == "True ['Hello!']\n"


async def test_the_turn_of_choosing_a_path_appends_question_and_answer(names: dict[str, Any]) -> None:
    [turn] = blocks((ROOT / "docs" / "choosing-a-path.md").read_text())

    async def ask_the_model(_messages: list[str], _locale: str | None) -> str:
        return "Hi yourself"

    names["ask_the_model"] = ask_the_model
    await run(turn, "docs/choosing-a-path.md", names)

    recent = await get_store().recent(names["turn"].conversation.id)
    assert [message.content for message in recent] == ["Hi", "Hi yourself"]


async def test_the_page_of_users_merges_two_users(names: dict[str, Any]) -> None:
    [code] = blocks((ROOT / "docs" / "users.md").read_text())

    await run(code, "docs/users.md", names)

    assert names["turn"].user.id != names["ada"].id


async def test_the_report_of_the_health_page_can_be_read(names: dict[str, Any]) -> None:
    [code] = blocks((ROOT / "docs" / "operations" / "health.md").read_text())

    await run(code, "docs/operations/health.md", names)

    assert names["report"].can_serve
