"""Schemas: accepted and rejected values, and errors that do not repeat the input."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from src.database import schemas
from src.database.base import uuid7
from src.database.schemas import (
    ConversationCreate,
    EventCreate,
    EventUpdate,
    MessageCreate,
    NoteCreate,
    NoteUpdate,
    TenantCreate,
    UserCreate,
    UserUpdate,
)

CANARY = "kanarienvogel"
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
ALL: list[type[BaseModel]] = [getattr(schemas, name) for name in schemas.__all__ if name.endswith(("Create", "Update"))]


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize("schema", ALL)
def test_rejects_an_unknown_field(schema: type[BaseModel]) -> None:
    with pytest.raises(ValidationError) as caught:
        schema.model_validate({"nick": CANARY})

    assert ("nick",) in [error["loc"] for error in caught.value.errors() if error["type"] == "extra_forbidden"]
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("username", ""),
        ("username", CANARY * 9),
        ("username", CANARY.encode()),
        ("display_name", 7),
        ("locale", f"es_{CANARY}"),
        ("locale", "e"),
        ("locale", "español"),
        ("timezone", CANARY),
        ("timezone", ""),
        ("timezone", None),
        ("timezone", "posix/Europe/Madrid"),
        ("timezone", "../../etc/passwd"),
        ("timezone", "Europe"),
        ("telegram_id", 2**63),
        ("telegram_id", "7"),
        ("telegram_id", True),
        ("retention_days", 0),
        ("retention_days", 2**31),
        ("retention_days", 1.5),
        ("is_active", 1),
        ("is_active", None),
        ("preferences", None),
        ("preferences", [CANARY]),
        ("preferences", {"a": float("nan")}),
        ("preferences", {"a": [float("inf")]}),
        ("preferences", {"a": {1: CANARY}}),
        ("preferences", {"a": datetime(2026, 1, 1, tzinfo=UTC)}),
        ("preferences", deep(101)),
        ("extra", deep(20_000)),
    ],
)
@pytest.mark.parametrize("schema", [UserCreate, UserUpdate])
def test_rejects_a_value_and_does_not_repeat_it(schema: type[BaseModel], field: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        schema.model_validate({field: value})

    assert CANARY not in str(caught.value)
    assert CANARY not in str(caught.value.errors(include_input=False))
    assert caught.value.errors()[0]["loc"][0] == field


@pytest.mark.parametrize(
    "value",
    [
        "2026-03-01T12:00:00",
        "2026-03-01",
        "1772366400",
        1772366400,
        1.5,
        CANARY,
        None,
        START.replace(tzinfo=None),
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=5))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=5))),
    ],
)
def test_rejects_a_value_that_is_not_an_instant(value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        EventCreate.model_validate({"user_id": uuid7(), "title": "x", "start_datetime": value})

    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("text", ["2026-03-01T12:00:00Z", "2026-03-01T13:00:00+01:00"])
def test_accepts_an_instant_in_the_form_of_json(text: str) -> None:
    event = EventCreate.model_validate({"user_id": str(uuid7()), "title": "x", "start_datetime": text})

    assert event.start_datetime == START


def test_an_error_does_not_repeat_an_id() -> None:
    with pytest.raises(ValidationError) as caught:
        NoteCreate.model_validate({"user_id": CANARY, "content": "x"})

    assert str(caught.value.errors(include_input=False)[0]["msg"]) == "Value error, must be a UUID"


@pytest.mark.parametrize("tag", ["es", "es-MX", "es-419", "zh-Hant-TW", "sl-rozaj-biske", "de-CH-x-phonebk", "gsw"])
def test_takes_a_locale_of_bcp_47(tag: str) -> None:
    assert UserCreate(locale=tag).locale == tag


def test_text_is_cleaned_before_its_length_is_checked() -> None:
    assert UserCreate(username="\0" * 64).username == "\ufffd" * 64
    assert UserCreate(username="\ud800").username == "\ufffd"
    assert UserCreate.model_validate(json.loads('{"extra": {"\\ud800": ["\\u0000"]}}')).extra == {"\ud800": ["\0"]}
    assert NoteCreate(user_id=uuid7(), content="x", tags=["\0"]).tags == ["\ufffd"]
    assert len(UserCreate(username="😀" * 64).username or "") == 64
    with pytest.raises(ValidationError):
        UserCreate(username="\0" * 65)


@given(st.text(alphabet=st.characters(codec=None, exclude_categories=()), min_size=1, max_size=256))
def test_any_text_of_a_fitting_length_is_taken_and_can_be_encoded(text: str) -> None:
    name = UserCreate(display_name=text).display_name

    assert name is not None
    assert "\0" not in name
    assert len(name.encode().decode()) == len(text)


def test_an_update_distinguishes_a_missing_attribute_from_none() -> None:
    assert UserUpdate().to_values() == {}
    assert UserUpdate(locale=None, timezone="UTC").to_values() == {"locale": None, "timezone": "UTC"}


def test_an_update_offers_null_only_for_nullable_attributes() -> None:
    title = NoteUpdate.model_json_schema()["properties"]["content"]

    assert "default" not in title
    assert title["type"] == "string"


def test_an_event_does_not_end_before_it_begins() -> None:
    ends_before = {"start_datetime": START, "end_datetime": START - timedelta(seconds=1)}

    with pytest.raises(ValidationError, match="end_datetime must not be before start_datetime"):
        EventCreate.model_validate({"user_id": uuid7(), "title": "x"} | ends_before)
    with pytest.raises(ValidationError, match="end_datetime must not be before start_datetime"):
        EventUpdate.model_validate(ends_before)
    assert EventUpdate(end_datetime=START, start_datetime=START).to_values().keys() == ends_before.keys()


def test_a_changed_occurrence_needs_series_id_and_recurrence_id() -> None:
    event = {"user_id": uuid7(), "title": "x", "start_datetime": START}

    for half in ({"series_id": uuid7()}, {"recurrence_id": START}):
        with pytest.raises(ValidationError, match="series_id and recurrence_id must be given together"):
            EventCreate.model_validate(event | half)


@pytest.mark.parametrize("slug", ["-a", "A", "a_b", "a" * 64, "", "a\n"])
def test_rejects_a_slug_that_the_database_would(slug: str) -> None:
    with pytest.raises(ValidationError):
        TenantCreate(slug=slug, name="x")


def test_a_repr_names_the_given_attributes_without_values() -> None:
    message = MessageCreate(message_id="t:1", role="user", content=CANARY)

    assert repr(message) == "MessageCreate(given=['content', 'message_id', 'role'])"
    assert CANARY not in str(message)


def test_an_input_does_not_change_and_shares_nothing() -> None:
    user = UserCreate(preferences={"a": [1]})

    user.to_values()["preferences"]["a"].append(2)

    assert user.preferences == {"a": [1]}
    assert UserCreate().to_values()["extra"] is not UserCreate().to_values()["extra"]
    with pytest.raises(ValidationError):
        user.username = "x"  # type: ignore[misc] # what is tested


def test_each_conversation_has_a_session_id_of_its_own() -> None:
    made = {ConversationCreate(user_id=uuid7(), channel="web").session_id for _ in range(3)}

    assert len(made) == 3
