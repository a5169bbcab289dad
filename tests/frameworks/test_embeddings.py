"""The page on embeddings: its table, its migration and its search, with two tenants and deletions."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from textwrap import dedent, indent

import pytest
from sqlalchemy import make_url

from src.database.embedded import SUPERUSER
from tests.conftest import url_of
from tests.wheels import run

PAGE = Path(__file__).parents[2] / "docs" / "embeddings.md"
BLOCK = re.compile(r"^```(ini|python|console)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
THEA_DB = "import sys; from src.database.cli import main; sys.exit(main())"
PRINTED_BY_THE_PAGE = """\
0.29 We meet in the cafe
0.99 The train is at the station
0.99 My cat sleeps
"""
PROGRAM = """
import asyncio

from memory.embeddings import EmbeddingRepository
from memory.models import MessageEmbedding
from src.database import get_db, tenant_context
from src.database.base import utc_now
from src.database.errors import DatabaseError
from src.database.models import MessageHistory, User
from src.database.repositories import (
    ConversationRepository, MessageHistoryRepository, TenantRepository, UserRepository
)
from src.database.statements import NewMessage

TEXTS = ["We meet in the cafe", "The train is at the station", "My cat sleeps"]


async def embed(text):
    counts = [float(text.lower().count(word)) for word in ("cafe", "meet", "station", "cat")]
    return [*counts, 0.1, *[0.0] * 379]


async def use_page(session, user, message):
PAGE


async def fill(session, user):
    conversation, _ = await ConversationRepository(session).open(f"chat of {user.id}", user.id)
    messages = [NewMessage(message_id=f"{user.id}:{n}", role="user", content=text) for n, text in enumerate(TEXTS)]
    appended = await MessageHistoryRepository(session).append_many(conversation.id, messages)
    first, *others = [one.message for one in appended]
    await EmbeddingRepository(session).add_many([
        MessageEmbedding(message_id=other.id, user_id=user.id, embedding=await embed(other.content))
        for other in others
    ])
    await use_page(session, user, first)
    return conversation.id, first.id


async def main():
    async with get_db() as session:
        acme, globex = [(await TenantRepository(session).get_by_slug(slug)).id for slug in ("acme", "globex")]
    with tenant_context(globex):
        async with get_db() as session:
            stranger = await UserRepository(session).add(User())
            await fill(session, stranger)
    with tenant_context(acme):
        async with get_db() as session:
            user, other = await UserRepository(session).add_many([User(), User()])
            chat, first = await fill(session, user)
            await fill(session, other)
        try:
            async with get_db() as session:
                await EmbeddingRepository(session).nearest(user.id, [1.0, 2.0])
        except DatabaseError as error:
            print(type(error).__name__, error)
        async with get_db() as session:
            messages, embeddings = MessageHistoryRepository(session), EmbeddingRepository(session)
            conversations, users = ConversationRepository(session), UserRepository(session)

            async def nearest(user):
                return [message.content for message, _ in await embeddings.nearest(user.id, await embed("cafe"))]

            print("all", await nearest(user), await embeddings.count())
            print("of another tenant", await nearest(stranger))
            await messages.delete(first)
            print("without deleted", await nearest(user))
            await messages.delete(first, hard=True)
            print("left", await embeddings.count(MessageEmbedding.user_id == user.id))
            await conversations.delete(chat)
            print("of deleted conversations", await nearest(user))
            await conversations.restore(chat)
            rows = [row["row"] async for row in users.export(other.id) if row["table"] == "message_embeddings"]
            print("exported", len(rows), rows[0]["embedding"][:12])
            print("erased", (await users.erase(other.id))["message_embeddings"])
            print("purged", await messages.purge(utc_now()), await embeddings.count())


asyncio.run(main())
"""


@pytest.mark.slow
def test_the_page_on_embeddings_works_with_two_tenants(tmp_path: Path, empty_database: str) -> None:
    as_superuser = url_of("postgres", SUPERUSER).render_as_string()

    def thea_db(arguments: str, **variables: str) -> str:
        environment = {"ENVIRONMENT": "test", "DATABASE_URL": empty_database, **variables}
        return run(sys.executable, "-P", "-c", THEA_DB, *arguments.split(), folder=tmp_path, **environment)

    used = ""
    for language, block in BLOCK.findall(PAGE.read_text()):
        if block.startswith("# migrations/"):
            [file] = (tmp_path / "migrations" / "versions").glob("*_embeddings.py")
            file.write_text(with_lines(file.read_text(), block))
        elif block.startswith("# "):
            path = tmp_path / block.splitlines()[0].removeprefix("# ")
            path.parent.mkdir(exist_ok=True)
            path.write_text(block)
        elif language == "python":
            used = indent(block, "    ")
        for command in block.splitlines() if language == "console" else ():
            program, _, arguments = command.replace('"', "").partition(" ")
            if program == "mkdir":
                (tmp_path / arguments).mkdir()
            else:
                thea_db(arguments, DATABASE_URL=as_superuser if "check" in arguments else empty_database)
    for slug in ("acme", "globex"):
        thea_db(f"tenant create {slug} {slug}")
    program = PROGRAM.replace("PAGE", used)
    printed = run(sys.executable, "-c", program, folder=tmp_path, DATABASE_URL=empty_database)
    thea_db("verify")
    as_administrator = make_url(empty_database).set(username=SUPERUSER).render_as_string()
    thea_db("backup all.dump --verify", DATABASE_BACKUP_URL=as_administrator, DATABASE_ADMIN_URL=as_administrator)

    assert printed == 3 * PRINTED_BY_THE_PAGE + dedent("""\
        DatabaseError the server refused a value (SQLSTATE 22000)
        all ['We meet in the cafe', 'The train is at the station', 'My cat sleeps'] 6
        of another tenant []
        without deleted ['The train is at the station', 'My cat sleeps']
        left 2
        of deleted conversations []
        exported 3 [0,0,1,0,0.1
        erased 3
        purged 2 0
        """)


def with_lines(revision: str, block: str) -> str:
    """Return a generated revision with the lines that the page adds to `upgrade`."""
    extension, protect = (line for line in block.splitlines() if line.startswith(("op.execute", "protect")))
    start, end = "def upgrade() -> None:\n", "    op.create_index("
    before, after = revision.replace(start, f"{start}    {extension}\n", 1).split(end, 1)
    return f"{before}    {protect}\n{end}{after}"
