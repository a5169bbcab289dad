"""Repository: pages in any order, invalid cursors, and streams in constant memory."""

from __future__ import annotations

import base64
import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.orm import InstrumentedAttribute

from src.database.base import uuid7
from src.database.models import Conversation, Event, Note, User
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    NoteRepository,
    Repository,
    UserRepository,
)
from src.database.session import AsyncSession
from src.database.statements.pagination import InvalidCursorError, decode_cursor, encode_cursor

SAME = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def users(session: AsyncSession) -> UserRepository:
    return UserRepository(session)


@pytest.fixture
async def seven(users: UserRepository) -> list[User]:
    rows = [
        User(
            is_active=n % 3 > 0,
            timezone=["UTC", "Europe/Madrid", "Asia/Tokyo"][n % 3],
            created_at=SAME + timedelta(microseconds=n % 2),
        )
        for n in range(7)
    ]
    users.session.add_all(rows)
    await users.session.flush()
    # No zone, so that an entity refuses it: cursors carry any text.
    odd = text("UPDATE users SET timezone = 'Ñandú «x»' WHERE tenant_id = :tenant AND timezone = 'Asia/Tokyo'")
    await users.session.execute(odd, {"tenant": users.session.tenant_id})
    for row in rows:
        await users.session.refresh(row)
    return rows


async def walk(repository: Repository[Any], **order: Any) -> list[Any]:
    seen: list[Any] = []
    cursor = None
    while True:
        page = await repository.page(limit=2, after=cursor, **order)
        seen += page.items
        if (cursor := page.next_cursor) is None:
            return seen


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("order_by", [None, User.id, User.created_at, User.is_active, User.timezone])
async def test_pages_go_through_ties_without_a_hole_or_a_repetition(
    users: UserRepository, seven: list[User], order_by: InstrumentedAttribute[Any] | None, descending: bool
) -> None:
    seen = await walk(users, order_by=order_by, descending=descending)

    keys = [(getattr(user, order_by.key), user.id) if order_by is not None else user.id for user in seen]
    assert sorted(user.id for user in seen) == sorted(user.id for user in seven)
    assert keys == sorted(keys, reverse=descending) or order_by is User.timezone  # the server's collation


@pytest.mark.parametrize("descending", [False, True])
async def test_pages_by_numbers_and_by_wall_clock_time(session: AsyncSession, user: User, descending: bool) -> None:
    events = await EventRepository(session).add_many(
        [Event(user_id=user.id, title="x", start_datetime=SAME, reminder_attempts=n % 2) for n in range(5)]
    )
    chats = await ConversationRepository(session).add_many(
        [
            Conversation(user_id=user.id, channel=str(n), session_id=str(uuid7()), last_seq=2**62 + n % 2)
            for n in range(5)
        ]
    )

    for order_by in (Event.start_local, Event.reminder_attempts):
        assert len(await walk(EventRepository(session), order_by=order_by, descending=descending)) == len(events)
    by_number = await walk(ConversationRepository(session), order_by=Conversation.last_seq, descending=descending)
    assert len(by_number) == len(chats)


@pytest.mark.parametrize(
    ("repository", "order_by"),
    [
        (UserRepository, User.preferences),
        (NoteRepository, Note.tags),
        (NoteRepository, Note.search),
        (UserRepository, User.created_at.desc()),
        (UserRepository, text("created_at")),
        (UserRepository, User.notes),
        (UserRepository, User.__table__.c.created_at),
    ],
)
async def test_an_attribute_without_an_order_is_rejected(
    session: AsyncSession, repository: type[Repository[Any]], order_by: Any
) -> None:
    with pytest.raises(ValueError, match=r"order_by must be a mapped attribute.*`descending=True`"):
        await repository(session).page(order_by=order_by)


FORGED: list[Any] = [
    [],
    [["plain", 1]],
    [["plain", float("nan")], ["uuid", str(UUID(int=1))]],
    [["plain", 2**63], ["uuid", str(UUID(int=1))]],
    [["plain", -(2**63) - 1], ["uuid", str(UUID(int=1))]],
    [["plain", 10**400], ["uuid", str(UUID(int=1))]],
    [["plain", True], ["uuid", str(UUID(int=1))]],
    [["plain", "1"], ["uuid", str(UUID(int=1))]],
    [["plain", None], ["uuid", str(UUID(int=1))]],
    [["plain", 1], ["uuid", "x"]],
    [["plain", 1], ["uuid", 1]],
    [["plain", 1], ["plain", str(UUID(int=1))]],
    [["plain", 1], ["unknown", 1]],
    [["plain", 1, 2], ["uuid", str(UUID(int=1))]],
    {"plain": 1},
    None,
]


def signed(body: bytes, scope: str) -> str:
    """Forge a cursor with the right signature, as a reader of the code can."""
    from src.database.statements.pagination import _signature  # noqa: PLC0415 - what a forger does

    return base64.urlsafe_b64encode(_signature(body, scope) + body).decode().rstrip("=")


@pytest.mark.parametrize("values", FORGED)
async def test_a_forged_cursor_is_rejected_before_a_statement_is_sent(session: AsyncSession, values: Any) -> None:
    scope = f"conversations:last_seq,id:False:{session.tenant_id}"

    with pytest.raises(InvalidCursorError):
        await ConversationRepository(session).page(
            order_by=Conversation.last_seq, after=signed(json.dumps(values).encode(), scope)
        )


@pytest.mark.parametrize(
    "value", ["2030-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "x", 5, "2030"]
)
async def test_a_forged_time_is_rejected(users: UserRepository, value: Any) -> None:
    body = json.dumps([["datetime", value], ["uuid", str(UUID(int=1))]]).encode()
    scope = f"users:created_at,id:False:{users.session.tenant_id}"

    with pytest.raises(InvalidCursorError):
        await users.page(order_by=User.created_at, after=signed(body, scope))


@pytest.mark.parametrize("body", [b"[" * 100_000, b"\xff", b"", b'[["plain",1', b"1" * 5000])
def test_an_unreadable_body_is_an_invalid_cursor(body: bytes) -> None:
    with pytest.raises(InvalidCursorError, match="got a text that is none; begin again without a cursor"):
        decode_cursor(signed(body, "x"), scope="x")


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.text(), st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode())))
def test_any_other_text_is_an_invalid_cursor(cursor: str) -> None:
    with pytest.raises(InvalidCursorError):
        decode_cursor(cursor, scope="x")


VALUES = st.one_of(
    st.integers(), st.text(st.characters(exclude_categories=["Cs"])), st.booleans(), st.uuids(), st.datetimes()
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(VALUES, min_size=1), st.integers(min_value=0), st.integers(1, 255))
def test_a_cursor_has_its_values_and_no_character_can_change(values: list[Any], place: int, change: int) -> None:
    cursor = encode_cursor(values, scope="x")

    assert decode_cursor(cursor, scope="x") == values
    raw = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    raw[place % len(raw)] ^= change
    for scope, forged in (("y", cursor), ("x", base64.urlsafe_b64encode(raw).decode())):
        with pytest.raises(InvalidCursorError):
            decode_cursor(forged, scope=scope)


@pytest.mark.parametrize("cursor", [b"AAAA", 5, object()])
async def test_a_cursor_is_text(users: UserRepository, cursor: Any) -> None:
    with pytest.raises(InvalidCursorError):
        await users.page(after=cursor)


async def test_a_cursor_of_another_tenant_is_rejected(users: UserRepository, seven: list[User]) -> None:
    other = encode_cursor([seven[0].id], scope=f"users:id:False:{uuid7()}")

    with pytest.raises(InvalidCursorError, match="got a changed one or that of another query"):
        await users.page(after=other)


@pytest.mark.slow
async def test_a_stream_holds_a_few_hundred_rows_at_a_time(users: UserRepository) -> None:
    await users.session.execute(
        text(
            "INSERT INTO users (tenant_id, id, username)"
            " SELECT :tenant, gen_random_uuid(), 'u' || n FROM generate_series(1, 6000) AS n"
        ),
        {"tenant": users.session.tenant_id},
    )
    count = 0
    tracemalloc.start()
    try:
        async for _ in users.stream():
            count += 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert count == 6_000
    assert peak < 5 * 2**20, "loading all rows takes several times as much"
