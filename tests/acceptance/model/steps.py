"""The base of the steps: each makes a call in the database and in the model, and compares the results."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

from src.database.errors import NotFoundError
from src.database.session import AsyncSession
from tests.acceptance.model.tenant_model import TenantModel
from tests.acceptance.model.world import World
from tests.database.store.paths import Path

T = TypeVar("T")

TENANT = st.sampled_from([0, 1])
STORED = st.booleans()
"""Whether the store is called, and not the repositories."""
PICK = st.integers(0, 20)
KEY = st.sampled_from([f"k{number}" for number in range(8)])
CONTENT = st.sampled_from(["", "a", "ab", "b", "canción\N{SMILING FACE WITH SMILING EYES}"])
MESSAGE = st.tuples(KEY, st.sampled_from(["user", "assistant"]), CONTENT, st.sampled_from(["complete", "incomplete"]))


class Steps(RuleBasedStateMachine):
    """Two tenants in one database; the test sets `world`. Each rule changes database and model, and compares them."""

    world: World

    @initialize()
    def begin(self) -> None:
        self.tenants = [self.world.register(), self.world.register()]
        self.models = [TenantModel(), TenantModel()]

    def call(self, tenant: int, work: Callable[[AsyncSession], Awaitable[Any]]) -> Any:
        return self.world.call(self.tenants[tenant], work)

    def by(self, tenant: int, work: Callable[[Path], Awaitable[Any]], *, stored: bool) -> Any:
        return self.world.by(self.tenants[tenant], work, stored=stored)

    def expect(self, got: Any, known: Callable[[], T]) -> T | None:
        """Compare an outcome: the same result, or the same error."""
        try:
            expected: Any = known()
        except Exception as error:  # noqa: BLE001 - the repository must raise the same error
            expected = type(error)
        assert got == expected
        return expected if not isinstance(expected, type) else None

    @invariant()
    def the_database_equals_the_model(self) -> None:
        models: list[TenantModel] = getattr(self, "models", [])
        assert self.world.rows(getattr(self, "tenants", [])) == [model.rows() for model in models]


def pick(rows: list[T], number: int) -> T | None:
    return rows[number % len(rows)] if rows else None


def change(row: Any, name: str, value: Any) -> None:
    """Change an existing row."""
    if row.deleted:
        raise NotFoundError("")
    setattr(row, name, value)


async def without_result(call: Awaitable[Any]) -> None:
    await call
