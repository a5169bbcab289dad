"""Entities of tables of a service: values of each column type are converted as SQLAlchemy does."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from sqlalchemy import REAL, Double, Float, Interval, LargeBinary, Numeric, TypeDecorator
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from src.database.statements.entities import Entities


class Money(TypeDecorator[Decimal]):
    """A type of a service."""

    impl = Numeric(12, 2)
    cache_ok = True


class Base(DeclarativeBase):
    """Tables that are in no database."""


class Row(Base):
    __tablename__ = "column_types"

    id: Mapped[int] = mapped_column(primary_key=True)
    exact: Mapped[Decimal] = mapped_column(Numeric(20, 8))
    money: Mapped[Decimal] = mapped_column(Money())
    rounded: Mapped[float] = mapped_column(Numeric(asdecimal=False))
    double: Mapped[float] = mapped_column(Double())
    single: Mapped[float] = mapped_column(REAL())
    as_decimal: Mapped[Decimal] = mapped_column(Float(asdecimal=True))
    many: Mapped[list[Decimal]] = mapped_column(ARRAY(Numeric()))
    doubles: Mapped[list[float]] = mapped_column(ARRAY(Double()))
    wait: Mapped[timedelta] = mapped_column(Interval())
    data: Mapped[bytes] = mapped_column(LargeBinary())


SELECT = """
SELECT 1, 123456789012.12345678::numeric, 1.50::numeric, 2.5::numeric, 0.1::float8, 0.5::real, 0.25::float8,
       ARRAY[1.50, NULL]::numeric[], ARRAY[0.1]::float8[], interval '90 seconds', '\\x00'::bytea
"""
EXPECTED: list[Any] = [
    *(1, Decimal("123456789012.12345678"), Decimal("1.50"), 2.5, 0.1, 0.5, Decimal("0.25")),
    *([Decimal("1.50"), None], [0.1], timedelta(seconds=90), b"\0"),
]


@pytest.mark.parametrize("is_null", [False, True])
async def test_values_are_converted(connection: asyncpg.Connection[Any], *, is_null: bool) -> None:
    record = list(await connection.fetchrow(SELECT))
    expected = EXPECTED
    if is_null:
        record[1:], expected = [None] * (len(record) - 1), [1, *[None] * (len(record) - 1)]

    values = Entities(Row).values(record)

    assert list(values.values()) == expected
    assert [type(value) for value in values.values()] == [type(value) for value in expected]
