"""Reads Telegram: Bot API updates as JSON lines, and the chat export of Telegram Desktop.

Sources: https://core.telegram.org/bots/api#update, https://core.telegram.org/import-export.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from src.database.errors import ConfigurationError

__all__ = ["TelegramFile", "TelegramMessage", "read_telegram"]

_UPDATE_KINDS: Final = ("message", "edited_message", "channel_post", "edited_channel_post")
_MEDIA: Final = ("animation", "audio", "document", "photo", "sticker", "video", "video_note", "voice")
_OTHER_CONTENT: Final = ("contact", "dice", "location", "poll", "venue")
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
    if whole is not None and ("messages" in whole or "chats" in whole):
        return _collect("Telegram Desktop export", path, _exported(whole))
    return _collect("Bot API updates", path, _updates(text, path))


def _as_one_document(text: str) -> dict[str, Any] | None:
    try:
        document = json.loads(text)
    except json.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _collect(kind: str, path: Path, entries: Iterator[tuple[str, TelegramMessage | None]]) -> TelegramFile:
    messages, skipped, where = [], 0, "the first entry"
    try:
        for where, message in entries:  # noqa: B007 - named in the error
            if message is None:
                skipped += 1
            else:
                messages.append(message)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else type(error).__name__
        raise ConfigurationError(f"{path}: the entry after {where} is no {kind} entry: {what}") from None
    if not messages:
        raise ConfigurationError(f"{path} holds no message; it must be Bot API updates or a Telegram Desktop export")
    return TelegramFile(kind=kind, messages=messages, skipped=skipped)


def _updates(text: str, path: Path) -> Iterator[tuple[str, TelegramMessage | None]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            update = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigurationError(
                f"{path}, line {number}: it must be one JSON object, and is not ({error.msg}, column {error.colno})"
            ) from None
        kind = next((kind for kind in _UPDATE_KINDS if kind in update), None)
        yield f"line {number}", _from_update(update[kind]) if kind else None


def _from_update(message: dict[str, Any]) -> TelegramMessage | None:
    text = message.get("text", message.get("caption"))
    attachments = [_attachment(kind, message[kind]) for kind in _MEDIA if kind in message]
    attachments += [{"kind": kind} for kind in _OTHER_CONTENT if kind in message]
    if text is None and not attachments:
        return None
    author = message.get("from") or message.get("sender_chat") or message["chat"]
    names = (author.get("first_name"), author.get("last_name"))
    edited = message.get("edit_date")
    answers_in_private = bool(author.get("is_bot")) and message["chat"].get("type") == "private"
    return TelegramMessage(
        chat_id=int(message["chat"]["id"]),
        number=int(message["message_id"]),
        owner_id=int(message["chat"]["id"] if answers_in_private else author["id"]),
        author_id=int(author["id"]),
        author_name=" ".join(name for name in names if name) or author.get("title"),
        username=author.get("username"),
        language=author.get("language_code"),
        is_bot=bool(author.get("is_bot")),
        sent_at=_instant(message["date"]),
        edited_at=_instant(edited) if edited else None,
        text=text,
        attachments=attachments,
    )


def _attachment(kind: str, media: Any) -> dict[str, Any]:
    file = media[-1] if isinstance(media, list) else media  # a photo comes in sizes, the largest last
    return {"kind": kind, "file_id": file["file_id"], "file_unique_id": file.get("file_unique_id")}


def _exported(export: dict[str, Any]) -> Iterator[tuple[str, TelegramMessage | None]]:
    chats = export["chats"]["list"] if "chats" in export else [export]
    for chat in chats:
        said = [message for message in chat["messages"] if message.get("type") == "message"]
        user_id = _user_of_bot_chat(chat, said) if chat.get("type") == "bot_chat" else None
        for message in chat["messages"]:
            where = f"message {message.get('id')} of chat {chat.get('id')}"
            is_said = message.get("type") == "message"
            yield where, _from_export(chat, message, user_id) if is_said else None


def _user_of_bot_chat(chat: dict[str, Any], messages: list[dict[str, Any]]) -> int:
    """Find the person in a chat with a bot: the export has the bot's number where the bot sees the person's."""
    authors = (_author_id(chat, message) for message in messages)
    return next((author for author in authors if author != int(chat["id"])), int(chat["id"]))


def _from_export(chat: dict[str, Any], message: dict[str, Any], user_id: int | None) -> TelegramMessage | None:
    text = _flatten(message.get("text", "")) or None
    attachments = [
        {"kind": message.get("media_type", kind), "path": message[kind]}
        for kind in ("photo", "file")
        if kind in message
    ]
    attachments += [
        {"kind": kind} for kind in ("contact_information", "location_information", "poll") if kind in message
    ]
    if text is None and not attachments:
        return None
    author_id = _author_id(chat, message)
    edited = message.get("edited_unixtime") or message.get("edited")
    return TelegramMessage(
        chat_id=_chat_id(chat) if user_id is None else user_id,
        number=int(message["id"]),
        owner_id=author_id if user_id is None else user_id,
        author_id=author_id,
        author_name=message.get("from"),
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
    return "".join(piece if isinstance(piece, str) else str(piece["text"]) for piece in text)


def _chat_id(chat: dict[str, Any]) -> int:
    number, kind = int(chat["id"]), str(chat.get("type", ""))
    if "supergroup" in kind or "channel" in kind:
        return _SUPERGROUP - number
    return -number if kind.endswith("group") else number


def _author_id(chat: dict[str, Any], message: dict[str, Any]) -> int:
    named = str(message.get("from_id") or "")
    if named.startswith("channel"):
        return _SUPERGROUP - int(named.removeprefix("channel"))
    return int(named.removeprefix("user")) if named else _chat_id(chat)


def _instant(value: int | str) -> datetime:
    """Read Unix seconds, or the export's local time, which says no zone and is taken for UTC."""
    if isinstance(value, int) or value.isdecimal():
        return datetime.fromtimestamp(int(value), UTC)
    return datetime.fromisoformat(value).replace(tzinfo=UTC)
