"""JSON values are read back equal from jsonb, or are rejected with the path of the fault."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from src.database.base import utc_now
from src.database.json_values import DEEPEST, ESCAPE, decode_json, encode_json
from src.database.models import Conversation, User
from src.database.repositories import ConversationRepository, MessageHistoryRepository, NewMessage
from src.database.session import AsyncSession

UNSTORABLE = ["\0", "\ud83d", "\ude00", "\ud83d\ude00", ESCAPE, f"{ESCAPE}0000", f"{ESCAPE}\0", f"{ESCAPE}d83"]
TEXTS = st.lists(st.sampled_from(UNSTORABLE) | st.text(max_size=3), max_size=4).map("".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(TEXTS, values, max_size=4),
    max_leaves=12,
)
SAMPLES: list[Any] = [
    *({text: [text, {text: text}]} for text in UNSTORABLE),
    *(1e15, 1e16, 1e22, 1e23, -1.7976931348623157e308, 5e-324, 0.1, 2**70, 10**4299),
]


@settings(suppress_health_check=[HealthCheck.too_slow])  # drawing is slow on a machine that is busy
@given(VALUES)
@example(SAMPLES)
def test_a_value_is_decoded_equal_and_its_text_can_be_stored(value: Any) -> None:
    text = json.dumps(encode_json(value), ensure_ascii=False)

    assert "\\u0000" not in text
    text.encode()  # fails for a lone surrogate
    assert decode_json(text) == value


@given(st.text().filter(lambda text: ESCAPE not in text and "\0" not in text))
def test_text_that_needs_no_escape_is_stored_as_it_is(text: str) -> None:
    assert encode_json({text: [text]}) == {text: [text]}


@pytest.mark.parametrize("text", [ESCAPE, f"{ESCAPE}00", f"{ESCAPE}0041", f"{ESCAPE}D83D"])
def test_an_escape_that_was_stored_before_is_read_unchanged(text: str) -> None:
    assert decode_json(json.dumps([text], ensure_ascii=False)) == [text]


async def test_the_server_returns_equal_values(session: AsyncSession, user: User) -> None:
    conversation: Conversation
    conversation, _ = await ConversationRepository(session).get_or_start(user.id, "telegram", "1")
    messages = MessageHistoryRepository(session)
    sent = NewMessage(message_id="a", role="user", parts=SAMPLES, extra={"samples": SAMPLES}, attachments=SAMPLES)

    appended = await messages.append(conversation.id, sent)
    assert appended.message.parts == SAMPLES
    assert not (await messages.append(conversation.id, sent)).inserted

    [read] = await messages.recent(conversation.id)
    assert (read.parts, read.extra["samples"], read.attachments) == (SAMPLES, SAMPLES, SAMPLES)
    exported = [one async for one in messages.stream()]
    assert exported[0].parts == SAMPLES


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
        encode_json(value)


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
        (nested(DEEPEST + 1), "extra must be nested at most 100 levels deep, got more at extra[0][0]"),
        (nested(100_000), "extra must be nested at most 100 levels deep, got more at extra[0][0]"),
    ],
)
def test_an_error_about_json_names_the_attribute_the_rule_and_the_path(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        encode_json(value, "extra")

    assert len(str(caught.value)) < 300


def test_json_of_the_greatest_depth_and_number_is_accepted() -> None:
    value = [nested(DEEPEST - 1), 10**4299, -0.0]

    assert encode_json(value) == value
