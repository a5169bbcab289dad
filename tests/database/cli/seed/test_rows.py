"""A seed generates the same rows each time, and rows as the repositories would have stored them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from statistics import mean, median
from typing import Any
from uuid import UUID

import pytest

from src.database.calendar import check_rrule
from src.database.cli.seed.recipe import Dice, Recipe, allot
from src.database.cli.seed.rows import TABLES, batches
from src.database.errors import ConfigurationError
from src.database.models import Conversation, Event, MessageHistory, Note, User

UNTIL = datetime(2026, 3, 1, tzinfo=UTC)
RECIPE = Recipe(number=7, tenants=2, users=90, messages=3000, until=UNTIL)


def rows_of(recipe: Recipe, place: int = 0) -> dict[Any, list[dict[str, Any]]]:
    rows: dict[Any, list[dict[str, Any]]] = {model: [] for model in TABLES}
    for batch in batches(recipe, recipe.shares()[place]):
        for model, of_model in batch.items():
            rows[model] += of_model
    return rows


@pytest.fixture(scope="module")
def rows() -> dict[Any, list[dict[str, Any]]]:
    return rows_of(RECIPE)


@pytest.fixture(scope="module")
def conversations(rows: dict[Any, list[dict[str, Any]]]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    messages: dict[UUID, list[dict[str, Any]]] = {row["id"]: [] for row in rows[Conversation]}
    for row in rows[MessageHistory]:
        messages[row["conversation_id"]].append(row)
    return [(row, messages[row["id"]]) for row in rows[Conversation]]


def test_the_same_recipe_generates_the_same_rows_on_every_machine(rows: dict[Any, list[dict[str, Any]]]) -> None:
    """The digest is pinned: a change of the generated rows needs another EDITION."""
    assert rows_of(RECIPE) == rows
    assert RECIPE.shares()[0].tenant_id == UUID("019ca6b1-dc00-70e1-8a3a-74458d43d633")
    written = "\n".join(str(sorted(row.items())) for model in TABLES for row in rows[model])
    assert hashlib.sha256(written.encode()).hexdigest()[:16] == "b054ea84ae7d409c"


@pytest.mark.parametrize("other", [{"number": 8}, {"until": UNTIL + timedelta(days=1)}])
def test_another_recipe_generates_other_rows(rows: dict[Any, list[dict[str, Any]]], other: dict[str, Any]) -> None:
    others = rows_of(replace(RECIPE, **other))

    assert not {row["id"] for row in others[MessageHistory]} & {row["id"] for row in rows[MessageHistory]}


def test_users_and_messages_are_divided_without_a_remainder() -> None:
    shares = RECIPE.shares()

    assert [sum(one.users for one in shares), sum(one.messages for one in shares)] == [90, 3000]
    assert shares[0].messages > shares[1].messages > 0
    assert len(rows_of(RECIPE)[User]) == shares[0].users
    assert len(rows_of(RECIPE)[MessageHistory]) == shares[0].messages
    assert allot(10, [1, 1, 1]) == [4, 3, 3]
    assert allot(0, [1.5, 2]) == [0, 0]


@pytest.mark.parametrize("size", [{"users": 2, "messages": 0}, {"users": 2, "messages": 1}, {"tenants": 30}])
def test_the_smallest_sizes_are_generated(size: dict[str, Any]) -> None:
    recipe = replace(RECIPE, **size)

    assert sum(len(rows_of(recipe, place)[MessageHistory]) for place in range(recipe.tenants)) == recipe.messages


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tenants": 0}, "--tenants must be from 1 to 1000, got 0"),
        ({"users": 1}, "--users must be at least one for each tenant, got 1 for 2"),
        ({"messages": -1}, "--seed and --messages must be 0 or more"),
        ({"until": datetime(1970, 1, 1, tzinfo=UTC)}, "--until must be from the year 2000 to 2100"),
    ],
)
def test_an_invalid_recipe_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        replace(RECIPE, **wrong)


def test_every_batch_can_be_committed_alone() -> None:
    known: set[UUID] = set()
    for batch in batches(replace(RECIPE, tenants=1, messages=12_000), replace(RECIPE, tenants=1).shares()[0]):
        for model in TABLES:
            known |= {row["id"] for row in batch[model]}
            for row in batch[model]:
                references = ("user_id", "conversation_id", "parent_id", "series_id", "source_message_id")
                assert {row[name] for name in references if row.get(name)} <= known


def test_ids_are_of_version_7_and_of_the_time_of_their_rows(rows: dict[Any, list[dict[str, Any]]]) -> None:
    for row in (row for model in TABLES for row in rows[model]):
        assert (row["id"].version, row["id"].variant) == (7, "specified in RFC 4122")
        assert row["id"].int >> 80 == int(row["created_at"].timestamp() * 1000)
        assert row["created_at"] <= row["updated_at"]
    assert len({row["id"] for model in TABLES for row in rows[model]}) == sum(map(len, rows.values()))


def test_messages_are_numbered_without_gaps_and_counted_in_their_conversation(
    conversations: list[tuple[dict[str, Any], list[dict[str, Any]]]],
) -> None:
    for conversation, messages in conversations:
        assert [row["seq"] for row in messages] == list(range(1, len(messages) + 1))
        assert conversation["last_seq"] == len(messages)
        assert conversation["last_message_at"] == max((row["created_at"] for row in messages), default=None)
        assert conversation["summary_upto_seq"] <= conversation["last_seq"]
        times = [conversation["created_at"], *(row["created_at"] for row in messages)]
        assert times == sorted(times)
        assert conversation["is_active"] == (conversation["closed_at"] is None)
        assert conversation["closed_at"] is None or times[-1] <= conversation["closed_at"] <= UNTIL


def test_a_chat_has_one_open_conversation_at_most_and_they_follow_each_other(
    conversations: list[tuple[dict[str, Any], list[dict[str, Any]]]],
) -> None:
    closed_at: dict[tuple[Any, ...], datetime | None] = {}
    for conversation, _ in conversations:
        chat = tuple(conversation[name] for name in ("user_id", "channel", "external_chat_id"))
        before = closed_at.get(chat, conversation["created_at"])
        assert before is not None
        assert before <= conversation["created_at"]
        closed_at[chat] = conversation["closed_at"]
    assert None in closed_at.values()


def test_tool_results_follow_their_calls(conversations: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> None:
    called = 0
    for _, messages in conversations:
        waiting: list[str] = []
        for before, row in zip([None, *messages], messages, strict=False):
            if row["role"] == "tool":
                assert row["tool_call_id"] == waiting.pop(0)
                continue
            assert not waiting
            assert row["role"] != "user" or before is None or before["role"] in {"assistant", "system"}
            waiting = [part["id"] for part in row["parts"] or []]
            called += len(waiting)
        assert not waiting
    assert called > 20


def test_message_lengths_are_log_normal_and_both_languages_occur(
    rows: dict[Any, list[dict[str, Any]]],
) -> None:
    lengths = [len(row["content"]) for row in rows[MessageHistory] if row["role"] == "assistant" and row["content"]]

    assert mean(lengths) > 1.15 * median(lengths)
    assert max(lengths) > 4 * median(lengths)
    assert {row["locale"] for row in rows[User]} >= {"es", "en-GB"}
    assert any("¿" in (row["content"] or "") for row in rows[MessageHistory])
    assert any("What" in (row["content"] or "") for row in rows[MessageHistory])


def test_every_kind_of_row_occurs(rows: dict[Any, list[dict[str, Any]]]) -> None:
    def values(model: Any, name: str) -> Iterator[bool]:
        return (bool(row[name]) for row in rows[model])

    for model, names in (
        (User, ("telegram_id", "username", "locale", "is_active")),
        (Conversation, ("is_active", "closed_at", "title", "summary", "external_chat_id")),
        (MessageHistory, ("parts", "attachments", "parent_id", "tool_call_id", "edited_at")),
        (Event, ("all_day", "rrule", "series_id", "exdates", "reminder_sent_at", "location", "ical_uid")),
        (Note, ("title", "tags", "pinned", "archived_at", "source_message_id")),
    ):
        for name in names:
            assert set(values(model, name)) == {True, False}, f"{model.__name__}.{name}"
    assert any(row["reminder_datetime"] and row["reminder_datetime"] > UNTIL for row in rows[Event])
    assert {row["status"] for row in rows[Event]} == {"scheduled", "done", "cancelled"}
    for row in rows[Event]:
        if row["rrule"]:
            check_rrule(row["rrule"], all_day=row["all_day"])


def test_every_column_is_generated_or_left_to_the_server(rows: dict[Any, list[dict[str, Any]]]) -> None:
    """A column that a migration adds is generated too, or is named here as left to the server."""
    claims = {"turn_claimed_by", "turn_claimed_until"}
    claims |= {"reminder_claimed_by", "reminder_claimed_until", "reminder_token"}
    left_to_the_server = {"tenant_id", "metadata", "version", "is_person"} | claims
    left_to_the_server |= {"local_start", "local_start_basis"}  # computed from the start as the row is written
    for model in TABLES:
        stored = {column.name for column in model.__table__.columns if column.computed is None}
        assert stored - set(rows[model][0]) <= left_to_the_server, model.__name__


def test_the_dice_return_the_same_values_for_the_same_seed() -> None:
    assert [Dice("a").random(), Dice("a").amount(10, 1, 100)] == [Dice("a").random(), Dice("a").amount(10, 1, 100)]
    assert Dice("a").id(UNTIL) != Dice("b").id(UNTIL)
