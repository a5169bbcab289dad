"""Telegram's files: messages are imported, other entries are counted, and no message ends the import."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from src.database import get_db
from src.database.errors import ConfigurationError
from src.database.integrations.telegram import (
    CHAT_PROVIDER,
    ImportReport,
    TelegramMessage,
    import_messages,
    importer,
    read_telegram,
    sender_of,
)
from src.database.repositories import MessageHistoryRepository, NewMessage, UserRepository
from src.database.store import get_store


def in_private(text: str, /, **of_message: Any) -> dict[str, Any]:
    ada = {"id": 5, "is_bot": False, "first_name": "Ada"}
    chat = {"id": 5, "type": "private", "first_name": "Ada"}
    return {"message_id": 7, "from": ada, "chat": chat, "date": 1_772_442_000, "text": text, **of_message}


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
def test_a_message_that_cannot_be_read_is_counted_and_named(tmp_path: Path, of_message: dict[str, Any]) -> None:
    file = tmp_path / "updates.jsonl"
    good = json.dumps({"update_id": 1, "message": in_private("x")})
    file.write_text(f"{good}\n{json.dumps({'update_id': 2, 'message': in_private('x', **of_message)})}\n{good}")

    content = read_telegram(file)

    assert (content.count, content.skipped) == (2, {"unreadable": 1})
    assert content.first_fault is not None
    assert content.first_fault.startswith("line 2: not an entry of Bot API updates: ")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, f'{{"update_id": {"9" * 5000}}}', '{"result": 5}'])
def test_a_file_that_no_parser_can_read_is_refused(tmp_path: Path, text: str) -> None:
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
        ("", "the file has no message"),
        ("not json", "line 1: the line must be one JSON object"),
        ('{"update_id": 1}\nnot json', "line 2: the line must be one JSON object"),
        ('{"update_id": 1, "message": {"text": "x"}}', "line 1: not an entry of Bot API updates: 'chat' is missing"),
        (
            '{"messages": [{"type": "message", "id": "x", "text": "x"}]}',
            "message x of chat None: not an entry of Telegram Desktop export",
        ),
        ("[1, 2]", "the file has no message"),
    ],
)
def test_a_file_of_neither_format_is_refused_with_the_place_and_the_reason(
    tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "input.json"
    file.write_text(content)

    with pytest.raises(ConfigurationError, match=re.escape(message)):
        read_telegram(file)


GROUP = 1234567890
IN_BOT_API = -1_000_000_000_000 - GROUP
ADA = {"id": 5, "is_bot": False, "first_name": "Ada"}
BOT = {"id": 99, "is_bot": True, "first_name": "Bot", "username": "ada_bot"}
ANONYMOUS = {"id": 1087968824, "is_bot": True, "first_name": "Group", "username": "GroupAnonymousBot"}
AS_CHANNEL = {"id": 136817688, "is_bot": True, "first_name": "Channel", "username": "Channel_Bot"}
SUPERGROUP: dict[str, Any] = {"id": IN_BOT_API, "type": "supergroup", "title": "Group"}
CHANNEL: dict[str, Any] = {"id": IN_BOT_API - 1, "type": "channel", "title": "News"}


def updates(tmp_path: Path, *contents: dict[str, Any]) -> Path:
    file = tmp_path / "updates.jsonl"
    file.write_text("\n".join(json.dumps({"update_id": number, **one}) for number, one in enumerate(contents)))
    return file


def export(tmp_path: Path, *messages: dict[str, Any], **chat: Any) -> Path:
    file = tmp_path / "result.json"
    entries = [{"type": "message", "date_unixtime": "1772442000", "from": "x", **message} for message in messages]
    file.write_text(json.dumps({"type": "private_supergroup", "id": GROUP, **chat, "messages": entries}, indent=1))
    return file


def only(file: Path) -> TelegramMessage:
    [message] = read_telegram(file).messages()
    return message


async def import_file(file: Path) -> ImportReport:
    return await import_messages(read_telegram(file).messages(), account="bot", on_progress=lambda _: None)


async def roles() -> set[str]:
    async with get_db() as session:
        return {one.role async for one in MessageHistoryRepository(session).stream()}


@pytest.mark.parametrize(
    ("update", "owner", "is_bot"),
    [
        ({"channel_post": {**in_private("x"), "from": None, "chat": CHANNEL}}, IN_BOT_API - 1, False),
        ({"channel_post": {**in_private("x"), "sender_chat": CHANNEL, "chat": CHANNEL}}, IN_BOT_API - 1, False),
        (
            {"message": {**in_private("x"), "from": ANONYMOUS, "sender_chat": SUPERGROUP, "chat": SUPERGROUP}},
            IN_BOT_API,
            False,
        ),
        (
            {"message": {**in_private("x"), "from": AS_CHANNEL, "sender_chat": CHANNEL, "chat": SUPERGROUP}},
            IN_BOT_API - 1,
            False,
        ),
        ({"message": {**in_private("x"), "from": BOT, "chat": SUPERGROUP}}, 99, True),
        ({"message": {**in_private("x"), "from": BOT}}, 5, True),
        ({"business_message": in_private("x", business_connection_id="bc1")}, 5, False),
        ({"business_message": in_private("x", business_connection_id="bc1", **{"from": {"id": 8}})}, 5, True),
        ({"edited_business_message": in_private("x", business_connection_id="bc1", edit_date=1_772_442_001)}, 5, False),
    ],
)
def test_each_kind_of_author_has_an_owner_and_a_role(
    tmp_path: Path, update: dict[str, Any], owner: int, is_bot: bool
) -> None:
    message = only(updates(tmp_path, update))

    assert (message.owner_id, message.is_bot, message.text) == (owner, is_bot, "x")


@pytest.mark.parametrize(
    ("from_id", "owner"),
    [
        ("user5", 5),
        (f"channel{GROUP}", IN_BOT_API),
        ("chat42", -42),
        (None, IN_BOT_API),
    ],
)
def test_each_author_of_an_export_has_an_owner(tmp_path: Path, from_id: str | None, owner: int) -> None:
    message = only(export(tmp_path, {"id": 1, "from_id": from_id, "text": "x"}))

    assert (message.owner_id, message.is_bot) == (owner, False)


CONTENTS: dict[str, tuple[dict[str, Any], dict[str, Any], str | None]] = {
    "checklist": (
        {"checklist": {"title": "Shop", "tasks": [{"id": 1, "text": "milk"}, {"id": 2, "text": "tea"}]}},
        {"todo_list": {"title": "Shop", "answers": [{"id": 1, "text": "milk"}, {"id": 2, "text": "tea"}]}},
        "Shop\n- milk\n- tea",
    ),
    "paid media": ({"paid_media": {"star_count": 5}, "caption": "pay"}, {"paid_stars_amount": 5, "text": "pay"}, "pay"),
    "game": ({"game": {"title": "g"}}, {"game_title": "g"}, None),
    "venue": ({"venue": {}, "location": {}}, {"place_name": "p", "location_information": {}}, None),
    "animation": (
        {"animation": {"file_id": "a"}, "document": {"file_id": "a"}},
        {"file": "a.mp4", "media_type": "animation"},
        None,
    ),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_content_is_the_same_in_both_formats(tmp_path: Path, name: str) -> None:
    in_update, in_export, text = CONTENTS[name]
    message = {**in_private("x"), "chat": SUPERGROUP, **in_update}
    del message["text"]

    first = only(updates(tmp_path, {"message": message}))
    second = only(export(tmp_path, {"id": 7, "from_id": "user5", **in_export}))

    assert (first.text, second.text) == (text, text)
    assert [one["kind"] for one in first.attachments] == [one["kind"] for one in second.attachments]


def test_entries_without_a_message_are_counted_by_kind(tmp_path: Path) -> None:
    joined = in_private("x", new_chat_members=[ADA])
    del joined["text"]

    content = read_telegram(
        updates(
            tmp_path,
            {"message": in_private("x")},
            {"callback_query": {}},
            {"message_reaction": {}},
            {"message": joined},
        )
    )

    assert content.skipped == {"callback_query": 1, "message_reaction": 1, "new_chat_members": 1}
    assert read_telegram(
        export(
            tmp_path,
            {"id": 1, "from_id": "user5", "text": "x"},
            {"id": 2, "type": "service", "action": "pin_message"},
            {"id": 3, "from_id": "user5", "text": ""},
            {"id": "4", "from_id": "user5", "text": "x"},
        )
    ).skipped == {"pin_message": 1, "message without text": 1, "unreadable": 1}


def test_raw_control_characters_are_accepted(tmp_path: Path) -> None:
    file = export(tmp_path, {"id": 1, "from_id": "user5", "text": "a?b"})
    file.write_text(file.read_text().replace("a?b", "a\x0cb"))

    assert only(file).text == "a\x0cb"


def test_a_syntax_error_of_an_export_is_reported_at_its_line(tmp_path: Path) -> None:
    file = export(tmp_path, {"id": 1, "from_id": "user5", "text": "x"}, {"id": 2, "from_id": "user5", "text": "x"})
    lines = file.read_text().split("\n")
    number = next(number for number, line in enumerate(lines) if '"id": 2' in line)
    lines[number] = lines[number].replace("2", "two")
    file.write_text("\n".join(lines))

    with pytest.raises(ConfigurationError, match=f"line {number + 1}: Expecting value"):
        read_telegram(file)


def test_a_line_that_is_not_json_does_not_end_the_import(tmp_path: Path) -> None:
    file = updates(tmp_path, {"message": in_private("x")})
    file.write_text(f"{{broken\n{file.read_text()}")

    content = read_telegram(file)

    assert (content.count, content.skipped) == (1, {"not JSON": 1})
    assert content.first_fault is not None
    assert content.first_fault.startswith("line 1: the line must be one JSON object")


def test_the_id_of_a_chat_may_follow_its_messages(tmp_path: Path) -> None:
    message = {"type": "message", "id": 7, "date_unixtime": "1772442000", "from_id": "user99", "text": "hello"}
    person = {**message, "id": 8, "from_id": "user5"}
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"chats": {"list": [{"messages": [message, person], "type": "bot_chat", "id": 99}]}}))

    assert [(one.chat_id, one.owner_id, one.is_bot) for one in read_telegram(file).messages()] == [
        (5, 5, True),
        (5, 5, False),
    ]


@pytest.mark.slow
def test_a_large_export_is_read_in_constant_memory(tmp_path: Path) -> None:
    text = "a line \u00f1 \U0001f642 " * 200
    file = export(tmp_path, *({"id": number, "from_id": "user5", "text": text} for number in range(3_000)))
    assert file.stat().st_size > 8_000_000

    tracemalloc.start()
    try:
        content = read_telegram(file)
        count = sum(message.text == text for message in content.messages())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert (content.count, count) == (3_000, 3_000)
    assert peak < 4_000_000


async def test_the_import_reads_no_further_than_a_window(
    tmp_path: Path, cloned_database: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "WINDOW", 10)
    content = read_telegram(updates(tmp_path, *({"message": in_private("x", message_id=one)} for one in range(1, 31))))
    read, written, ahead = 0, 0, []

    def messages() -> Iterator[TelegramMessage]:
        nonlocal read
        for message in content.messages():
            read += 1
            ahead.append(read - written)
            yield message

    def note(count: int) -> None:
        nonlocal written
        written += count

    report = await import_messages(messages(), account="bot", on_progress=note)

    assert (report.added, written, max(ahead)) == (30, 30, 10)


LINKED_POST: dict[str, Any] = {
    "message_id": 7,
    "from": {"id": 777000, "is_bot": False, "first_name": "Telegram"},
    "sender_chat": CHANNEL,
    "chat": SUPERGROUP,
    "date": 1_772_442_000,
    "is_automatic_forward": True,
    "forward_origin": {"type": "channel", "chat": CHANNEL, "message_id": 3, "date": 1_772_442_000},
    "text": "news",
}
"""A post of the linked channel in its discussion group."""


@pytest.mark.parametrize(
    ("update", "chat_id"),
    [
        ({"channel_post": {**LINKED_POST, "from": None, "chat": CHANNEL}}, CHANNEL["id"]),
        ({"message": LINKED_POST}, CHANNEL["id"]),
        ({"message": {**LINKED_POST, "from": ANONYMOUS, "sender_chat": SUPERGROUP}}, SUPERGROUP["id"]),
        ({"message": {**LINKED_POST, "from": AS_CHANNEL}}, CHANNEL["id"]),
    ],
    ids=["channel post", "post of the linked channel", "anonymous administrator", "person as a channel"],
)
async def test_a_chat_that_writes_is_a_user_that_is_no_person(
    tmp_path: Path, cloned_database: URL, update: dict[str, Any], chat_id: int
) -> None:
    reports = [await import_file(updates(tmp_path, update)) for _ in range(2)]

    async with get_db() as session:
        users = UserRepository(session)
        assert await users.count() == 1
        user = await users.get_by_identity(CHAT_PROVIDER, str(chat_id))
    assert user is not None
    assert (user.is_person, user.telegram_id) == (False, None)
    assert user.display_name in {"Group", "News"}
    assert [(report.added, report.duplicates) for report in reports] == [(1, 0), (0, 1)]


async def test_a_turn_of_a_chat_and_its_import_have_one_user(tmp_path: Path, cloned_database: URL) -> None:
    await import_file(updates(tmp_path, {"message": LINKED_POST}))

    sender = sender_of(CHANNEL["id"])
    turn = await get_store().turn(sender, "telegram", str(SUPERGROUP["id"]), [NewMessage(message_id="1", role="user")])

    assert (turn.user_created, turn.conversation_started, len(turn.recent)) == (False, False, 1)
    assert sender_of(42) == 42


async def test_a_message_in_the_name_of_a_chat_is_not_the_assistants(tmp_path: Path, cloned_database: URL) -> None:
    anonymous = {**in_private("of an admin"), "from": ANONYMOUS, "sender_chat": SUPERGROUP, "chat": SUPERGROUP}
    post = {**in_private("news"), "sender_chat": CHANNEL, "chat": CHANNEL}
    del post["from"]

    report = await import_file(updates(tmp_path, {"message": anonymous}, {"channel_post": post}))
    again = await import_file(
        export(
            tmp_path,
            {"id": 7, "from_id": f"channel{GROUP}", "text": "of an admin"},
            {"id": 8, "from_id": "chat42", "text": "x"},
        )
    )

    assert (report.added, report.users_created, report.conflicts) == (2, 2, 0)
    assert (again.added, again.duplicates, again.conflicts) == (1, 1, 0)
    assert await roles() == {"user"}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_a_bots_answer_in_a_supergroup_is_one_in_both_formats(
    tmp_path: Path, cloned_database: URL, order: Sequence[int]
) -> None:
    files = [
        updates(tmp_path, {"message": {**in_private("answer"), "from": BOT, "chat": SUPERGROUP}}),
        export(tmp_path, {"id": 7, "from_id": "user99", "text": "answer"}, {"id": 8, "from_id": "user99", "text": "2"}),
    ]

    reports = [await import_file(files[number]) for number in order]

    assert [report.conflicts for report in reports] == [0, 0]
    assert sum(report.added for report in reports) == 2
    assert sum(report.duplicates for report in reports) == 1


async def test_a_message_that_the_database_refuses_does_not_end_the_import(
    tmp_path: Path, cloned_database: URL
) -> None:
    content = updates(
        tmp_path,
        {"message": in_private("one", message_id=1)},
        {"business_message": in_private("x", message_id=2, business_connection_id="b" * 600)},
        {"message": in_private("three", message_id=3)},
    )

    report = await import_file(content)

    assert (report.added, report.refused.total()) == (2, 1)


async def test_a_business_chat_is_separate_from_the_chat_with_the_bot(tmp_path: Path, cloned_database: URL) -> None:
    report = await import_file(
        updates(
            tmp_path,
            {"message": in_private("to the bot")},
            {"business_message": in_private("to the business", business_connection_id="bc1")},
        )
    )

    assert (report.added, report.conversations_started, report.conflicts) == (2, 2, 0)
