"""How a repository asks: with statements that are built and compiled once, or with one that a caller's words make."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar, Generic, TypeVar, cast

from sqlalchemy import Executable, Uuid, bindparam

from src.database.base import TenantBase
from src.database.session import AsyncSession
from src.database.statements.sending import Prepared, rows

__all__ = ["Asking"]

ModelT = TypeVar("ModelT", bound=TenantBase)

Build = Callable[[Any], Executable]
"""A method of the repository's that makes a statement; what varies in it is a `bindparam`."""


class Asking(Generic[ModelT]):
    """Sends statements in a session, and gets rows of one model."""

    model: ClassVar[type[Any]]

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def _all(self, build: Build, /, *, refresh: bool = False, **values: Any) -> list[ModelT]:
        """Fetch with a statement that is built once: `build` makes it of a repository of any tenant's."""
        prepared: Prepared[ModelT] = _prepared(cast("Any", type(self)), build)
        return await prepared.rows(self.session, refresh=refresh, **values)

    async def _first(self, build: Build, /, *, refresh: bool = False, **values: Any) -> ModelT | None:
        """Fetch the first row, or None; as `_all` otherwise."""
        prepared: Prepared[ModelT] = _prepared(cast("Any", type(self)), build)
        return await prepared.first(self.session, refresh=refresh, **values)

    async def _tuples(self, build: Build, /, *, refresh: bool = False, **values: Any) -> list[tuple[Any, ...]]:
        """Fetch rows of this model, each with what is asked for beside it; as `_all` otherwise."""
        prepared: Prepared[ModelT] = _prepared(cast("Any", type(self)), build)
        return await prepared.tuples(self.session, refresh=refresh, **values)

    async def _fetch(self, statement: Executable, *, refresh: bool = False) -> list[ModelT]:
        """Fetch rows of this model; `refresh`: those that the session has become as they are now."""
        return await rows(self.session, statement, self.model, refresh=refresh)


class _AnyTenant:
    """Stands in for a session where a statement is built once, for whoever acts."""

    tenant_id = bindparam("acting_tenant", type_=Uuid())


@cache
def _prepared(repository: Any, build: Build) -> Prepared[Any]:
    return Prepared(build(repository(cast("AsyncSession", _AnyTenant))), repository.model)
