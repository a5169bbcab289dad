"""Reads Telegram: Bot API updates as JSON lines, and the chat export of Telegram Desktop.

Sources: https://core.telegram.org/bots/api#update, https://core.telegram.org/import-export.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from src.database.errors import ConfigurationError

__all__ = ["TelegramFile", "TelegramMessage", "read_telegram"]

_UPDATE_KINDS: Final = ("message", "edited_message", "channel_post", "edited_channel_post")
_MEDIA: Final = ("animation", "audio", "document", "photo", "sticker", "video", "video_note", "voice")
_OTHER_CONTENT: Final = ("contact", "dice", "location", "poll", "venue")
_EXPORTED_CONTENT: Final = ("contact_information", "location_information", "poll")
_EXPORTED_KINDS: Final = {
    "animation": "animation",
    "audio_file": "audio",
    "contact_information": "contact",
    "location_information": "location",
    "poll": "poll",
    "sticker": "sticker",
    "video_file": "video",
    "video_message": "video_note",
    "voice_message": "voice",
}
"""The export's names of what the Bot API names otherwise; any other file is a document."""
_LARGEST_ID: Final = 2**63 - 1
_SUPERGROUP: Final = -1_000_000_000_000
"""What the Bot API puts before the number of a supergroup or a channel; the export has the bare number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TelegramMessage:
    """A message as both formats tell it.

    Chats are numbered as the bot sees them: a private one as its user, a group negatively. `owner_id` is whose
    conversation it belongs to: the author's, or for a bot's own message in a private chat the other side's.
    """

    chat_id: int
    number: int
    owner_id: int
    author_id: int
    author_name: str | None
    username: str | None
    language: str | None
    is_bot: bool
    sent_at: datetime
    edited_at: datetime | None
    text: str | None = field(repr=False)
    attachments: list[dict[str, Any]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class TelegramFile:
    """What a file held: its messages, and how many entries were none (members who joined, button presses, ...)."""

    kind: str
    messages: list[TelegramMessage]
    skipped: int


@dataclass(frozen=True, slots=True)
class _Exported:
    """An entry of an export, with the chat that it is in, and in a chat with a bot the person."""

    chat: dict[str, Any]
    message: dict[str, Any]
    user_id: int | None


def read_telegram(path: Path) -> TelegramFile:
    """Read a file of either format, whole, before anything of it is used.

    Raises:
        ConfigurationError: It is neither, or an entry cannot be read; the message names the line or the message.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} must be a readable UTF-8 file: {type(error).__name__}") from None
    whole = _as_one_document(text)
    if isinstance(whole, dict) and ("messages" in whole or "chats" in whole):
        return _collect("Telegram Desktop export", path, _exported(whole), _from_export)
    if isinstance(whole, dict) and "result" in whole:  # what getUpdates answers
        return _collect("Bot API updates", path, _numbered(whole["result"]), _from_update)
    return _collect("Bot API updates", path, _lines(text, path), _from_update)


def _as_one_document(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _collect(
    kind: str, path: Path, entries: Iterator[tuple[str, Any]], parse: Callable[[Any], TelegramMessage | None]
) -> TelegramFile:
    messages, skipped, where = [], 0, "its structure"
    try:
        for where, entry in entries:  # noqa: B007 - named in the error
            message = parse(entry)
            if message is None:
                skipped += 1
            else:
                messages.append(message)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, OSError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else type(error).__name__
        raise ConfigurationError(f"{path}, {where}: it is no entry of {kind}: {what}") from None
    if not messages:
        raise ConfigurationError(f"{path} holds no message; it must be Bot API updates or a Telegram Desktop export")
    return TelegramFile(kind=kind, messages=messages, skipped=skipped)


def _lines(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(
                f"{path}, line {number}: it must be one JSON object, and is not ({getattr(error, 'msg', 'too deep')})"
            ) from None


def _numbered(updates: list[Any]) -> Iterator[tuple[str, Any]]:
    for number, update in enumerate(updates, start=1):
        yield f"update {number}", update


def _from_update(update: dict[str, Any]) -> TelegramMessage | None:
    message = next((update[kind] for kind in _UPDATE_KINDS if kind in update), None)
    if message is None:
        return None
    text = _text(message.get("text", message.get("caption")))
    attachments = [_attachment(kind, message[kind]) for kind in _MEDIA if kind in message]
    attachments += [{"kind": kind} for kind in _OTHER_CONTENT if kind in message]
    if text is None and not attachments:
        return None
    author = message.get("from") or message.get("sender_chat") or message["chat"]
    names = (author.get("first_name"), author.get("last_name"))
    edited = message.get("edit_date")
    answers_in_private = bool(author.get("is_bot")) and message["chat"].get("type") == "private"
    return TelegramMessage(
        chat_id=_id(message["chat"]["id"]),
        number=_id(message["message_id"]),
        owner_id=_id(message["chat"]["id"] if answers_in_private else author["id"]),
        author_id=_id(author["id"]),
        author_name=" ".join(_text(name) or "" for name in names if name) or _text(author.get("title")),
        username=_text(author.get("username")),
        language=_text(author.get("language_code")),
        is_bot=bool(author.get("is_bot")),
        sent_at=_instant(message["date"]),
        edited_at=_instant(edited) if edited else None,
        text=text,
        attachments=attachments,
    )


def _attachment(kind: str, media: Any) -> dict[str, Any]:
    file = media[-1] if isinstance(media, list) else media  # a photo comes in sizes, the largest last
    return {"kind": kind, "file_id": file["file_id"], "file_unique_id": file.get("file_unique_id")}


def _exported(export: dict[str, Any]) -> Iterator[tuple[str, _Exported]]:
    whole_account = [*export.get("chats", {}).get("list", []), *export.get("left_chats", {}).get("list", [])]
    for chat in whole_account or [export]:
        said = [message for message in chat["messages"] if message.get("type") == "message"]
        user_id = _user_of_bot_chat(chat, said) if chat.get("type") == "bot_chat" else None
        for message in chat["messages"]:
            yield f"message {message.get('id')} of chat {chat.get('id')}", _Exported(chat, message, user_id)


def _user_of_bot_chat(chat: dict[str, Any], messages: list[dict[str, Any]]) -> int:
    """Find the person in a chat with a bot: the export has the bot's number where the bot sees the person's."""
    authors = (_author_id(chat, message) for message in messages)
    return next((author for author in authors if author != int(chat["id"])), int(chat["id"]))


def _from_export(entry: _Exported) -> TelegramMessage | None:
    chat, message, user_id = entry.chat, entry.message, entry.user_id
    if message.get("type") != "message":
        return None
    text = _flatten(message.get("text", "")) or None
    kinds = {"photo": "photo", "file": _EXPORTED_KINDS.get(message.get("media_type", ""), "document")}
    attachments: list[dict[str, Any]] = [
        {"kind": kind, "path": _text(message[name])} for name, kind in kinds.items() if name in message
    ]
    attachments += [{"kind": _EXPORTED_KINDS[name]} for name in _EXPORTED_CONTENT if name in message]
    if text is None and not attachments:
        return None
    author_id = _author_id(chat, message)
    edited = message.get("edited_unixtime") or message.get("edited")
    return TelegramMessage(
        chat_id=_chat_id(chat) if user_id is None else user_id,
        number=_id(message["id"]),
        owner_id=author_id if user_id is None else user_id,
        author_id=author_id,
        author_name=_text(message.get("from")),
        username=None,
        language=None,
        is_bot=user_id is not None and author_id != user_id,
        sent_at=_instant(message.get("date_unixtime") or message["date"]),
        edited_at=_instant(edited) if edited else None,
        text=text,
        attachments=attachments,
    )


def _flatten(text: Any) -> str:
    """Join a text that the export cut into pieces (links, bold, ...)."""
    if isinstance(text, str):
        return text
    return "".join(piece if isinstance(piece, str) else piece["text"] for piece in text)


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError("a text that is none")
    return value


def _id(value: Any) -> int:
    """Check an id: a whole number of 64 bits."""
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _LARGEST_ID:
        raise ValueError("an id that is none")
    return value


def _chat_id(chat: dict[str, Any]) -> int:
    number, kind = _id(chat["id"]), str(chat.get("type", ""))
    if "supergroup" in kind or "channel" in kind:
        return _SUPERGROUP - number
    return -number if kind.endswith("group") else number


def _author_id(chat: dict[str, Any], message: dict[str, Any]) -> int:
    named = str(message.get("from_id") or "")
    if named.startswith("channel"):
        return _id(_SUPERGROUP - int(named.removeprefix("channel")))
    return _id(int(named.removeprefix("user"))) if named else _chat_id(chat)


def _instant(value: int | str) -> datetime:
    """Read Unix seconds, or the export's local time, which says no zone and is taken for UTC."""
    if isinstance(value, int) or value.isdecimal():
        return datetime.fromtimestamp(int(value), UTC)
    return datetime.fromisoformat(value).replace(tzinfo=UTC)
