"""The steps of the random walk of three tenants: every public path, with and without faults."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
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
from src.database.store import get_store
from tests.acceptance.calls import CALLS, STORE_CALLS, Rows
from tests.faults.session_use import SessionUse, context_of
from tests.faults.three_tenants import TABLES, World, mark_of

__all__ = ["FAULTS", "STEPS", "Planned", "Step", "Walker", "undisturbed"]

MODELS = [User, Conversation, MessageHistory, Event, Note]
SCOPES: list[Any] = [get_db, get_read_db, lambda: get_read_db(read_your_writes=True)]
ALL_CALLS = [(repository, call) for repository, calls in CALLS.items() for call in calls.values()]


class Planned(Exception):
    """An error of a caller's own code inside a session."""


@dataclass
class Walker:
    """A caller: its tenant, and ids of rows that may belong to another tenant."""

    world: World
    dice: random.Random
    _deck: list[str] = field(default_factory=list)

    async def by_repository(self, current: UUID, rows: Rows) -> None:
        """Call some methods in one session of any kind."""
        async with self.dice.choice(SCOPES)() as session:
            if hasattr(session, "snapshot") and self.dice.random() < 0.3:
                await session.snapshot()
            for _ in range(self.dice.randrange(1, 4)):
                repository, call = self.dice.choice(ALL_CALLS)
                caught = (DatabaseError,) if self.dice.random() < 0.1 else ()
                with suppress(*caught):
                    self.world.see(current, await call.run(repository(session), rows))

    async def by_store(self, current: UUID, rows: Rows) -> None:
        for _ in range(self.dice.randrange(1, 3)):
            call = self.dice.choice(list(STORE_CALLS.values()))
            self.world.see(current, await call.run(get_store(), rows))

    async def by_raw_sql(self, current: UUID, rows: Rows) -> None:
        """Read without a predicate: only row-level security protects."""
        del rows
        async with self.dice.choice(SCOPES)() as session:
            for table in self.dice.sample(TABLES, 2):
                self.world.see(current, (await session.execute(text(f"SELECT * FROM {table}"))).all())

    async def by_mapped_query(self, current: UUID, rows: Rows) -> None:
        async with self.dice.choice(SCOPES)() as session:
            model: Any = self.dice.choice(MODELS)
            self.world.see(current, list(await session.scalars(select(model))))
            self.world.see(current, await session.get(model, rows.of(model)))
            for tenant in self.world.tenants:
                self.world.see(current, await session.get(model, (tenant, self.world.rows[tenant].of(model))))
            self.world.see(current, list(await session.scalars(select(User).options(selectinload(User.notes)))))

    async def by_stream(self, current: UUID, rows: Rows) -> None:
        """Read a part of the rows of a stream."""
        del rows
        async with self.dice.choice(SCOPES)() as session:
            model: Any = self.dice.choice(MODELS)
            result = await session.stream_scalars(select(model))
            async for row in result:
                self.world.see(current, row)
                if self.dice.random() < 0.3:
                    return

    async def with_own_setting(self, current: UUID, rows: Rows) -> None:
        """Bind the connection to another tenant by own SQL, and leave it so: the next user must not be affected."""
        del current, rows
        scope = self.dice.choice(SCOPES)
        async with scope() as session:
            await session.execute(text("SELECT 1"))
            for_good = text("SELECT set_config('app.tenant_id', :other, false)")
            await session.execute(for_good, {"other": str(self.dice.choice(self.world.tenants))})

    async def with_anothers_context(self, current: UUID, rows: Rows) -> None:
        """Use a session in the context of another tenant, where it raises, and then in its own context again."""
        other = self.dice.choice(self.world.others(current))
        async with self.dice.choice(SCOPES)() as session:
            self.world.see(current, await UserRepository(session).get_or_none(rows.user))
            asked: list[Callable[[], Awaitable[Any]]] = [
                lambda: UserRepository(session).count(),
                lambda: session.get(User, rows.user),
                lambda: session.execute(text("SELECT * FROM notes")),
                lambda: MessageHistoryRepository(session).recent(rows.conversation),
            ]
            with tenant_context(other), pytest.raises(TenantMismatchError):
                await self.dice.choice(asked)()
            self.world.see(current, list(await session.scalars(select(Note))))

    async def without_a_tenant(self, current: UUID, rows: Rows) -> None:
        """Read outside any context: as the default tenant, or with an error."""
        del current
        assert current_tenant() is None
        async with self.dice.choice(SCOPES)() as session:
            found = (await session.execute(text(f"SELECT * FROM {self.dice.choice(TABLES)}"))).all()
            if self.world.default is not None:
                self.world.see(self.world.default, [found, await UserRepository(session).get_or_none(rows.user)])
                return
            assert found == []
            with pytest.raises(NoTenantError):
                await UserRepository(session).get_or_none(rows.user)

    async def in_nested_contexts(self, current: UUID, rows: Rows) -> None:
        """Nest the contexts of two tenants, and use the session of each and the store when entering and leaving."""
        tenants = [current, rows.tenant]
        await self._nest([self.dice.choice(tenants) for _ in range(self.dice.randrange(2, 5))])

    async def _nest(self, tenants: list[UUID]) -> None:
        tenant, *inner = tenants
        with tenant_context(tenant):
            await self._write(tenant)
            if inner:  # without an open session: each pool has one connection
                await self._nest(inner)
            await self._write(tenant)
            self.world.see(tenant, await get_store().recent(self.world.rows[tenant].conversation))

    async def _write(self, tenant: UUID) -> None:
        """Insert a note in one of two ways, and read the notes."""
        async with get_db() as session:
            note = Note(user_id=self.world.rows[tenant].user, content=mark_of(tenant))
            if self.dice.random() < 0.5:
                session.add(note)
            else:
                await NoteRepository(session).add(note)
            self.world.see(tenant, list(await session.scalars(select(Note))))

    async def with_temporary_tables(self, current: UUID, rows: Rows) -> None:
        """Leave a temporary table with the name of one of our tables on a pooled connection, with copied rows."""
        del rows
        table = self.dice.choice(TABLES)
        async with get_db() as session:
            if await session.scalar(text(f"SELECT to_regclass('pg_temp.{table}')")) is not None:
                made_by = await session.scalar(text(f"SELECT obj_description('pg_temp.{table}'::regclass)"))
                owners = await session.scalars(text(f"SELECT DISTINCT tenant_id::text FROM pg_temp.{table}"))
                assert set(owners) <= {made_by}, f"the temporary {table} of {made_by} has received another's rows"
                await session.execute(text(f"DROP TABLE pg_temp.{table}"))
            await session.execute(text(f"CREATE TEMPORARY TABLE {table} (LIKE public.{table} INCLUDING DEFAULTS)"))
            await session.execute(text(f"COMMENT ON TABLE pg_temp.{table} IS '{current}'"))
            await session.execute(text(f"INSERT INTO pg_temp.{table} SELECT * FROM public.{table}"))

    async def after_its_block(self, current: UUID, rows: Rows) -> None:
        """Use a session after its block: nothing is sent, and nothing is accepted."""
        async with self.dice.choice(SCOPES)() as session:
            if self.dice.random() < 0.5:
                self.world.see(current, await UserRepository(session).get_or_none(rows.user))
        uses: list[Callable[[], Awaitable[Any]]] = [
            lambda: UserRepository(session).add(User()),
            lambda: UserRepository(session).get_or_none(rows.user),
            lambda: session.scalars(select(Note)),
            lambda: session.execute(text("SELECT * FROM notes")),
        ]
        with pytest.raises(DatabaseError) as raised:
            await self.dice.choice(uses)()
        assert type(raised.value).__name__ == "SessionClosed"

    async def with_an_error(self, current: UUID, rows: Rows) -> None:
        """Write, and end with an error: of the server, caught or not, or of the caller's own code."""
        async with get_db() as session:
            session.add(Note(user_id=self.world.rows[current].user, content=f"of-{current}"))
            await session.flush()
            if self.dice.random() < 0.5:
                with suppress(DatabaseError):
                    await session.execute(text("SELECT 1/0"))
                self.world.see(current, await UserRepository(session).get_or_none(rows.user))
            savepoint = await session.begin_nested()
            self.world.see(current, list(await session.scalars(select(Note))))
            await savepoint.rollback()
            self.world.see(current, (await session.execute(text("SELECT * FROM users"))).all())
            raise Planned

    async def writing_for_another(self, current: UUID, rows: Rows) -> None:
        """Try to insert, move and change rows of another tenant on every path: each attempt raises or has no effect."""
        other = self.dice.choice(self.world.others(current))
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

    def step(self) -> Step:
        """Choose the next step, its tenant and its rows. Each kind is chosen once before any is repeated."""
        if not self._deck:
            self._deck = self.dice.sample(STEPS, len(STEPS))
        name = self._deck.pop()
        current = self.dice.choice(self.world.tenants)
        other = self.dice.choice(self.world.others(current))
        if name == "use_a_session":
            use = SessionUse(self.world, self.dice, current, other)
            return Step(name, use.involved, use.run)
        rows = self.world.rows[other if name == "in_nested_contexts" else self.dice.choice(self.world.tenants)]
        named = None if name in WITHOUT_CONTEXT else current

        async def run() -> None:
            with context_of(named):
                await getattr(self, name)(current, rows)

        return Step(name, {current, other} if name == "in_nested_contexts" else {current}, run)


@dataclass
class Step:
    """One step of the walk."""

    name: str
    involved: set[UUID]
    """The tenants whose rows the step may change."""
    run: Callable[[], Awaitable[None]]


STEPS = [
    *["by_repository"] * 5,
    *["by_store"] * 4,
    *["use_a_session"] * 6,
    *["with_temporary_tables"] * 2,
    "by_raw_sql",
    "by_mapped_query",
    "by_stream",
    "with_own_setting",
    "with_anothers_context",
    "without_a_tenant",
    "in_nested_contexts",
    "after_its_block",
    "with_an_error",
    "writing_for_another",
]
WITHOUT_CONTEXT = {"without_a_tenant", "in_nested_contexts"}


async def undisturbed(walker: Walker, run: Callable[[], Awaitable[None]]) -> None:
    del walker
    await run()


async def cancelled(walker: Walker, run: Callable[[], Awaitable[None]]) -> None:
    """Cancel the step at a random moment, possibly twice."""
    task = asyncio.ensure_future(run())
    for _ in range(walker.dice.randrange(1, 3)):
        await asyncio.sleep(walker.dice.random() * 0.008)
        task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def killed(walker: Walker, run: Callable[[], Awaitable[None]]) -> None:
    """Terminate the connection of the step at a random moment."""
    task = asyncio.ensure_future(run())
    await asyncio.sleep(walker.dice.random() * 0.008)
    walker.world.end_all_connections()
    await task


async def killed_before(walker: Walker, run: Callable[[], Awaitable[None]]) -> None:
    walker.world.end_all_connections()
    await run()


FAULTS = [*[undisturbed] * 6, *[cancelled] * 3, killed, killed_before]
