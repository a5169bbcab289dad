"""thea-db demo: both formats of Telegram are imported once, and tables are printed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from tests.acceptance.command import ROOT, database, run
from tests.conftest import url_of

SAMPLE = ROOT / "src" / "database" / "cli" / "demo" / "sample.jsonl"


def import_of(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Return the counts of an import, from the line that it prints."""
    assert done.returncode == 0, done.stderr
    line = re.search(r"([\d,]+) added, ([\d,]+) duplicates, ([\d,]+) edits applied, ([\d,]+) users", done.stdout)
    assert line, done.stdout
    return dict(
        zip(("added", "duplicates", "edits", "users"), (int(n.replace(",", "")) for n in line.groups()), strict=True)
    )


def test_the_demo_writes_once_and_prints_example_queries(tmp_path: Path, cloned_database: URL) -> None:
    first = run("demo", folder=tmp_path, DATABASE_URL=database(cloned_database))
    again = run("demo", folder=tmp_path, DATABASE_URL=database(cloned_database))

    assert import_of(first)["added"] >= 2000
    assert import_of(first)["edits"] > 0
    assert import_of(first)["duplicates"] > 0
    assert import_of(again) == {
        "added": 0,
        "duplicates": sum(import_of(first)[kind] for kind in ("added", "duplicates", "edits")),
        "edits": 0,
        "users": 0,
    }
    for done in (first, again):
        for title in (
            "The rows of this tenant",
            "The last 10 messages",
            "Upcoming events",
            "A due reminder, claimed and acknowledged",
            "Notes that a search for",
            "The same queries as another tenant",
        ):
            assert title in done.stdout
        assert "messages/s" in done.stdout
        assert re.search(r"«\w+»", done.stdout), "the word found is marked in its snippet"
        others = done.stdout.split("as another tenant")[1]
        assert re.findall(r"  (\d+)$", others, re.MULTILINE) == ["0"] * 5


def test_the_sample_has_the_cases_of_real_updates() -> None:
    updates = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
    messages = [update["message"] for update in updates if "message" in update]
    texts = [message.get("text", "") for message in messages]
    ids = [update["update_id"] for update in updates]

    assert len({(m["chat"]["id"], m["message_id"]) for m in messages}) >= 2000
    assert len({m["from"]["id"] for m in messages}) >= 10
    assert len({m["chat"]["id"] for m in messages}) >= 10
    assert {m["from"]["language_code"] for m in messages} == {"es", "en"}
    assert any("edited_message" in update for update in updates)
    assert any("caption" in message for message in messages)
    assert len(ids) > len(set(ids)), "some updates are delivered again"
    assert ids != sorted(ids), "some updates are late"
    assert any("\0" in entry for entry in texts)
    assert max(map(len, texts)) == 4096
    assert any("🏳️‍🌈" in entry for entry in texts)


GROUP = 1234567890
UPDATES: list[dict[str, Any]] = [
    {
        "update_id": 1,
        "message": {
            "message_id": 10,
            "from": {"id": 5, "is_bot": False, "first_name": "Ada", "language_code": "en"},
            "chat": {"id": -1_000_000_000_000 - GROUP, "type": "supergroup", "title": "Group"},
            "date": 1_772_442_000,
            "text": "hello, see https://example.org now",
        },
    },
    {
        "update_id": 2,
        "message": {
            "message_id": 11,
            "from": {"id": 5, "is_bot": False, "first_name": "Ada", "language_code": "en"},
            "chat": {"id": -1_000_000_000_000 - GROUP, "type": "supergroup", "title": "Group"},
            "date": 1_772_442_060,
            "photo": [{"file_id": "small", "file_unique_id": "s"}, {"file_id": "large", "file_unique_id": "l"}],
            "caption": "a picture",
        },
    },
    {"update_id": 3, "callback_query": {"id": "x"}},
]
EXPORT: dict[str, Any] = {
    "name": "Group",
    "type": "private_supergroup",
    "id": GROUP,
    "messages": [
        {"id": 1, "type": "service", "action": "create_group", "date": "2026-03-01T00:00:00"},
        {
            "id": 10,
            "type": "message",
            "date": "2026-03-02T10:00:00",
            "date_unixtime": "1772442000",
            "from": "Ada",
            "from_id": "user5",
            "text": ["hello, see ", {"type": "link", "text": "https://example.org"}, " now"],
        },
        {
            "id": 11,
            "type": "message",
            "date": "2026-03-02T10:01:00",
            "date_unixtime": "1772442060",
            "edited": "2026-03-02T10:05:00",
            "edited_unixtime": "1772442300",
            "from": "Ada",
            "from_id": "user5",
            "photo": "photos/photo_1.jpg",
            "text": "a better caption",
        },
        {
            "id": 12,
            "type": "message",
            "date": "2026-03-02T10:02:00",
            "from": None,
            "from_id": "user6",
            "text": "of a deleted account",
        },
    ],
}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    updates, export = tmp_path / "updates.jsonl", tmp_path / "result.json"
    updates.write_text("\n".join(json.dumps(update) for update in UPDATES))
    export.write_text(json.dumps(EXPORT, indent=1))
    return updates, export


@pytest.mark.slow
def test_a_message_in_an_update_and_in_an_export_is_stored_once(
    tmp_path: Path, cloned_database: URL, files: tuple[Path, Path]
) -> None:
    updates, export = files
    url = database(cloned_database)

    assert import_of(run("demo", updates, folder=tmp_path, DATABASE_URL=url)) == {
        "added": 2, "duplicates": 0, "edits": 0, "users": 1
    }  # fmt: skip
    assert import_of(run("demo", export, folder=tmp_path, DATABASE_URL=url)) == {
        "added": 1, "duplicates": 1, "edits": 1, "users": 1
    }  # fmt: skip
    assert import_of(run("demo", updates, folder=tmp_path, DATABASE_URL=url))["added"] == 0
    assert import_of(run("demo", export, folder=tmp_path, DATABASE_URL=url))["added"] == 0


def write_large_export(file: Path, *, messages: int) -> None:
    """Write an export with 50 kB for each message: 4 kB of text, which its entities repeat."""
    text = "una l\u00ednea de texto con un emoji \U0001f642 " * 100
    entities = [{"type": "plain", "text": text}] * 12
    entry = {"type": "message", "from": "Ada", "text": text, "text_entities": entities}
    with file.open("w", encoding="utf-8") as out:
        out.write('{"name": "Group", "type": "private_supergroup", "id": 1234567890, "messages": [\n')
        for number in range(1, messages + 1):
            own = {"id": number, "date_unixtime": str(1_772_442_000 + number), "from_id": f"user{number % 50 + 1}"}
            out.write(json.dumps({**entry, **own}, ensure_ascii=False) + (",\n" if number < messages else "\n]}"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of a process's memory")
def test_an_export_of_500_mb_is_imported_with_limited_memory(open_folder: Path, cloned_database: URL) -> None:
    file, limit = open_folder / "result.json", 300 * 2**20
    write_large_export(file, messages=10_600)
    assert file.stat().st_size > 500 * 2**20 > limit
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({limit}, {limit}))"

    done = subprocess.run(
        [sys.executable, "-c", f"{limited}; from src.database.cli import main; main()", "demo", str(file)],
        cwd=open_folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "DATABASE_URL": database(cloned_database)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert import_of(done)["added"] == 10_600


@pytest.mark.slow
def test_a_key_of_another_message_is_counted_and_explained(
    tmp_path: Path, cloned_database: URL, files: tuple[Path, Path]
) -> None:
    url = database(cloned_database)
    run("demo", files[0], folder=tmp_path, DATABASE_URL=url)
    clash = json.loads(json.dumps(UPDATES[:2]))
    clash[0]["message"]["text"] = "another message altogether"
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps(update) for update in clash))

    done = run("demo", other, folder=tmp_path, DATABASE_URL=url)
    with_account = run("demo", other, "--account", "mine", folder=tmp_path, DATABASE_URL=url)

    assert import_of(done)["duplicates"] == 1
    assert "1 messages were refused" in done.stdout
    assert "--account" in done.stdout
    assert import_of(with_account)["added"] == 2


def test_a_file_of_neither_format_is_rejected_before_writing(tmp_path: Path) -> None:
    file = tmp_path / "input.json"
    file.write_text("not json")

    done = run("demo", file, folder=tmp_path, DATABASE_URL=database(url_of("postgres")))

    assert done.returncode == 2
    assert "line 1: the line must be one JSON object" in done.stderr
    assert "Traceback" not in done.stderr


def in_private(entry: str, /, **of_message: Any) -> dict[str, Any]:
    ada = {"id": 5, "is_bot": False, "first_name": "Ada"}
    chat = {"id": 5, "type": "private", "first_name": "Ada"}
    return {"message_id": 7, "from": ada, "chat": chat, "date": 1_772_442_000, "text": entry, **of_message}


@pytest.mark.slow
def test_a_chat_with_a_bot_is_the_same_in_both_formats(tmp_path: Path, cloned_database: URL) -> None:
    """In updates the chat has the id of the user, in exports the id of the bot."""
    bot = {"id": 99, "is_bot": True, "first_name": "Bot"}
    updates = [
        {"update_id": 1, "message": in_private("hello")},
        {"update_id": 2, "message": in_private("hello, Ada", **{"message_id": 8, "from": bot})},
    ]
    entry = {"type": "message", "date": "2026-03-02T10:00:00"}
    export = {
        "chats": {
            "list": [
                {
                    "type": "bot_chat",
                    "id": 99,
                    "messages": [
                        {**entry, "id": 8, "from": "Bot", "from_id": "user99", "text": "hello, Ada"},
                        {**entry, "id": 7, "from": "Ada", "from_id": "user5", "text": "hello"},
                    ],
                }
            ]
        }
    }
    url = database(cloned_database)
    (tmp_path / "updates.json").write_text(json.dumps({"ok": True, "result": updates}))
    (tmp_path / "result.json").write_text(json.dumps(export))

    first = run("demo", tmp_path / "updates.json", folder=tmp_path, DATABASE_URL=url)
    second = run("demo", tmp_path / "result.json", folder=tmp_path, DATABASE_URL=url)

    assert import_of(first) == {"added": 2, "duplicates": 0, "edits": 0, "users": 1}
    assert import_of(second) == {"added": 0, "duplicates": 2, "edits": 0, "users": 0}
    assert re.search(r"^  1 +[\d-]+ [\d:]+ +user +hello$", second.stdout, re.MULTILINE)
    assert re.search(r"^  2 +[\d-]+ [\d:]+ +assistant +hello, Ada$", second.stdout, re.MULTILINE)


@pytest.mark.slow
def test_a_file_whose_keys_are_all_taken_fails_with_the_reason(tmp_path: Path, cloned_database: URL) -> None:
    url = database(cloned_database)
    for text in ("one", "two"):
        file = tmp_path / f"{text}.jsonl"
        file.write_text(json.dumps({"update_id": 1, "message": in_private(text)}))
        done = run("demo", file, folder=tmp_path, DATABASE_URL=url)

    assert import_of(done)["added"] == 0
    assert "1 messages were refused" in done.stdout


@pytest.mark.slow
def test_a_database_error_during_the_import_is_one_message(tmp_path: Path, cloned_database: URL) -> None:
    assert cloned_database.database is not None
    owner = database(url_of(cloned_database.database, "thea_owner"))
    unknown_user = database(url_of(cloned_database.database, "nobody"))

    done = run("demo", folder=tmp_path, DATABASE_URL=unknown_user, DATABASE_MIGRATION_URL=owner)

    assert done.returncode == 2
    assert "the server refused the user or the password" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_very_long_names_are_shortened(tmp_path: Path, cloned_database: URL) -> None:
    file = tmp_path / "updates.jsonl"
    someone = {"id": 5, "first_name": "x" * 5000, "username": "y" * 5000, "language_code": "z" * 5000}
    file.write_text(json.dumps({"update_id": 1, "message": in_private("x", **{"from": someone})}))

    assert import_of(run("demo", file, folder=tmp_path, DATABASE_URL=database(cloned_database)))["added"] == 1


@pytest.mark.slow
def test_an_account_that_would_break_the_key_is_rejected(tmp_path: Path) -> None:
    done = run("demo", "--account", "a:b", folder=tmp_path)

    assert done.returncode == 2
    assert "--account must be" in done.stderr
