"""Generate the rows of a seed as the repositories would have stored them; Faker provides names, words and sentences.

Each batch can be committed alone: a conversation comes with all its messages, and no row refers to a later one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from functools import cache
from itertools import accumulate
from typing import Any, Final, TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo

from faker import Faker

from src.database.base import TenantBase
from src.database.calendar import get_zone, to_instant
from src.database.cli.seed.recipe import Dice, Recipe, Share, allot
from src.database.models import Conversation, Event, MessageHistory, Note, User
from src.database.statements import VERSIONS, NewMessage

Batch: TypeAlias = dict[type[TenantBase], list[dict[str, Any]]]

TABLES: Final[tuple[type[TenantBase], ...]] = (User, Conversation, MessageHistory, Event, Note)
"""In the order of their foreign keys."""
ROWS_PER_BATCH: Final = 5000
SOURCES: Final = 20
"""The number of a user's last messages that a note can refer to."""
VOCABULARY: Final = 300
"""How many sentences of each language are generated once and then combined: Faker needs 50 µs for a sentence."""
LONGEST_MESSAGE: Final = 4096
LONGEST_CONVERSATION: Final = 1000
HISTORY: Final = timedelta(days=730)
FIRST_TELEGRAM_ID: Final = 6_000_000_000
TELEGRAM_IDS_PER_TENANT: Final = 10_000_000
CHARACTERS_PER_TOKEN: Final = 4
CONTEXT_TOKENS: Final = 8000
MODELS: Final = ("large-2", "small-2", "small-1")
EVENTS_BEFORE: Final = timedelta(days=180)
EVENTS_AFTER: Final = timedelta(days=90)
REMINDER_OFFSETS: Final = (0, 600, 900, 3600, 86_400)
"""Seconds between a reminder and the start of its event."""
WEEKDAYS: Final = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
SECOND, HOUR, DAY, WEEK = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1), timedelta(days=7)

_FINGERPRINTED: Final = ("message_id", "role", "content", "parts", "attachments", "tool_call_id", "tool_name")
_TOOLS: Final = ("weather", "find_events", "find_notes", "add_note")
# The locale, the time zone, Faker's locale, and the weight among the users.
_ORIGINS: Final[tuple[tuple[str | None, str, str, float], ...]] = (
    ("es", "Europe/Madrid", "es_ES", 0.45),
    ("es-MX", "America/Mexico_City", "es_ES", 0.15),
    ("en-GB", "Europe/London", "en_US", 0.15),
    ("en-US", "America/New_York", "en_US", 0.15),
    (None, "UTC", "en_US", 0.10),
)
_QUESTIONS: Final = {
    "es_ES": ("¿Qué sabes de {}?", "Recuérdame {} 👍", "¿Cuándo es {}?"),
    "en_US": ("What do you know about {}?", "Remind me of {} 👍", "When is {}?"),
}


@dataclass(frozen=True, slots=True)
class Language:
    """Names and texts in one language."""

    names: list[str]
    places: list[str]
    words: list[str]
    questions: list[str]
    answers: list[str]


@cache
def language_of(locale: str) -> Language:
    """Return the vocabulary of a locale of Faker; the same one in every process."""
    fake = Faker(locale)
    fake.seed_instance(0)
    words = [" ".join(fake.words(2)) for _ in range(VOCABULARY)]
    patterns = _QUESTIONS[locale]
    return Language(
        names=[f"{fake.first_name()} {fake.last_name()}" for _ in range(VOCABULARY)],
        places=[fake.city() for _ in range(VOCABULARY)],
        words=words,
        questions=[patterns[number % len(patterns)].format(word) for number, word in enumerate(words)],
        answers=[fake.sentence(nb_words=9) for _ in range(VOCABULARY)],
    )


@dataclass(frozen=True, slots=True)
class Person:
    """A user's row, and what the other rows of the user depend on."""

    row: dict[str, Any]
    language: Language
    zone: ZoneInfo
    joined: datetime
    left: datetime | None


def batches(recipe: Recipe, share: Share) -> Iterator[Batch]:
    """Yield the rows of a tenant, in batches of some thousand rows; memory stays constant.

    Args:
        recipe: The recipe.
        share: The tenant's part of it.
    """
    batch: Batch = {model: [] for model in TABLES}
    for piece in _pieces(recipe, share):
        for model, rows in piece.items():
            batch[model] += rows
        if sum(map(len, batch.values())) >= ROWS_PER_BATCH:
            yield batch
            batch = {model: [] for model in TABLES}
    if any(batch.values()):
        yield batch


def _pieces(recipe: Recipe, share: Share) -> Iterator[Batch]:
    """Yield rows that belong together. Each user has dice of its own: the rows of one do not depend on another's."""
    dice = Dice(f"{recipe.number}/{share.number}/messages")
    weights = [dice.amount(1.0, 1.2, 50.0) for _ in range(share.users)]
    for number, messages in enumerate(allot(share.messages, weights), start=1):
        own = Dice(f"{recipe.number}/{share.number}/{number}")
        person = _person(share, number, own, recipe.until)
        yield {User: [person.row], Event: list(_events(person, own, recipe.until))}
        sources: list[dict[str, Any]] = []
        for piece in _conversations(person, messages, own):
            yield piece
            sources = [*sources, *(row for row in piece[MessageHistory] if row["role"] == "user")][-SOURCES:]
        yield {Note: list(_notes(person, sources, own, recipe.until))}


def _person(share: Share, number: int, dice: Dice, until: datetime) -> Person:
    """Generate a user; one in thirty has left, and one in twenty-five is not active."""
    locale, zone, language_name, _ = dice.choices(_ORIGINS, [weight for *_, weight in _ORIGINS])[0]
    language = language_of(language_name)
    joined = until - HISTORY * dice.random() - DAY
    left = dice.between(joined, until) if dice.happens(1 / 30) else None
    last_seen = joined + ((left or until) - joined) * (1 - dice.random() ** 3)  # recently, for most users
    row: dict[str, Any] = {
        "id": dice.id(joined),
        "telegram_id": FIRST_TELEGRAM_ID + share.number * TELEGRAM_IDS_PER_TENANT + number
        if dice.happens(0.9)
        else None,
        "username": f"user_{number}" if dice.happens(0.8) else None,
        "display_name": dice.pick(language.names),
        "locale": locale,
        "timezone": zone,
        "is_active": not dice.happens(1 / 25),
        "preferences": {"tone": dice.pick(("brief", "friendly", "formal"))},
        "retention_days": None,
        "last_seen_at": last_seen,
        "created_at": joined,
        "updated_at": left or last_seen,
        "deleted_at": left,
    }
    return Person(row, language, get_zone(zone), joined, left)


def _text(dice: Dice, sentences: Sequence[str], length: float = 0) -> str:
    """Join sentences up to a length: one at least, and no more than a channel accepts."""
    text = dice.pick(sentences)
    while len(text) < length:
        text = f"{text} {dice.pick(sentences)}"
    return text[:LONGEST_MESSAGE]


def _conversations(person: Person, messages: int, dice: Dice) -> Iterator[Batch]:
    """Yield a user's conversations, the oldest first; in each chat, the last one is usually open."""
    sizes = []
    while messages > 0:
        sizes.append(min(messages, 1 + int(dice.amount(24, 1.1, LONGEST_CONVERSATION - 1))))
        messages -= sizes[-1]
    sizes = sizes or [0]
    chats = _chats(person, dice)
    chosen = [dice.pick(chats) for _ in sizes]
    step = (person.row["last_seen_at"] - person.joined) / len(sizes)
    for place, (size, chat) in enumerate(zip(sizes, chosen, strict=True)):
        start, end = person.joined + step * (place + dice.random() / 2), person.joined + step * (place + 1)
        is_open = chat not in chosen[place + 1 :] and person.left is None and dice.happens(0.85)
        writer = ConversationWriter(person, dice, *chat, start, end)
        writer.write(size)
        yield {Conversation: [writer.conversation(is_open=is_open)], MessageHistory: writer.rows}


def _chats(person: Person, dice: Dice) -> list[tuple[str, str | None]]:
    """Choose the chats of a user, as channel and chat id: web, private, a group that several users share, API."""
    chats: list[tuple[str, str | None]] = [("web", str(dice.id(person.joined)))]
    if person.row["telegram_id"] is not None:
        chats.append(("telegram", str(person.row["telegram_id"])))
        if dice.happens(0.3):
            chats.append(("telegram", f"-100100000000{int(dice.random() * 5)}"))
    if dice.happens(0.1):
        chats.append(("api", None))
    return chats


@dataclass(slots=True)
class ConversationWriter:
    """Generates the messages of one conversation, with the numbers and counters that `append` maintains.

    Args:
        person: The user.
        dice: The user's dice.
        channel: The channel.
        chat: The external id of the chat.
        start: When the conversation starts.
        end: When the next conversation can start: all messages are before it.
    """

    person: Person
    dice: Dice
    channel: str
    chat: str | None
    start: datetime
    end: datetime
    rows: list[dict[str, Any]] = field(default_factory=list)
    times: list[datetime] = field(default_factory=list)
    tokens: int = 0
    turns: int = 0
    id: UUID = field(init=False)
    model: str = field(init=False)

    def __post_init__(self) -> None:
        self.id = self.dice.id(self.start)
        self.model = self.dice.pick(MODELS)

    def write(self, size: int) -> None:
        """Generate a number of messages: turn after turn, sometimes after a system message."""
        self.times = self._spread(size)
        if size > 1 and self.dice.happens(0.3):
            self._add("system", "You are a friendly assistant and keep it short.")
        while (left := size - len(self.rows)) > 0:
            question = self._ask()
            if left > 1:
                self._answer(question, at_most=left - 1)

    def conversation(self, *, is_open: bool) -> dict[str, Any]:
        """Return the row of the conversation, with the counters of its messages."""
        dice, last = self.dice, self.rows[-1]["created_at"] if self.rows else None
        closed_at = None if is_open else (last or self.start) + (self.end - (last or self.start)) / 2
        has_summary = len(self.rows) > 40
        return {
            "id": self.id,
            "user_id": self.person.row["id"],
            "session_id": str(dice.id(self.start)),
            "is_active": is_open,
            "channel": self.channel,
            "external_chat_id": self.chat,
            "title": dice.pick(self.person.language.words) if dice.happens(0.6) else None,
            "summary": _text(dice, self.person.language.answers, 200) if has_summary else None,
            "summary_upto_seq": len(self.rows) // 20 * 20 if has_summary else 0,
            "last_seq": len(self.rows),
            "last_message_at": last,
            "closed_at": closed_at,
            "close_reason": dice.pick(("idle", "idle", "user")) if closed_at else None,
            "turn_token": self.turns,
            "deleted_at": None,
            "created_at": self.start,
            "updated_at": closed_at or last or self.start,
        }

    def _spread(self, size: int) -> list[datetime]:
        """Return the times of the messages: short and long pauses, scaled to end before the conversation does."""
        since = list(accumulate(1 + self.dice.amount(20, 1.0, 3600) for _ in range(size)))
        available = (self.end - self.start).total_seconds() * 0.9
        scale = min(1.0, available / since[-1]) if since else 1.0
        return [self.start + timedelta(seconds=seconds * scale) for seconds in since]

    def _ask(self) -> dict[str, Any]:
        """Add a message of the user; one in a hundred is edited, as `edit` does it."""
        dice = self.dice
        photo = [{"kind": "photo", "file_id": f"seed-{dice.getrandbits(48):x}"}] if dice.happens(0.03) else []
        text = _text(dice, self.person.language.questions, dice.amount(45, 0.9, 4000))
        question = self._add("user", text, attachments=photo)
        if dice.happens(0.01):
            versions = [{"content": text, "at": question["created_at"].isoformat()}]
            edited_at = question["created_at"] + SECOND
            question |= {"content": f"{text} (edit)", "metadata": {VERSIONS: versions}, "token_count": None}
            question |= {"edited_at": edited_at, "updated_at": edited_at}
        return question

    def _answer(self, question: dict[str, Any], *, at_most: int) -> None:
        """Add an answer, sometimes after calls of tools if there is room for the calls and their results."""
        self.turns += 1
        calls = 2 if at_most > 3 and self.dice.happens(0.2) else 1
        if at_most > calls + 1 and self.dice.happens(0.15):
            self._use_tools(question, calls)
        text = _text(self.dice, self.person.language.answers, self.dice.amount(160, 0.8, 4000))
        self._add("assistant", text, parent_id=question["id"], model=self.model)

    def _use_tools(self, question: dict[str, Any], calls: int) -> None:
        dice, words = self.dice, self.person.language.words
        tools = {f"call_{dice.getrandbits(64):016x}": dice.pick(_TOOLS) for _ in range(calls)}
        parts = [
            {"type": "tool_call", "id": call, "name": tool, "input": {"query": dice.pick(words)}}
            for call, tool in tools.items()
        ]
        request = self._add("assistant", None, parts=parts, parent_id=question["id"], model=self.model)
        for call, tool in tools.items():
            result = json.dumps({"found": [{"title": dice.pick(words)}]}, ensure_ascii=False)
            self._add("tool", result, tool_call_id=call, tool_name=tool, parent_id=request["id"])

    def _add(self, role: str, content: str | None, **values: Any) -> dict[str, Any]:
        """Add a message; columns without a value are those of a plain text."""
        at = self.times[len(self.rows)]
        message_id = self.dice.id(at)
        row: dict[str, Any] = {
            "message_id": f"{self.channel}:seed:{self.chat or 'none'}:{message_id.hex}",
            "role": role,
            "content": content,
            "attachments": [],
            **dict.fromkeys(("parts", "tool_call_id", "tool_name", "parent_id", "model", "edited_at", "deleted_at")),
            **values,
        }
        tokens = 1 + len(content or str(row["parts"])) // CHARACTERS_PER_TOKEN
        row |= {
            "id": message_id,
            "conversation_id": self.id,
            "user_id": self.person.row["id"],
            "seq": len(self.rows) + 1,
            "state": "complete",
            "fingerprint": NewMessage(**{name: row[name] for name in _FINGERPRINTED}).fingerprint(),
            "input_tokens": self.tokens if row["model"] else None,
            "output_tokens": tokens if row["model"] else None,
            "token_count": tokens,
            "created_at": at,
            "updated_at": at,
            "metadata": {},
        }
        self.tokens = min(self.tokens + tokens, CONTEXT_TOKENS)
        self.rows.append(row)
        return row


def _events(person: Person, dice: Dice, until: datetime) -> Iterator[dict[str, Any]]:
    """Yield a user's events; a changed occurrence comes after its series."""
    for _ in range(int(dice.amount(8, 0.7, 100))):
        # Between 8:00 and 20:00 no zone changes its clocks.
        day = dice.between(max(person.joined, until - EVENTS_BEFORE), until + EVENTS_AFTER).astimezone(person.zone)
        local = datetime.combine(day, time(8 + int(dice.random() * 12), dice.pick((0, 15, 30, 45))))
        kind = dice.random()
        if kind < 0.7:
            yield _single_event(person, dice, until, local)
        elif kind < 0.85:
            yield _all_day_event(person, dice, until, local)
        else:
            yield from _series(person, dice, until, local)


def _single_event(person: Person, dice: Dice, until: datetime, local: datetime) -> dict[str, Any]:
    start = to_instant(local, person.zone)
    end = start + timedelta(minutes=dice.pick((15, 30, 60, 60, 90)))
    row = _event(person, dice, until, start=start, end=end if dice.happens(0.9) else None)
    row["status"] = _status(dice, is_over=end < until)
    if dice.happens(0.4):
        _remind(row, start, dice, until)
    if dice.happens(0.1):
        row["ical_uid"] = f"{row['id']}@calendar.example"
    return row


def _all_day_event(person: Person, dice: Dice, until: datetime, local: datetime) -> dict[str, Any]:
    first = datetime.combine(local, time())
    start, end = (to_instant(day, person.zone) for day in (first, first + DAY * dice.pick((1, 1, 1, 2, 7, 14))))
    row = _event(person, dice, until, start=start, end=end)
    return row | {"all_day": True, "status": _status(dice, is_over=end < until)}


def _series(person: Person, dice: Dice, until: datetime, local: datetime) -> Iterator[dict[str, Any]]:
    """Yield a series; a weekly one can have an excluded occurrence, a moved one, and a reminder of a future one."""
    start = to_instant(local, person.zone)
    row = _event(person, dice, until, start=start, end=start + HOUR)
    if dice.happens(0.3):
        yield row | {"rrule": f"FREQ=DAILY;COUNT={2 + int(dice.random() * 20)}"}
        return
    row["rrule"] = f"FREQ=WEEKLY;BYDAY={WEEKDAYS[local.weekday()]}"
    if dice.happens(0.3):
        row["rrule"] += f";UNTIL={(local + DAY * 200).replace(tzinfo=UTC):%Y%m%dT%H%M%SZ}"
    excluded, moved_from = (to_instant(local + WEEK * number, person.zone) for number in (1, 2))
    if dice.happens(0.4):
        row["exdates"] = [excluded]
    if dice.happens(0.5):
        number = max(3, (until - start) // WEEK + 2)  # neither excluded nor moved, and after `until` by a week
        _remind(row, to_instant(local + WEEK * number, person.zone), dice, until)
    yield row
    if dice.happens(0.4):
        moved = _event(person, dice, until, start=moved_from + HOUR, end=moved_from + HOUR * 2)
        yield moved | {"title": row["title"], "series_id": row["id"], "recurrence_id": moved_from}


def _event(person: Person, dice: Dice, until: datetime, *, start: datetime, end: datetime | None) -> dict[str, Any]:
    """Return an event with defaults; it was created before it starts, and before `until`."""
    created_at = min(dice.between(person.joined, start), until) if start > person.joined else person.joined
    unset = ("rrule", "series_id", "recurrence_id", "ical_uid", "reminder_datetime", "reminder_offset")
    return dict.fromkeys(unset) | {
        "id": dice.id(created_at),
        "user_id": person.row["id"],
        "title": dice.pick(person.language.words),
        "description": _text(dice, person.language.answers, 80) if dice.happens(0.3) else None,
        "location": dice.pick(person.language.places) if dice.happens(0.4) else None,
        "start_datetime": start,
        "end_datetime": end,
        "timezone": person.zone.key,
        "all_day": False,
        "status": "scheduled",
        "exdates": [],
        "reminder_attempts": 0,
        "reminder_sent_at": None,
        "created_at": created_at,
        "updated_at": created_at,
    }


def _status(dice: Dice, *, is_over: bool) -> str:
    if dice.happens(0.07):
        return "cancelled"
    return "done" if is_over and dice.happens(0.6) else "scheduled"


def _remind(row: dict[str, Any], start: datetime, dice: Dice, until: datetime) -> None:
    """Set a reminder; a past one was sent, except for a few that a worker finds due."""
    offset = dice.pick(REMINDER_OFFSETS)
    at = start - timedelta(seconds=offset)
    row |= {"reminder_datetime": at, "reminder_offset": offset}
    if at <= until and not dice.happens(0.05):
        sent = at + SECOND * 2
        row |= {"reminder_attempts": 1, "reminder_sent_at": sent, "updated_at": max(sent, row["created_at"])}


def _notes(person: Person, sources: Sequence[dict[str, Any]], dice: Dice, until: datetime) -> Iterator[dict[str, Any]]:
    """Yield a user's notes: with tags, pinned, archived, some of them from a message.

    Args:
        person: The user.
        sources: The messages that a note can refer to.
        dice: The user's dice.
        until: The present of the seed.
    """
    language = person.language
    for _ in range(int(dice.amount(6, 0.8, 200))):
        source = dice.pick(sources) if sources and dice.happens(0.3) else None
        created_at = source["created_at"] if source else dice.between(person.joined, person.row["last_seen_at"])
        archived_at = dice.between(created_at, person.left or until) if dice.happens(0.15) else None
        yield {
            "id": dice.id(created_at),
            "user_id": person.row["id"],
            "title": dice.pick(language.words) if dice.happens(0.8) else None,
            "content": _text(dice, language.answers, dice.amount(120, 1.0, 4000)),
            "tags": sorted({dice.pick(language.words) for _ in range(int(dice.random() * 4))}),
            "pinned": archived_at is None and dice.happens(0.08),
            "archived_at": archived_at,
            "deleted_at": None,
            "source_message_id": source["id"] if source else None,
            "created_at": created_at,
            "updated_at": archived_at or created_at,
        }
