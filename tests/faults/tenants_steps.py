"""What a tenant can do, on every public path, and what can go wrong while he does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import selectinload

from src.database import current_tenant, get_db, get_read_db, tenant_context
from src.database.base import tenant_tables, uuid7
from src.database.errors import DatabaseError, NoTenantError, TenantMismatchError
from src.database.models import Conversation, Event, MessageHistory, Note, User
from src.database.repositories import MessageHistoryRepository, NoteRepository, UserRepository
from src.database.store import Store, get_store
from tests.acceptance.calls import CALLS, Rows, a_message
from tests.faults.three_tenants import TABLES, World

__all__ = ["FAULTS", "STEPS", "STORE_CALLS", "Planned", "Walker", "streamed_by_store"]

MODELS = [User, Conversation, MessageHistory, Event, Note]
SCOPES: list[Any] = [get_db, get_read_db, lambda: get_read_db(read_your_writes=True)]
ALL_CALLS = [(repository, call) for repository, calls in CALLS.items() for call in calls.values()]
MAKING: list[Callable[[Any, Rows], Awaitable[Any]]] = [
    lambda session, _: UserRepository(session).get_or_create_by_telegram_id(1),
    lambda session, _: UserRepository(session).upsert({"telegram_id": 1, "username": "x"}, key=["telegram_id"]),
    lambda session, rows: NoteRepository(session).add(Note(user_id=rows.user, content="secret")),
    lambda session, rows: NoteRepository(session).add_many([Note(user_id=rows.user, content="x") for _ in range(2)]),
]
STORE_CALLS: list[Callable[[Store, Rows], Awaitable[Any]]] = [
    lambda store, _: store.user_by_telegram_id(1),
    lambda store, _: store.get_or_create_user(1),
    lambda store, rows: store.append(rows.conversation, a_message(str(uuid7()))),
    lambda store, rows: store.append_many(rows.conversation, [a_message("same"), a_message(str(uuid7()))]),
    lambda store, rows: store.recent(rows.conversation),
    lambda store, rows: store.recent(rows.conversation, token_budget=100),
    lambda store, rows: store.page(rows.conversation, limit=1),
    lambda store, _: store.turn(1, "telegram", "1", [a_message(str(uuid7()))]),
    lambda store, _: store.turn(2, "telegram", "1", [a_message("same")]),
    lambda store, _: store.claim_due_reminders("w"),
    lambda store, rows: streamed_by_store(store, rows, most=1),
    lambda store, rows: streamed_by_store(store, rows, most=1000),
]


class Planned(Exception):
    """What a caller's own code raised inside of a session."""


async def streamed_by_store(store: Store, rows: Rows, *, most: int) -> list[Any]:
    found = []
    async with aclosing(store.stream_messages(rows.user)) as messages:
        async for message in messages:
            found.append(message)
            if len(found) == most:
                break
    return found


@dataclass
class Walker:
    """Who does things: a tenant acts, upon rows that may be another's."""

    world: World
    dice: random.Random

    async def by_repository(self, acting: UUID, rows: Rows) -> None:
        """Call some methods in one session, of any kind."""
        async with self.dice.choice(SCOPES)() as session:
            if hasattr(session, "snapshot") and self.dice.random() < 0.3:
                await session.snapshot()
            for _ in range(self.dice.randrange(1, 4)):
                repository, call = self.dice.choice(ALL_CALLS)
                found = None
                if self.dice.random() < 0.9:
                    caught = (DatabaseError,) if self.dice.random() < 0.1 else ()
                    with suppress(*caught):
                        found = await call.run(repository(session), rows)
                else:
                    found = await self.dice.choice(MAKING)(session, rows)
                self.world.see(acting, found)

    async def by_store(self, acting: UUID, rows: Rows) -> None:
        for _ in range(self.dice.randrange(1, 3)):
            self.world.see(acting, await self.dice.choice(STORE_CALLS)(get_store(), rows))

    async def by_raw_sql(self, acting: UUID, rows: Rows) -> None:
        """Ask without any predicate: row-level security stands alone."""
        del rows
        async with self.dice.choice(SCOPES)() as session:
            for table in self.dice.sample(TABLES, 2):
                self.world.see(acting, (await session.execute(text(f"SELECT * FROM {table}"))).all())

    async def by_mapped_query(self, acting: UUID, rows: Rows) -> None:
        async with self.dice.choice(SCOPES)() as session:
            model: Any = self.dice.choice(MODELS)
            self.world.see(acting, list(await session.scalars(select(model))))
            self.world.see(acting, await session.get(model, rows.of(model)))
            for tenant in self.world.tenants:
                self.world.see(acting, await session.get(model, (tenant, self.world.rows[tenant].of(model))))
            self.world.see(acting, list(await session.scalars(select(User).options(selectinload(User.notes)))))

    async def by_stream(self, acting: UUID, rows: Rows) -> None:
        """Take some rows, and leave the rest."""
        del rows
        async with self.dice.choice(SCOPES)() as session:
            model: Any = self.dice.choice(MODELS)
            result = await session.stream_scalars(select(model))
            async for row in result:
                self.world.see(acting, row)
                if self.dice.random() < 0.3:
                    return

    async def with_his_own_setting(self, acting: UUID, rows: Rows) -> None:
        """Bind the connection to another by one's own SQL, and leave it so: the next one must not notice."""
        del acting, rows
        scope = self.dice.choice(SCOPES)
        async with scope() as session:
            await session.execute(text("SELECT 1"))
            for_good = text("SELECT set_config('app.tenant_id', :other, false)")
            await session.execute(for_good, {"other": str(self.dice.choice(self.world.tenants))})

    async def with_anothers_context(self, acting: UUID, rows: Rows) -> None:
        """Go on with a session while another tenant's context is open: it refuses, and serves its own again."""
        other = self.dice.choice(self.world.others(acting))
        async with self.dice.choice(SCOPES)() as session:
            self.world.see(acting, await UserRepository(session).get_or_none(rows.user))
            asked: list[Callable[[], Awaitable[Any]]] = [
                lambda: UserRepository(session).count(),
                lambda: session.get(User, rows.user),
                lambda: session.execute(text("SELECT * FROM notes")),
                lambda: MessageHistoryRepository(session).recent(rows.conversation),
            ]
            with tenant_context(other), pytest.raises(TenantMismatchError):
                await self.dice.choice(asked)()
            self.world.see(acting, list(await session.scalars(select(Note))))

    async def by_nobody(self, acting: UUID, rows: Rows) -> None:
        """Ask where no tenant acts, in a task that knows of none."""
        del acting

        async def ask() -> None:
            async with self.dice.choice(SCOPES)() as session:
                assert (await session.execute(text(f"SELECT * FROM {self.dice.choice(TABLES)}"))).all() == []
                with pytest.raises(NoTenantError):
                    await UserRepository(session).get_or_none(rows.user)

        with tenant_context(self.world.tenants[0]):
            pass
        assert current_tenant() is None
        await ask()

    async def with_an_error(self, acting: UUID, rows: Rows) -> None:
        """Write, and end in an error: the server's, caught or not, or one of one's own."""
        async with get_db() as session:
            session.add(Note(user_id=self.world.rows[acting].user, content=f"of-{acting}"))
            await session.flush()
            if self.dice.random() < 0.5:
                with suppress(DatabaseError):
                    await session.execute(text("SELECT 1/0"))
                self.world.see(acting, await UserRepository(session).get_or_none(rows.user))
            savepoint = await session.begin_nested()
            self.world.see(acting, list(await session.scalars(select(Note))))
            await savepoint.rollback()
            self.world.see(acting, (await session.execute(text("SELECT * FROM users"))).all())
            raise Planned

    async def writing_for_another(self, acting: UUID, rows: Rows) -> None:
        """Try to make, move and change rows of another by every way there is; all of it is refused or does nothing."""
        other = self.dice.choice(self.world.others(acting))
        table = self.dice.choice(tenant_tables()).name
        ways: list[Callable[[Any], Awaitable[Any]]] = [
            lambda session: session.execute(
                text("INSERT INTO users (tenant_id, id) VALUES (:other, :id)"), {"other": other, "id": uuid7()}
            ),
            lambda session: session.execute(text(f"UPDATE {table} SET tenant_id = :other"), {"other": other}),
            lambda session: session.execute(
                text(f"UPDATE {table} SET metadata = '{{}}' WHERE tenant_id = :other"), {"other": other}
            ),
            lambda session: session.execute(text(f"DELETE FROM {table} WHERE tenant_id = :other"), {"other": other}),
            lambda session: session.merge(Note(tenant_id=other, id=rows.note, user_id=rows.user, content="stolen")),
            lambda session: UserRepository(session).add(User(tenant_id=other)),
            lambda session: NoteRepository(session).add(Note(user_id=self.world.rows[other].user, content="x")),
        ]
        async with get_db() as session:
            await self.dice.choice(ways)(session)

    def step(self) -> tuple[str, UUID, Callable[[], Awaitable[None]]]:
        """Choose what is done next, by whom, upon whose rows."""
        acting = self.dice.choice(self.world.tenants)
        name = self.dice.choice(STEPS)
        rows = self.world.rows[self.dice.choice(self.world.tenants)]

        async def run() -> None:
            if name == "by_nobody":
                await self.by_nobody(acting, rows)
                return
            with tenant_context(acting):
                await getattr(self, name)(acting, rows)

        return name, acting, run


STEPS = [
    *["by_repository"] * 5,
    *["by_store"] * 4,
    "by_raw_sql",
    "by_mapped_query",
    "by_stream",
    "with_his_own_setting",
    "with_anothers_context",
    "by_nobody",
    "with_an_error",
    "writing_for_another",
]


async def undisturbed(walker: Walker, run: Callable[[], Awaitable[None]]) -> None:
    del walker
    await run()


async def cancelled(walker: Walker, run: Callable[[], Awaitable[None]]) -> None:
    """Cancel it at some moment, perhaps twice."""
    task = asyncio.ensure_future(run())
    for _ in range(walker.dice.randrange(1, 3)):
        await asyncio.sleep(walker.dice.random() * 0.008)
        task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def killed(walker: Walker, run: Callable[[], Awaitable[None]]) -> None:
    """Have the server end the connection that it uses, at some moment."""
    task = asyncio.ensure_future(run())
    await asyncio.sleep(walker.dice.random() * 0.008)
    walker.world.end_all_connections()
    await task


async def killed_before(walker: Walker, run: Callable[[], Awaitable[None]]) -> None:
    walker.world.end_all_connections()
    await run()


FAULTS = [*[undisturbed] * 6, *[cancelled] * 3, killed, killed_before]
