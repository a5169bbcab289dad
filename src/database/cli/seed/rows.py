"""Generates the rows of a seed as the repositories would have stored them; Faker provides names, words and sentences.

Each batch can be committed alone: a conversation comes with all its messages, and no row refers to a later one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from functools import cache
from itertools import accumulate, count
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

TABLES: Final = (User, Conversation, MessageHistory, Event, Note)
"""In the order in which they refer to each other."""
ROWS_A_BATCH: Final = 5000
SOURCES: Final = 20
"""How many of a person's last messages a note may refer to."""
VOCABULARY: Final = 300
"""How many sentences of each language are generated once, to be combined: Faker needs 50 µs for a sentence."""
LONGEST_MESSAGE: Final = 4096
LONGEST_CONVERSATION: Final = 1000
HISTORY: Final = timedelta(days=730)
FIRST_TELEGRAM_ID: Final = 6_000_000_000
NUMBERS_A_TENANT: Final = 10_000_000
NUMBERS_A_PERSON: Final = 10_000_000
CHARACTERS_A_TOKEN: Final = 4
CONTEXT_TOKENS: Final = 8000
MODELS: Final = ("large-2", "small-2", "small-1")
EVENTS_AHEAD: Final = timedelta(days=90)
EVENTS_BEHIND: Final = timedelta(days=180)
OFFSETS: Final = (0, 600, 900, 3600, 86_400)
WEEKDAYS: Final = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
SECOND, HOUR, DAY, WEEK = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1), timedelta(days=7)

_FINGERPRINTED: Final = ("message_id", "role", "content", "parts", "attachments", "tool_call_id", "tool_name")
_TOOLS: Final = ("weather", "find_events", "find_notes", "add_note")
_PLAIN: Final = str.maketrans("áéíóúñëü", "aeiouneu", " '")
_LIVES: Final[tuple[tuple[str | None, str, str, float], ...]] = (  # locale, zone, language, share of the people
    ("es", "Europe/Madrid", "es_ES", 0.34),
    ("es-MX", "America/Mexico_City", "es_ES", 0.12),
    ("es-AR", "America/Argentina/Buenos_Aires", "es_ES", 0.07),
    ("es", "Atlantic/Canary", "es_ES", 0.04),
    ("ca", "Europe/Madrid", "es_ES", 0.04),
    ("en-GB", "Europe/London", "en_US", 0.13),
    ("en-US", "America/New_York", "en_US", 0.10),
    ("en-US", "America/Los_Angeles", "en_US", 0.05),
    ("en-IN", "Asia/Kolkata", "en_US", 0.04),
    (None, "UTC", "en_US", 0.07),
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
    asks: list[str]
    answers: list[str]


@cache
def language_of(locale: str) -> Language:
    """Generate the vocabulary of a locale of Faker; the same one each time."""
    fake = Faker(locale)
    fake.seed_instance(0)
    words = [" ".join(fake.words(2)) for _ in range(VOCABULARY)]
    questions = _QUESTIONS[locale]
    return Language(
        names=[f"{fake.first_name()} {fake.last_name()}" for _ in range(VOCABULARY)],
        places=[fake.city() for _ in range(VOCABULARY)],
        words=words,
        asks=[questions[number % len(questions)].format(words[number]) for number in range(VOCABULARY)],
        answers=[fake.sentence(nb_words=9) for _ in range(VOCABULARY)],
    )


@dataclass(frozen=True, slots=True)
class Person:
    """A user, and what the other rows of the user depend on."""

    row: dict[str, Any]
    id: UUID
    number: int
    """From 1, within the tenant."""
    language: Language
    zone: ZoneInfo
    joined: datetime
    left: datetime | None


def batches(recipe: Recipe, share: Share) -> Iterator[Batch]:
    """Yield a tenant's rows in constant memory."""
    batch: Batch = {model: [] for model in TABLES}
    for piece in _pieces(recipe, share):
        for model, rows in piece.items():
            batch[model] += rows
        if sum(map(len, batch.values())) >= ROWS_A_BATCH:
            yield batch
            batch = {model: [] for model in TABLES}
    if any(batch.values()):
        yield batch


def _pieces(recipe: Recipe, share: Share) -> Iterator[Batch]:
    """Yield the rows that belong together; each user has dice of its own, so that users do not depend on each other."""
    dice = Dice(f"{recipe.number}/{share.number}/messages")
    talkative = [dice.amount(1.0, 1.2, 50.0) for _ in range(share.users)]
    for number, messages in enumerate(allot(share.messages, talkative), start=1):
        own = Dice(f"{recipe.number}/{share.number}/{number}")
        person = _person(share, number, own, recipe.until)
        yield {User: [person.row], Event: list(_events(person, own, recipe.until))}
        sources: list[tuple[UUID, datetime]] = []
        for piece in _conversations(person, messages, own):
            yield piece
            asked = [row for row in piece[MessageHistory] if row["role"] == "user" and not row["deleted_at"]]
            sources = [*sources, *((row["id"], row["created_at"]) for row in asked)][-SOURCES:]
        yield {Note: list(_notes(person, sources, own, recipe.until))}


def _person(share: Share, number: int, dice: Dice, until: datetime) -> Person:
    """Generate a user; one in thirty has left, and one in twenty-five is not active."""
    locale, zone, speaks, _ = dice.choices(_LIVES, [share_of_all for *_, share_of_all in _LIVES])[0]
    language = language_of(speaks)
    name = dice.pick(language.names)
    joined = until - HISTORY * dice.random() - DAY
    left = dice.between(joined, until) if dice.happens(1 / 30) else None
    last_seen = joined + ((left or until) - joined) * (1 - dice.random() ** 3)  # most of them recently
    row: dict[str, Any] = {
        "id": dice.id(joined),
        "telegram_id": FIRST_TELEGRAM_ID + share.number * NUMBERS_A_TENANT + number if dice.happens(0.9) else None,
        "username": f"{name.lower().translate(_PLAIN)}_{number}" if dice.happens(0.8) else None,
        "display_name": name,
        "locale": locale,
        "timezone": zone,
        "is_active": not dice.happens(1 / 25),
        "preferences": {"tone": dice.pick(("brief", "friendly", "formal"))} if dice.happens(0.6) else {},
        "retention_days": 365 if dice.happens(0.03) else None,
        "last_seen_at": last_seen,
        "created_at": joined,
        "updated_at": left or last_seen,
        "deleted_at": left,
    }
    return Person(row, row["id"], number, language, get_zone(zone), joined, left)


def _text(dice: Dice, sentences: Sequence[str], length: float = 0) -> str:
    """Join sentences until the text has this length; at least one, and at most what a channel accepts."""
    text = dice.pick(sentences)
    while len(text) < length:
        text = f"{text} {dice.pick(sentences)}"
    return text[:LONGEST_MESSAGE]


def _conversations(person: Person, messages: int, dice: Dice) -> Iterator[Batch]:
    """Yield a person's conversations, the oldest first; in each chat the last one usually is still open."""
    sizes = _sizes(messages, dice)
    chats = _chats(person, dice)
    in_chats = [int(dice.random() * len(chats)) for _ in sizes]
    written = [0] * len(chats)
    step = (person.row["last_seen_at"] - person.joined) / len(sizes)
    for place, (size, chat) in enumerate(zip(sizes, in_chats, strict=True)):
        start, end = person.joined + step * (place + dice.random() / 2), person.joined + step * (place + 1)
        is_open = chat not in in_chats[place + 1 :] and person.left is None and dice.happens(0.85)
        # Numbers of a person's own: in a group others write too.
        first_number = person.number * NUMBERS_A_PERSON + written[chat] + 1
        channel, chat_id = chats[chat]
        writer = _Writer(
            person=person, dice=dice, channel=channel, chat=chat_id, start=start, end=end, first_number=first_number
        )
        written[chat] += size
        writer.write(size)
        yield {Conversation: [writer.conversation(is_open=is_open)], MessageHistory: writer.rows}


def _sizes(messages: int, dice: Dice) -> list[int]:
    """Divide a number of messages into conversations; without messages, one empty conversation."""
    sizes = []
    while messages > 0:
        sizes.append(min(messages, 1 + int(dice.amount(24, 1.1, LONGEST_CONVERSATION - 1))))
        messages -= sizes[-1]
    return sizes or [0]


def _chats(person: Person, dice: Dice) -> list[tuple[str, str | None]]:
    """Choose the chats of a person: a private chat, a group that others are in too, the web, the API."""
    chats: list[tuple[str, str | None]] = [("web", str(dice.id(person.joined)))]
    if person.row["telegram_id"] is not None:
        chats[:0] = [("telegram", str(person.row["telegram_id"]))]
        if dice.happens(0.3):
            chats.append(("telegram", f"-100100000000{int(dice.random() * 5)}"))
    if dice.happens(0.1):
        chats.append(("api", None))
    return chats


@dataclass(slots=True, kw_only=True)
class _Writer:
    """Writes the messages of one conversation, with the numbers and counters that `append` maintains."""

    person: Person
    dice: Dice
    channel: str
    chat: str | None
    start: datetime
    end: datetime
    first_number: int
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
        """Write this many messages: turn after turn, sometimes with a message of the system first."""
        self.times = self._spread(size)
        if size > 1 and self.dice.happens(0.3):
            self._add("system", "You are a friendly assistant and keep it short.")
        while (left := size - len(self.rows)) > 0:
            asked = self._ask()
            if left > 1:
                self._answer(asked, at_most=left - 1)

    def conversation(self, *, is_open: bool) -> dict[str, Any]:
        """Return the conversation's row, with what the repositories count in it."""
        dice, last = self.dice, self.rows[-1]["created_at"] if self.rows else None
        closed_at = None if is_open else (last or self.start) + (self.end - (last or self.start)) / 2
        is_summed_up = len(self.rows) > 40
        return {
            "id": self.id,
            "user_id": self.person.id,
            "session_id": str(dice.id(self.start)),
            "is_active": is_open,
            "channel": self.channel,
            "external_chat_id": self.chat,
            "title": dice.pick(self.person.language.words) if dice.happens(0.6) else None,
            "summary": self._answer_text(200) if is_summed_up else None,
            "summary_upto_seq": len(self.rows) // 20 * 20 if is_summed_up else 0,
            "last_seq": len(self.rows),
            "last_message_at": last,
            "closed_at": closed_at,
            "close_reason": dice.pick(("idle", "idle", "user")) if closed_at else None,
            "turn_token": self.turns,
            "deleted_at": closed_at if closed_at is not None and dice.happens(0.02) else None,
            "created_at": self.start,
            "updated_at": closed_at or last or self.start,
        }

    def _spread(self, size: int) -> list[datetime]:
        """Return the times of the messages: short and long pauses, scaled to end before the conversation does."""
        since = list(accumulate(1 + self.dice.amount(20, 1.0, 3600) for _ in range(size)))
        room = (self.end - self.start).total_seconds() * 0.9
        pace = min(1.0, room / since[-1]) if since else 1.0
        return [self.start + timedelta(seconds=seconds * pace) for seconds in since]

    def _ask(self) -> dict[str, Any]:
        dice = self.dice
        photo = [{"kind": "photo", "file_id": f"seed-{dice.getrandbits(48):x}"}] if dice.happens(0.03) else []
        text = _text(dice, self.person.language.asks, dice.amount(45, 0.9, 4000))
        asked = self._add("user", text, attachments=photo)
        at = asked["created_at"] + SECOND
        if dice.happens(0.01):  # as `edit` does: the text before is kept, and its tokens are not known any more
            versions = [{"content": text, "at": asked["created_at"].isoformat()}]
            asked |= {"content": f"{text} (edit)", "metadata": {VERSIONS: versions}}
            asked |= {"token_count": None, "edited_at": at, "updated_at": at}
        elif dice.happens(0.005):
            asked |= {"deleted_at": at, "updated_at": at}
        return asked

    def _answer(self, asked: dict[str, Any], *, at_most: int) -> None:
        """Answer, after one or two calls of tools if there is room for them and their results."""
        self.turns += 1
        calls = 2 if at_most > 3 and self.dice.happens(0.2) else 1
        if at_most > calls + 1 and self.dice.happens(0.15):
            self._use_tools(asked, calls)
        text = self._answer_text(self.dice.amount(160, 0.8, 4000))
        state = "interrupted" if self.dice.happens(0.005) else "complete"
        self._add("assistant", text, parent_id=asked["id"], model=self.model, state=state)

    def _use_tools(self, asked: dict[str, Any], calls: int) -> None:
        dice, words = self.dice, self.person.language.words
        used = {f"call_{dice.getrandbits(64):016x}": dice.pick(_TOOLS) for _ in range(calls)}
        parts = [
            {"type": "tool_call", "id": call, "name": tool, "input": {"query": dice.pick(words)}}
            for call, tool in used.items()
        ]
        called = self._add("assistant", None, parts=parts, parent_id=asked["id"], model=self.model)
        for call, tool in used.items():
            found = {"found": [{"title": dice.pick(words)} for _ in range(int(dice.random() * 4))]}
            result = json.dumps(found, ensure_ascii=False)
            self._add("tool", result, tool_call_id=call, tool_name=tool, parent_id=called["id"])

    def _answer_text(self, length: float) -> str:
        return _text(self.dice, self.person.language.answers, length)

    def _add(self, role: str, content: str | None, **given: Any) -> dict[str, Any]:
        """Add a message; the columns that are not given are those of a plain text."""
        at = self.times[len(self.rows)]
        row: dict[str, Any] = {
            "message_id": f"{self.channel}:seed:{self.chat or 'none'}:{self.first_number + len(self.rows)}",
            "role": role,
            "content": content,
            "attachments": [],
            **dict.fromkeys(("parts", "tool_call_id", "tool_name", "parent_id", "model")),
            "state": "complete",
            **given,
        }
        tokens = 1 + len(content or str(row["parts"])) // CHARACTERS_A_TOKEN
        row |= {
            "id": self.dice.id(at),
            "conversation_id": self.id,
            "user_id": self.person.id,
            "seq": len(self.rows) + 1,
            "fingerprint": NewMessage(**{name: row[name] for name in _FINGERPRINTED}).fingerprint(),
            "input_tokens": self.tokens if row["model"] else None,
            "output_tokens": tokens if row["model"] else None,
            "token_count": tokens,
            "edited_at": None,
            "deleted_at": None,
            "created_at": at,
            "updated_at": at,
            "metadata": {},
        }
        self.tokens = min(self.tokens + tokens, CONTEXT_TOKENS)
        self.rows.append(row)
        return row


def _events(person: Person, dice: Dice, until: datetime) -> Iterator[dict[str, Any]]:
    """Yield a person's events; a changed occurrence comes after its series."""
    for _ in range(int(dice.amount(8, 0.7, 100))):
        kind = dice.random()
        if kind < 0.7:
            yield _single_event(person, dice, until)
        elif kind < 0.85:
            yield _whole_days(person, dice, until)
        else:
            yield from _series(person, dice, until)


def _single_event(person: Person, dice: Dice, until: datetime) -> dict[str, Any]:
    start = to_instant(_local_time(person, dice, until), person.zone)
    end = start + timedelta(minutes=dice.pick((15, 30, 60, 60, 90)))
    row = _event(person, dice, until, start=start, end=end if dice.happens(0.9) else None)
    row["status"] = _status(dice, is_over=end < until)
    if dice.happens(0.4):
        _remind(row, start, dice.pick(OFFSETS), dice, until)
    if dice.happens(0.1):
        row["ical_uid"] = f"{row['id']}@calendar.example"
    return row


def _whole_days(person: Person, dice: Dice, until: datetime) -> dict[str, Any]:
    first = datetime.combine(_local_time(person, dice, until), time())
    last = first + DAY * dice.pick((1, 1, 1, 2, 7, 14))
    start, end = (to_instant(day, person.zone) for day in (first, last))
    row = _event(person, dice, until, start=start, end=end) | {"all_day": True}
    if last - first == DAY and dice.happens(0.3):
        return row | {"rrule": "FREQ=YEARLY"}
    return row | {"status": _status(dice, is_over=end < until)}


def _series(person: Person, dice: Dice, until: datetime) -> Iterator[dict[str, Any]]:
    """Yield a series; some weekly ones have an excluded occurrence, and one that was moved."""
    local = _local_time(person, dice, until)
    start = to_instant(local, person.zone)
    row = _event(person, dice, until, start=start, end=start + HOUR)
    row["rrule"] = rule = _rule(local, dice)
    if not rule.startswith("FREQ=WEEKLY;BYDAY"):
        yield row
        return
    excluded, moved_from = (to_instant(local + WEEK * n, person.zone) for n in (1, 2))
    if dice.happens(0.4):
        row["exdates"] = [excluded]
    if dice.happens(0.5):
        offset = dice.pick(OFFSETS)
        later = (to_instant(local + WEEK * n, person.zone) for n in count())
        upcoming = (one for one in later if one > until + timedelta(seconds=offset))
        _remind(row, next(one for one in upcoming if one not in {excluded, moved_from}), offset, dice, until)
    yield row
    if dice.happens(0.4):
        moved = _event(person, dice, until, start=moved_from + HOUR, end=moved_from + HOUR * 2)
        yield moved | {"title": row["title"], "series_id": row["id"], "recurrence_id": moved_from}


def _rule(local: datetime, dice: Dice) -> str:
    weekly = f"FREQ=WEEKLY;BYDAY={WEEKDAYS[local.weekday()]}"
    last = (local + DAY * 200).replace(tzinfo=UTC)
    monthly = "FREQ=MONTHLY" if local.day > 28 else f"FREQ=MONTHLY;BYMONTHDAY={local.day}"
    daily = f"FREQ=DAILY;COUNT={2 + int(dice.random() * 20)}"
    return dice.pick((weekly, weekly, f"{weekly};UNTIL={last:%Y%m%dT%H%M%SZ}", monthly, daily))


def _local_time(person: Person, dice: Dice, until: datetime) -> datetime:
    """Choose a quarter of an hour between eight and eight, when no zone changes its clocks."""
    day = dice.between(max(person.joined, until - EVENTS_BEHIND), until + EVENTS_AHEAD)
    return datetime.combine(day.astimezone(person.zone), time(8 + int(dice.random() * 12), dice.pick((0, 15, 30, 45))))


def _event(person: Person, dice: Dice, until: datetime, *, start: datetime, end: datetime | None) -> dict[str, Any]:
    written = min(dice.between(person.joined, start), until) if start > person.joined else person.joined
    unset = ("rrule", "series_id", "recurrence_id", "ical_uid", "reminder_datetime", "reminder_offset")
    return dict.fromkeys(unset) | {
        "id": dice.id(written),
        "user_id": person.id,
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
        "created_at": written,
        "updated_at": written,
    }


def _status(dice: Dice, *, is_over: bool) -> str:
    if dice.happens(0.07):
        return "cancelled"
    return "done" if is_over and dice.happens(0.6) else "scheduled"


def _remind(row: dict[str, Any], start: datetime, offset: int, dice: Dice, until: datetime) -> None:
    """Set a reminder; a past one was sent, except for a few that a worker finds due."""
    at = start - timedelta(seconds=offset)
    row |= {"reminder_datetime": at, "reminder_offset": offset}
    if at <= until and not dice.happens(0.05):
        sent = at + SECOND * 2
        row |= {"reminder_attempts": 1, "reminder_sent_at": sent, "updated_at": max(sent, row["created_at"])}


def _notes(
    person: Person, sources: Sequence[tuple[UUID, datetime]], dice: Dice, until: datetime
) -> Iterator[dict[str, Any]]:
    """Yield a person's notes: with tags, pinned, archived, some of them from a message.

    Args:
        person: The owner of the notes.
        sources: The ids and times of the messages that a note may refer to.
        dice: The source of random numbers.
        until: The present of the seed.
    """
    language = person.language
    for _ in range(int(dice.amount(6, 0.8, 200))):
        source, at = dice.pick(sources) if sources and dice.happens(0.3) else (None, None)
        written = at or dice.between(person.joined, person.row["last_seen_at"])
        put_away = dice.between(written, person.left or until)
        archived_at = put_away if dice.happens(0.15) else None
        deleted_at = put_away if archived_at is None and dice.happens(0.05) else None
        yield {
            "id": dice.id(written),
            "user_id": person.id,
            "title": dice.pick(language.words) if dice.happens(0.8) else None,
            "content": _text(dice, language.answers, dice.amount(120, 1.0, 4000)),
            "tags": sorted({dice.pick(language.words) for _ in range(int(dice.random() * 4))}),
            "pinned": archived_at is None and dice.happens(0.08),
            "archived_at": archived_at,
            "deleted_at": deleted_at,
            "source_message_id": source,
            "created_at": written,
            "updated_at": archived_at or deleted_at or written,
        }
