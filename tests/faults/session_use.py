"""Random uses of one session: rows are added, merged and deleted, contexts nest, and connections are lost."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from sqlalchemy import select, text

from src.database import get_db, get_read_db, tenant_context
from src.database.base import uuid7
from src.database.errors import ConnectionFailed, DatabaseError, NoTenantError, TenantMismatchError, TransactionAborted
from src.database.models import MessageHistory, Note, User
from src.database.repositories import MessageHistoryRepository, NoteRepository, UserRepository
from tests.faults.three_tenants import World, mark_of, parts_of

__all__ = ["SessionUse", "context_of"]

READ_SCOPES: Final[list[Any]] = [get_read_db, lambda: get_read_db(read_your_writes=True)]
READS: Final = ["read_one", "read_many", "read_found", "read_recent", "read_mapped", "read_raw"]
WRITES: Final = ["add", "add", "add_all", "merge", "merge_detached", "delete"]
LOSE: Final = "lose"
FLUSH: Final = "flush"
LONGEST: Final = 6


def context_of(tenant_id: UUID | None) -> AbstractContextManager[Any]:
    """Return the context of a tenant, or an empty context for None."""
    return nullcontext() if tenant_id is None else tenant_context(tenant_id)


@dataclass
class Kept:
    """Rows of a tenant that only this plan uses."""

    user: UUID
    detached: Note
    merged: UUID
    deleted: list[Note]


@dataclass
class SessionUse:
    """A random plan for one session, whose results are compared with the guarantees of a session.

    The session takes the current tenant at its first use of any kind and keeps it, even if its connection is lost.
    A use or a flush in the context of another tenant raises TenantMismatchError, for a write at the latest when the
    block ends. Acknowledged rows are stored for the tenant that the caller named.
    """

    world: World = field(repr=False)
    dice: random.Random = field(repr=False)
    current: UUID
    other: UUID
    outer: UUID | None = None
    """The tenant of the context around the block."""
    plan: list[tuple[UUID | None, str]] = field(default_factory=list)
    """The tenant of the context around each use, and the use."""
    is_writing: bool = True
    took: UUID | None = None
    """The tenant that the session has taken."""
    must_fail: str = ""
    """The reason why the block must end with an error."""
    added: dict[UUID, UUID] = field(default_factory=dict)
    """The new notes, and their tenants."""
    refused: set[UUID] = field(default_factory=set)
    """The notes that were rejected when they were added."""
    removed: set[UUID] = field(default_factory=set)
    is_lost: bool = False
    kept: dict[UUID, Kept] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        dice = self.dice
        self.outer = dice.choice([None, None, self.current, self.other])
        self.is_writing = dice.random() < 0.6
        uses = [*READS, *WRITES, FLUSH, LOSE] if self.is_writing else [*READS, LOSE, LOSE, LOSE, "add"]
        contexts = [*[self.current] * 5, *[None] * 3, self.other]
        self.plan = [(dice.choice(contexts), dice.choice(uses)) for _ in range(dice.randrange(1, LONGEST))]

    @property
    def involved(self) -> set[UUID]:
        """The tenants of the plan: rows of other tenants must not change."""
        named = {self.current, self.outer, self.world.default, *(context for context, _ in self.plan)}
        return {tenant for tenant in named if tenant is not None}

    async def run(self) -> None:
        """Run the plan, only in contexts of the plan."""
        for tenant in self.involved:
            self.kept[tenant] = await self._keep(tenant)
        scope: Any = get_db if self.is_writing else self.dice.choice(READ_SCOPES)
        error: DatabaseError | None = None
        try:
            with context_of(self.outer):
                async with scope() as session:
                    for context, use in self.plan:
                        with context_of(context):
                            await self._use(session, use, context or self.outer)
                    self._foresee_the_end(session)
        except (TenantMismatchError, NoTenantError) as refusal:
            if not self.must_fail:
                raise AssertionError(f"{refusal!r} without a reason; {self}") from refusal
            error = refusal
        assert error or not self.must_fail, f"no error, although {self.must_fail}; {self}"
        self._check_what_is_stored(was_refused=error is not None)
        if error:
            raise error

    async def _keep(self, tenant: UUID) -> Kept:
        with tenant_context(tenant):
            async with get_db() as session:
                user = User(id=uuid7(), display_name=mark_of(tenant))
                session.add(user)
                await session.flush()
                notes = [_note(tenant, user.id) for _ in range(2 + LONGEST)]
                session.add_all(notes)
        return Kept(user.id, notes[0], notes[1].id, notes[2:])

    async def _use(self, session: Any, use: str, named: UUID | None) -> None:
        if use == LOSE:
            self.world.end_all_connections()
            self.is_lost = True
            return
        if use == FLUSH and not _has_changes(session):
            return
        tenant = self.took or named or self.world.default
        call: Callable[[Any, UUID], Awaitable[None]] = getattr(self, f"_{use}")
        if tenant is None:
            if use in ("merge_detached", "delete"):  # rows with a tenant, used without a tenant: both results are right
                return
            await self._be_refused(NoTenantError, use, lambda: call(session, self.current))
        elif named is not None and named != tenant:
            await self._be_refused(TenantMismatchError, use, lambda: call(session, named if use in WRITES else tenant))
        else:
            self.took = tenant
            try:
                await call(session, tenant)
            except (ConnectionFailed, TransactionAborted):
                # A read session continues, unless its failed flush has discarded a new row.
                if self.is_writing or self.added or not self.is_lost or self.dice.random() < 0.3:
                    raise

    async def _be_refused(self, kind: type[DatabaseError], use: str, call: Callable[[], Awaitable[None]]) -> None:
        """Check that a use raises: immediately if it sends a statement, for a write at the end of the block."""
        before = set(self.added)
        try:
            await call()
        except kind:
            for note in self.added.keys() - before:
                self.refused.add(note)
                del self.added[note]
            return
        if kind is NoTenantError and use == "read_raw":
            return  # only row-level security: no row was found
        assert use in WRITES, f"{use} in place of {kind.__name__}; {self}"
        if kind is TenantMismatchError:
            self.must_fail = f"{use} was in another tenant's context"

    def _foresee_the_end(self, session: Any) -> None:
        if not _has_changes(session):
            return
        if not self.is_writing:
            self.must_fail = "a session for reading has changes"
        elif self.took is None and self.outer is None:
            self.must_fail = "the flush at the end is for no tenant"
        elif self.took is not None and self.outer not in (None, self.took):
            self.must_fail = "the flush at the end is in another tenant's context"

    def _check_what_is_stored(self, *, was_refused: bool) -> None:
        stored = self.world.tenants_of_notes([*self.added, *self.refused, *self.removed])
        expected = {note: tenant for note, tenant in self.added.items() if not was_refused}
        if was_refused:
            stored = {note: tenant for note, tenant in stored.items() if note not in self.removed}
        assert stored == expected, f"stored are {stored}, acknowledged {expected}; {self}"

    async def _add(self, session: Any, tenant: UUID) -> None:
        session.add(self._new(tenant))

    async def _add_all(self, session: Any, tenant: UUID) -> None:
        session.add_all([self._new(tenant), self._new(tenant)])

    async def _merge(self, session: Any, tenant: UUID) -> None:
        kept = self.kept[tenant]
        await session.merge(Note(id=kept.merged, user_id=kept.user, content=mark_of(tenant), title="merged"))

    async def _merge_detached(self, session: Any, tenant: UUID) -> None:
        note = self.kept[tenant].detached
        note.title = "merged"
        await session.merge(note)

    async def _delete(self, session: Any, tenant: UUID) -> None:
        note = self.kept[tenant].deleted.pop()
        await session.delete(next((row for row in session if isinstance(row, Note) and row.id == note.id), note))
        self.removed.add(note.id)

    async def _flush(self, session: Any, _: UUID) -> None:
        await session.flush()

    async def _read_one(self, session: Any, tenant: UUID) -> None:
        found = await UserRepository(session).get_or_none(self.kept[tenant].user)
        self._check(found, {self.kept[tenant].user}, tenant)

    async def _read_many(self, session: Any, tenant: UUID) -> None:
        found = await UserRepository(session).get_many([kept.user for kept in self.kept.values()])
        self._check(found, {self.kept[tenant].user}, tenant)

    async def _read_found(self, session: Any, tenant: UUID) -> None:
        found = await NoteRepository(session).search(self.kept[tenant].user, "kept", limit=100)
        self._check(found, {self.kept[tenant].user}, tenant)

    async def _read_recent(self, session: Any, tenant: UUID) -> None:
        conversation = self.world.rows[tenant].conversation
        self.world.see(tenant, await MessageHistoryRepository(session).recent(conversation))

    async def _read_mapped(self, session: Any, tenant: UUID) -> None:
        self.world.see(tenant, list(await session.scalars(select(MessageHistory))))
        found = list(await session.scalars(select(Note).where(Note.title == "kept")))
        self._check(found, {self.kept[tenant].user}, tenant)

    async def _read_raw(self, session: Any, tenant: UUID) -> None:
        found = (await session.execute(text("SELECT * FROM notes"))).all()
        if self.took is None:
            assert found == [], f"read without a tenant: {found}; {self}"
        else:
            self._check(found, {self.kept[tenant].user}, tenant)

    def _check(self, found: Any, user_ids: set[UUID], tenant: UUID) -> None:
        """Check that no row of another tenant was found, and each row of the own tenant."""
        self.world.see(tenant, found)
        ids = {part for part in parts_of(found) if isinstance(part, UUID)}
        assert user_ids <= ids, f"not found: rows of {tenant}; {self}"

    def _new(self, tenant: UUID) -> Note:
        note = _note(tenant, self.kept[tenant].user)
        self.added[note.id] = tenant
        return note


def _note(tenant: UUID, user: UUID) -> Note:
    return Note(id=uuid7(), user_id=user, title="kept", content=mark_of(tenant))


def _has_changes(session: Any) -> bool:
    return bool(session.new or session.dirty or session.deleted)
