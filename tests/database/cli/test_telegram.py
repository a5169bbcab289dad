"""The reader of Telegram's files: what is no message is named before anything is written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from src.database.cli.demo.telegram import read_telegram
from src.database.errors import ConfigurationError


def in_private(said: str, /, **of_message: Any) -> dict[str, Any]:
    ada = {"id": 5, "is_bot": False, "first_name": "Ada"}
    chat = {"id": 5, "type": "private", "first_name": "Ada"}
    return {"message_id": 7, "from": ada, "chat": chat, "date": 1_772_442_000, "text": said, **of_message}


@pytest.mark.parametrize(
    "of_message",
    [
        {"from": {"id": 2**63}},
        {"chat": {"id": "x"}},
        {"message_id": True},
        {"message_id": 1.5},
        {"text": ["x"]},
        {"text": None, "photo": []},
        {"date": 10**18},
        {"from": {"id": 5, "username": 5}},
    ],
)
def test_a_message_that_is_none_is_named(tmp_path: Path, of_message: dict[str, Any]) -> None:
    file = tmp_path / "updates.jsonl"
    good = json.dumps({"update_id": 1, "message": in_private("x")})
    file.write_text(f"{good}\n{json.dumps({'update_id': 2, 'message': in_private('x', **of_message)})}")

    with pytest.raises(ConfigurationError, match="line 2: it is no entry of Bot API updates"):
        read_telegram(file)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, f'{{"update_id": {"9" * 5000}}}', '{"result": 5}'])
def test_text_that_no_reader_would_like_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "input.json"
    file.write_text(text)

    with pytest.raises(ConfigurationError):
        read_telegram(file)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "input.json"
    file.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ConfigurationError, match="must be a readable UTF-8 file"):
        read_telegram(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no message"),
        ("not json", "line 1: it must be one JSON object"),
        ('{"update_id": 1}\nnot json', "line 2: it must be one JSON object"),
        ('{"update_id": 1, "message": {"text": "x"}}', "line 1: it is no entry of Bot API updates: it has no 'chat'"),
        (
            '{"messages": [{"type": "message", "id": "x", "text": "x"}]}',
            "message x of chat None: it is no entry of Telegram Desktop export",
        ),
        ("[1, 2]", "holds no message"),
    ],
)
def test_a_file_of_neither_format_is_refused_with_the_place_and_the_reason(
    tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "input.json"
    file.write_text(content)

    with pytest.raises(ConfigurationError, match=re.escape(message)):
        read_telegram(file)
