"""Lock and update rows of the session's tenant, and return them as current entities of the session."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, ColumnExpressionArgument, DateTime, func, select, update

from src.database.base import TenantBase
from src.database.errors import NotFoundError
from src.database.session import AsyncSession

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=TenantBase)


async def update_rows(
    session: AsyncSession, model: type[ModelT], /, *where: ColumnExpressionArgument[bool], **values: Any
) -> list[ModelT]:
    """Update the rows that satisfy the conditions, and return their entities with the new values."""
    statement = update(model).where(model.tenant_id == session.tenant_id, *where).values(**values).returning(model)
    options = {"populate_existing": True, "synchronize_session": False}
    return list(await session.scalars(statement, execution_options=options))


async def update_one(
    session: AsyncSession, model: type[ModelT], /, *where: ColumnExpressionArgument[bool], **values: Any
) -> ModelT | None:
    """Update at most one row, as `update_rows` does; return None if no row satisfies the conditions."""
    rows = await update_rows(session, model, *where, **values)
    return rows[0] if rows else None


async def lock_rows(
    session: AsyncSession, model: type[ModelT], /, *where: ColumnExpressionArgument[bool], order_by: Any = None
) -> list[ModelT]:
    """Lock the rows that satisfy the conditions, in this order, and return their entities with the locked values."""
    statement = select(model).where(model.tenant_id == session.tenant_id, *where).order_by(order_by).with_for_update()
    return list(await session.scalars(statement, execution_options={"populate_existing": True}))


async def lock_one(
    session: AsyncSession, model: type[ModelT], /, *where: ColumnExpressionArgument[bool]
) -> ModelT | None:
    """Lock at most one row, as `lock_rows` does; return None if no row satisfies the conditions."""
    rows = await lock_rows(session, model, *where)
    return rows[0] if rows else None


def required(row: T | None, model: type[TenantBase], row_id: UUID) -> T:
    """Return the row if it is not None.

    Raises:
        NotFoundError: The row is None.
    """
    if row is None:
        raise NotFoundError(f"this tenant has no {model.__name__} with id {row_id}")
    return row


def statement_time() -> ColumnElement[datetime]:
    """Return the server's time at the start of the statement.

    `now()` is that at the start of the transaction: a lease from it would be shorter by the time since then.
    """
    return func.statement_timestamp(type_=DateTime(timezone=True))
