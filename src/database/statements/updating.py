"""Update rows of the session's tenant, and return them as the session's entities as they are afterwards."""

from __future__ import annotations

from typing import Any, TypeVar

from sqlalchemy import ColumnExpressionArgument, update

from src.database.base import TenantBase
from src.database.session import AsyncSession

__all__ = ["update_one", "update_rows"]

ModelT = TypeVar("ModelT", bound=TenantBase)


async def update_rows(
    session: AsyncSession, model: type[ModelT], /, *where: ColumnExpressionArgument[bool], **values: Any
) -> list[ModelT]:
    """Update the rows that satisfy the conditions, and return them."""
    statement = update(model).where(model.tenant_id == session.tenant_id, *where).values(**values).returning(model)
    options = {"populate_existing": True, "synchronize_session": False}
    return list(await session.scalars(statement, execution_options=options))


async def update_one(
    session: AsyncSession, model: type[ModelT], /, *where: ColumnExpressionArgument[bool], **values: Any
) -> ModelT | None:
    """Update the row that satisfies the conditions, which name at most one, and return it, or None."""
    rows = await update_rows(session, model, *where, **values)
    return rows[0] if rows else None
