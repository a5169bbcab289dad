"""The values of every table: ids, cleaned text, aware datetimes."""

from __future__ import annotations

import re
import threading
import time
import uuid
from datetime import UTC, date, datetime
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Dialect
from sqlalchemy.dialects import postgresql

from src.database.base import DEEPEST_JSON, Json, UtcDateTime, clean_json, clean_text, utc_now, uuid7

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


def test_json_is_cleaned_at_every_level() -> None:
    value = {"a\0": ["\0", {"b": ("\ud800", 1, None, True)}]}

    assert Json().process_bind_param(value, DIALECT) == {"a\ufffd": ["\ufffd", {"b": ["\ufffd", 1, None, True]}]}


def test_refuses_a_naive_datetime() -> None:
    aware = datetime(2026, 1, 1, tzinfo=UTC)

    assert UtcDateTime().process_bind_param(aware, DIALECT) is aware
    with pytest.raises(ValueError, match="a datetime must be aware"):
        UtcDateTime().process_bind_param(datetime(2026, 1, 1), DIALECT)  # noqa: DTZ001 - a naive time is tested


@pytest.mark.parametrize("value", ["tomorrow", date(2026, 1, 1), 5])
def test_refuses_a_value_that_is_no_datetime(value: object) -> None:
    with pytest.raises(ValueError, match=f"a datetime must be a datetime with a time zone, got {type(value).__name__}"):
        UtcDateTime().process_bind_param(value, DIALECT)  # type: ignore[arg-type] # what is tested


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [utc_now()]}, "JSON must have only text, numbers, .* got datetime"),
        ({"a": {1}}, "JSON must have only text, .* got set"),
        ([b"x"], "JSON must have only text, .* got bytes"),
        ({(1, 2): 3}, "JSON must have only strings as keys, got tuple"),
    ],
)
def test_refuses_a_value_that_json_does_not_have(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Json().process_bind_param(value, DIALECT)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "extra must have only finite numbers, got nan at extra"),
        (
            {"a": [1, {"b c": float("-inf")}]},
            "extra must have only finite numbers, got -inf at extra.a[1][…]",
        ),
        ({"a": {1: 2, "b": 3}}, "extra must have only strings as keys, got int at extra.a"),
        ({"a": {None: 2}}, "extra must have only strings as keys, got NoneType at extra.a"),
        ([utc_now()], "extra must have only text, numbers, true, false, null, lists and dicts, got datetime at"),
        ([10**5000], "extra must have numbers of at most 4300 digits, got more at extra[0]"),
        (nested(DEEPEST_JSON + 1), "extra must be nested at most 100 levels deep, got more at extra[0][0]"),
        (nested(100_000), "extra must be nested at most 100 levels deep, got more at extra[0][0]"),
    ],
)
def test_an_error_about_json_names_the_attribute_the_rule_and_the_path(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        clean_json(value, "extra")

    assert len(str(caught.value)) < 300


def test_json_of_the_greatest_depth_and_number_is_accepted() -> None:
    value = [nested(DEEPEST_JSON - 1), 10**4299, -0.0]

    assert clean_json(value) == value
