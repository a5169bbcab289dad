"""A service's own connection test, as services write it."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from src.database import engine, get_db

pytestmark = pytest.mark.usefixtures("cloned_database")


@pytest.mark.asyncio
async def test_engine_connects() -> None:
    async with engine.begin() as conn:
        result = await conn.execute(text("SELECT 1"))
        assert result.scalar() == 1


@pytest.mark.asyncio
async def test_session_context_manager() -> None:
    async with get_db() as session:
        result = await session.execute(text("SELECT 1"))
        assert result.scalar() == 1
