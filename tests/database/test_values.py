"""The values of every table: ids, cleaned text, aware datetimes."""

from __future__ import annotations

import threading
import time
import uuid
from datetime import UTC, date, datetime
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Dialect
from sqlalchemy.dialects import postgresql

from src.database.base import UtcDateTime, clean_text, uuid7

DIALECT = cast("Dialect", postgresql.asyncpg.dialect())  # type: ignore[no-untyped-call] # as it ships


def test_ids_are_version_7_and_carry_the_time() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid7()

    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert before - 1 <= made.int >> 80 <= time.time_ns() // 1_000_000 + 1


def test_ids_are_in_order_and_unique_from_many_threads() -> None:
    lists: list[list[uuid.UUID]] = [[] for _ in range(4)]

    def make(into: list[uuid.UUID]) -> None:
        into.extend(uuid7() for _ in range(5_000))

    threads = [threading.Thread(target=make, args=(into,)) for into in lists]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(into == sorted(into) for into in lists)
    assert len({one for into in lists for one in into}) == 20_000


@given(st.text(alphabet=st.characters(codec=None, exclude_categories=())))
def test_cleaned_text_can_be_stored_and_is_as_long(text: str) -> None:
    cleaned = clean_text(text)

    assert "\0" not in cleaned
    assert len(cleaned.encode().decode()) == len(text)
    assert clean_text(cleaned) == cleaned


@given(st.text())
def test_text_that_can_be_stored_is_left_alone(text: str) -> None:
    assert clean_text(text) == text.replace("\0", "\ufffd")


def test_refuses_a_naive_datetime() -> None:
    aware = datetime(2026, 1, 1, tzinfo=UTC)

    assert UtcDateTime().process_bind_param(aware, DIALECT) is aware
    with pytest.raises(ValueError, match="a datetime must be aware"):
        UtcDateTime().process_bind_param(datetime(2026, 1, 1), DIALECT)  # noqa: DTZ001 - a naive time is tested


@pytest.mark.parametrize("value", ["tomorrow", date(2026, 1, 1), 5])
def test_refuses_a_value_that_is_no_datetime(value: object) -> None:
    with pytest.raises(ValueError, match=f"a datetime must be a datetime with a time zone, got {type(value).__name__}"):
        UtcDateTime().process_bind_param(value, DIALECT)  # type: ignore[arg-type] # what is tested
