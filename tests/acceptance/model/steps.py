"""What every step of the machine is made of: a call in the database, the same in the model, and the comparison."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

from src.database.errors import NotFoundError
from src.database.session import AsyncSession
from tests.acceptance.model.memory import Memory
from tests.acceptance.model.world import World

T = TypeVar("T")

TENANT = st.sampled_from([0, 1])
PICK = st.integers(0, 20)


class Steps(RuleBasedStateMachine):
    """Two tenants over one database; `world` is set by the test. Each rule does one thing in both, and compares."""

    world: World

    @initialize()
    def begin(self) -> None:
        self.tenants = [self.world.register(), self.world.register()]
        self.memories = [Memory(), Memory()]

    def call(self, tenant: int, work: Callable[[AsyncSession], Awaitable[Any]]) -> Any:
        return self.world.call(self.tenants[tenant], work)

    def expect(self, got: Any, known: Callable[[], T]) -> T | None:
        """Compare an outcome: the same result, or the same error."""
        try:
            expected: Any = known()
        except Exception as error:  # noqa: BLE001 - whatever it is, the repository has to raise it too
            expected = type(error)
        assert got == expected
        return expected if not isinstance(expected, type) else None

    @invariant()
    def the_database_is_the_model(self) -> None:
        memories: list[Memory] = getattr(self, "memories", [])
        assert self.world.rows(getattr(self, "tenants", [])) == [memory.rows() for memory in memories]


def pick(rows: list[T], number: int) -> T | None:
    return rows[number % len(rows)] if rows else None


def change(row: Any, name: str, value: Any) -> None:
    """Change an existing row."""
    if row.deleted:
        raise NotFoundError("")
    setattr(row, name, value)


async def nothing(call: Awaitable[Any]) -> None:
    await call
