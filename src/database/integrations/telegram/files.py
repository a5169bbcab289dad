"""Read Telegram's files: Bot API updates as JSON lines, and the chat export of Telegram Desktop.

Sources: https://core.telegram.org/bots/api#update, https://core.telegram.org/import-export, and for the export
`export_output_json.cpp` of Telegram Desktop.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from src.database.errors import ConfigurationError
from src.database.integrations.telegram.json_stream import JsonStream, JsonSyntaxError

_UPDATES: Final = "Bot API updates"
_EXPORT: Final = "Telegram Desktop export"
_UPDATE_KINDS: Final = (
    "message",
    "edited_message",
    "channel_post",
    "edited_channel_post",
    "business_message",
    "edited_business_message",
    "guest_message",
)
_MEDIA: Final = ("animation", "audio", "document", "photo", "sticker", "video", "video_note", "voice")
_EXPORTED_CONTENT: Final = {
    "todo_list": "checklist",
    "contact_information": "contact",
    "game_title": "game",
    "giveaway_information": "giveaway",
    "invoice_information": "invoice",
    "location_information": "location",
    "paid_stars_amount": "paid_media",
    "poll": "poll",
    "place_name": "venue",
}
"""The export's names of content that is neither text nor a file, and the Bot API's."""
_OTHER_CONTENT: Final = sorted({*_EXPORTED_CONTENT.values(), "dice", "story"})
_EXPORTED_KINDS: Final = {
    "animation": "animation",
    "audio_file": "audio",
    "sticker": "sticker",
    "video_file": "video",
    "video_message": "video_note",
    "voice_message": "voice",
}
"""The export's names of files, and the Bot API's; any other file is a document."""
_ABOUT_A_MESSAGE: Final = frozenset(
    {
        "author_signature", "business_connection_id", "chat", "date", "from", "message_id", "message_thread_id",
        "sender_boost_count", "sender_business_bot", "sender_chat", "text",
    }
)  # fmt: skip
_LARGEST_ID: Final = 2**63 - 1
_SUPERGROUP: Final = -1_000_000_000_000
"""The Bot API subtracts the number of a supergroup or a channel from this; the export has the number itself."""
_AUTHORS_OF_BOT_CHAT: Final = 2
_UNREADABLE: Final = (LookupError, TypeError, ValueError, AttributeError, OverflowError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class TelegramMessage:
    """A message of either format.

    Attributes:
        chat_id: The chat in the Bot API's numbers: a private chat has the id of its user, a group a negative id.
        owner_id: The id of the user whose conversation the message belongs to: the author, or in a private chat with a
            bot the person. A channel, or a group whose administrator is anonymous, owns what is written in its name;
            its id is negative.
        business: The business connection, whose account numbers the messages.
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
    business: str | None = None

    @property
    def is_by_owner(self) -> bool:
        """True if the owner of the conversation wrote the message."""
        return self.author_id == self.owner_id


@dataclass(frozen=True, slots=True)
class TelegramFile:
    """A file of messages, and the number of its entries that cannot be imported by kind. It keeps no messages."""

    kind: str
    path: Path
    count: int
    skipped: Counter[str]
    first_fault: str | None
    """The place of the first entry that cannot be read, with the reason."""

    def messages(self) -> Iterator[TelegramMessage]:
        """Read the file again, and yield its messages in the order of the file."""
        for _, parsed in _parse(self.path):
            if isinstance(parsed, TelegramMessage):
                yield parsed


class _Skipped(NamedTuple):
    """An entry without a message."""

    kind: str
    fault: str | None = None


class _Entry(NamedTuple):
    """An entry of a file, or the reason why the entry cannot be read."""

    where: str
    content: Any
    fault: str | None = None


class _Exported(NamedTuple):
    """A message of an export, and its chat with `id`, `type` and the first two `authors`."""

    chat: dict[str, Any]
    message: dict[str, Any]


def read_telegram(path: Path) -> TelegramFile:
    """Read a whole file of either format in constant memory, to check it before the first message is imported.

    Raises:
        ConfigurationError: The file is not JSON, or has no message of either format; the error names the line or the
            message.
    """
    count, skipped, first_fault, kind = 0, Counter[str](), None, _UPDATES
    for kind, parsed in _parse(path):  # noqa: B007 - the same for each entry
        if isinstance(parsed, TelegramMessage):
            count += 1
        else:
            skipped[parsed.kind] += 1
            first_fault = first_fault or parsed.fault
    if not count:
        fault = first_fault or "the file has no message: it must be Bot API updates or a Telegram Desktop export"
        raise ConfigurationError(f"{path}, {fault}")
    return TelegramFile(kind, path, count, skipped, first_fault)


def _parse(path: Path) -> Iterator[tuple[str, TelegramMessage | _Skipped]]:
    """Yield the file's kind with each entry: a message, or the reason why the entry is skipped."""
    try:
        kind = _kind_of(path)
        for entry in _entries(path, kind):
            yield kind, _parse_entry(entry, kind)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} must be a readable UTF-8 file: {type(error).__name__}") from None
    except JsonSyntaxError as error:
        raise ConfigurationError(f"{path}, {error}", hint="correct that line; nothing was imported") from None


def _parse_entry(entry: _Entry, kind: str) -> TelegramMessage | _Skipped:
    if entry.fault is not None:
        return _Skipped("not JSON", f"{entry.where}: {entry.fault}")
    try:
        return _from_export(entry.content) if kind == _EXPORT else _from_update(entry.content)
    except _UNREADABLE as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else type(error).__name__
        return _Skipped("unreadable", f"{entry.where}: not an entry of {kind}: {reason}")


def _open(path: Path) -> Any:
    return path.open(encoding="utf-8-sig", newline="\n")


def _kind_of(path: Path) -> str:
    """Return the kind of a file, by the first name in it that only one kind has."""
    with _open(path) as file:
        stream = JsonStream(file)
        if stream.peek() != "{":
            return _UPDATES
        try:
            for name in stream.names():
                if name == "update_id":
                    return _UPDATES
                if name in {"messages", "chats", "left_chats"}:
                    return _EXPORT
                if name == "result":
                    return f"{_UPDATES} (getUpdates)"
                stream.value()
        except JsonSyntaxError as error:
            if error.line > 1:
                raise
    return _UPDATES


def _entries(path: Path, kind: str) -> Iterator[_Entry]:
    if kind == _UPDATES:
        with _open(path) as file:
            yield from _lines(file)
    elif kind == _EXPORT:
        yield from _exported(path)
    else:
        with _open(path) as file:
            yield from _numbered(JsonStream(file))


def _lines(file: Any) -> Iterator[_Entry]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            yield _Entry(f"line {number}", json.loads(line, strict=False))
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "too deeply nested")
            yield _Entry(f"line {number}", None, f"the line must be one JSON object ({reason})")


def _numbered(stream: JsonStream) -> Iterator[_Entry]:
    for name in stream.names():
        if name == "result" and stream.peek() == "[":
            for number, _ in enumerate(stream.items(), start=1):
                yield _Entry(f"update {number}", stream.value())
        else:
            stream.value()


def _exported(path: Path) -> Iterator[_Entry]:
    """Yield the messages of an export with their chats.

    The file is read twice, since the `id` and `type` of a chat may follow its messages.
    """
    chats: list[dict[str, Any]] = []
    with _open(path) as file:
        for chat, message in _walk(JsonStream(file)):
            if not chats or chats[-1] is not chat:
                chats.append(chat)
            if len(chat.get("authors", ())) < _AUTHORS_OF_BOT_CHAT:
                _add_author(chat, message)
    with _open(path) as file:
        before, remaining = None, iter(chats)
        known: dict[str, Any] = {}
        for chat, message in _walk(JsonStream(file)):
            if chat is not before:
                before, known = chat, next(remaining)
            number = message.get("id") if isinstance(message, dict) else None
            yield _Entry(f"message {number} of chat {known.get('id')}", _Exported(known, message))


def _walk(stream: JsonStream) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield each message of an export with its chat, a dict that is filled while the chat is read."""
    root: dict[str, Any] = {}
    for name in stream.names():
        if name in {"chats", "left_chats"} and stream.peek() == "{":
            for inner in stream.names():
                if inner != "list" or stream.peek() != "[":
                    stream.value()
                    continue
                for _ in stream.items():
                    yield from _walk_chat(stream)
        elif name == "messages" and stream.peek() == "[":
            for _ in stream.items():
                yield root, stream.value()
        else:
            _store(root, name, stream.value())


def _walk_chat(stream: JsonStream) -> Iterator[tuple[dict[str, Any], Any]]:
    chat: dict[str, Any] = {}
    if stream.peek() != "{":
        stream.value()
        return
    for name in stream.names():
        if name == "messages" and stream.peek() == "[":
            for _ in stream.items():
                yield chat, stream.value()
        else:
            _store(chat, name, stream.value())


def _store(chat: dict[str, Any], name: str, value: Any) -> None:
    if name in {"id", "type"}:
        chat[name] = value


def _add_author(chat: dict[str, Any], message: Any) -> None:
    """Store the first two authors of a chat: in a chat with a bot, one of them is the person."""
    try:
        author = _author_id(chat, message) if message.get("type") == "message" else None
    except _UNREADABLE:
        return
    authors = chat.setdefault("authors", [])
    if author is not None and author not in authors:
        authors.append(author)


def _person(chat: dict[str, Any]) -> int | None:
    """Return the person of a chat with a bot, or None for another chat."""
    if chat.get("type") != "bot_chat":
        return None
    bot = _id(chat["id"])
    return next((author for author in chat.get("authors", ()) if author != bot), bot)


def _from_update(update: dict[str, Any]) -> TelegramMessage | _Skipped:
    kind = next((kind for kind in _UPDATE_KINDS if kind in update), None)
    if kind is None:
        return _Skipped(next((name for name in update if name != "update_id"), "empty update"))
    message = update[kind]
    text = _text(message.get("text", message.get("caption"))) or _checklist(message.get("checklist"), "tasks")
    # For old clients, the Bot API repeats an animation as a document.
    repeated = {"document"} if "animation" in message else set()
    attachments = [_attachment(name, message[name]) for name in _MEDIA if name in message and name not in repeated]
    attachments += [{"kind": name} for name in _OTHER_CONTENT if name in message]
    if text is None and not attachments:
        return _Skipped(next((name for name in message if name not in _ABOUT_A_MESSAGE), "empty message"))
    # In a message in the name of a chat, `from` is a bot of Telegram: GroupAnonymousBot or Channel_Bot.
    author = message.get("sender_chat") or message.get("from") or message["chat"]
    names = (author.get("first_name"), author.get("last_name"))
    edited = message.get("edit_date")
    chat_id, author_id = _id(message["chat"]["id"]), _id(author["id"])
    business = _text(message.get("business_connection_id"))
    is_private = message["chat"].get("type") == "private"
    is_bot = bool(author.get("is_bot")) or (business is not None and is_private and author_id != chat_id)
    return TelegramMessage(
        chat_id=chat_id,
        number=_id(message["message_id"]),
        owner_id=chat_id if is_bot and is_private else author_id,
        author_id=author_id,
        author_name=" ".join(_text(name) or "" for name in names if name) or _text(author.get("title")),
        username=_text(author.get("username")),
        language=_text(author.get("language_code")),
        is_bot=is_bot,
        sent_at=_instant(message["date"]),
        edited_at=_instant(edited) if edited else None,
        text=text,
        attachments=attachments,
        business=business,
    )


def _attachment(kind: str, media: Any) -> dict[str, Any]:
    file = media[-1] if isinstance(media, list) else media  # a photo has several sizes, the largest last
    return {"kind": kind, "file_id": file["file_id"], "file_unique_id": file.get("file_unique_id")}


def _checklist(checklist: Any, tasks: str) -> str | None:
    """Return the text of a checklist: its title and its tasks, one line each."""
    if checklist is None:
        return None
    lines = [
        _flatten(checklist.get("title", "")),
        *(f"- {_flatten(task['text'])}" for task in checklist.get(tasks, [])),
    ]
    return "\n".join(lines)


def _from_export(entry: _Exported) -> TelegramMessage | _Skipped:
    chat, message = entry.chat, entry.message
    if message.get("type") != "message":
        return _Skipped(_text(message.get("action")) or _text(message.get("type")) or "no type")
    text = _flatten(message.get("text", "")) or _checklist(message.get("todo_list"), "answers")
    kinds = {"photo": "photo", "file": _EXPORTED_KINDS.get(message.get("media_type", ""), "document")}
    attachments: list[dict[str, Any]] = [
        {"kind": kind, "path": _text(message[name])} for name, kind in kinds.items() if name in message
    ]
    attachments += [{"kind": kind} for name, kind in _EXPORTED_CONTENT.items() if name in message]
    if text is None and not attachments:
        return _Skipped("message without text")
    author_id = _author_id(chat, message)
    user_id = _person(chat)
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
    """Join a text, which the export splits at links, bold text and the like."""
    if isinstance(text, str):
        return text
    return "".join(piece if isinstance(piece, str) else piece["text"] for piece in text)


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _id(value: Any) -> int:
    """Check that an id is a 64-bit integer, and return it."""
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _LARGEST_ID:
        raise ValueError("not an id")
    return value


def _chat_id(chat: dict[str, Any]) -> int:
    number, kind = _id(chat["id"]), str(chat.get("type", ""))
    if "supergroup" in kind or "channel" in kind:
        return _SUPERGROUP - number
    return -number if kind.endswith("group") else number


def _author_id(chat: dict[str, Any], message: dict[str, Any]) -> int:
    """Return the author's id in the Bot API's numbers: negative for a message in the name of a chat."""
    author = str(message.get("from_id") or "")
    if author.startswith("channel"):
        return _id(_SUPERGROUP - int(author.removeprefix("channel")))
    if author.startswith("chat"):
        return _id(-int(author.removeprefix("chat")))
    return _id(int(author.removeprefix("user"))) if author else _chat_id(chat)


def _instant(value: int | str) -> datetime:
    """Parse Unix seconds, or the local time of an older export, which has no zone and is taken for UTC."""
    if isinstance(value, int) or value.isdecimal():
        return datetime.fromtimestamp(int(value), UTC)
    return datetime.fromisoformat(value).replace(tzinfo=UTC)
