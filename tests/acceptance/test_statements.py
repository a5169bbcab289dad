"""How many SQL statements each repository method sends: one more than before is seen here."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event

from src.database.repositories import Repository
from src.database.tenancy import AsyncSession
from tests.acceptance.calls import CALLS, Call, fill

CASES = [
    pytest.param(repository, call, id=f"{repository.__name__}.{name}")
    for repository, calls in CALLS.items()
    for name, call in calls.items()
    if call.statements is not None
]


@pytest.mark.parametrize(("repository", "call"), CASES)
async def test_the_number_of_statements(session: AsyncSession, repository: type[Repository[Any]], call: Call) -> None:
    rows = await fill(session)
    session.expunge_all()
    await session.connection()
    sent: list[str] = []
    connection = (await session.connection()).sync_connection
    event.listen(connection, "before_cursor_execute", lambda *cursor: sent.append(cursor[2]))

    await call.run(repository(session), rows)

    assert len(sent) == call.statements, "\n".join(sent)
