"""Made-up conversations, as `append` would have left them: numbered without gaps, tools' calls with their results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any, Final
from uuid import UUID

from src.database.cli.seed.dice import Dice
from src.database.cli.seed.people import Person
from src.database.cli.seed.phrases import said, tool_call
from src.database.statements.messages import VERSIONS, NewMessage

__all__ = ["Talk", "talks"]

ACCOUNT: Final = "seed"
LONGEST_TALK: Final = 1000
NUMBERS_A_PERSON: Final = 10_000_000
CHARACTERS_A_TOKEN: Final = 4
CONTEXT_TOKENS: Final = 8000
MODELS: Final = ("large-2", "small-2", "small-1")


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation's row, and its messages', in order."""

    conversation: dict[str, Any]
    messages: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Slot:
    """When a conversation may be: the next one begins after it."""

    start: datetime
    end: datetime


def talks(person: Person, messages: int, dice: Dice) -> Iterator[Talk]:
    """Go through a person's conversations, the oldest first; in each chat the last one is as a rule still open."""
    sizes = _sizes(messages, dice)
    chats = _chats(person, dice)
    in_chats = [int(dice.random() * len(chats)) for _ in sizes]
    said_in = [0] * len(chats)
    step = (person.last_seen - person.joined) / len(sizes)
    for place, (size, chat) in enumerate(zip(sizes, in_chats, strict=True)):
        slot = _Slot(person.joined + step * (place + dice.random() / 2), person.joined + step * (place + 1))
        is_open = chat not in in_chats[place + 1 :] and person.left is None and dice.happens(0.85)
        writer = _Writer(person, dice, *chats[chat], slot, first_number=said_in[chat] + 1)
        said_in[chat] += size
        writer.write(size)
        yield Talk(writer.conversation(is_open=is_open), writer.rows)


def _sizes(messages: int, dice: Dice) -> list[int]:
    """Cut a number of messages into conversations; where there is nothing to say, one is begun all the same."""
    sizes = []
    while messages > 0:
        sizes.append(min(messages, 1 + int(dice.amount(24, 1.1, LONGEST_TALK - 1))))
        messages -= sizes[-1]
    return sizes or [0]


def _chats(person: Person, dice: Dice) -> list[tuple[str, str | None]]:
    """Choose where a person talks: a private chat, a group that others are in too, the web, the API."""
    chats: list[tuple[str, str | None]] = [("web", str(dice.id(person.joined)))]
    if person.telegram_id is not None:
        chats[:0] = [("telegram", str(person.telegram_id))]
        if dice.happens(0.3):
            chats.append(("telegram", f"-100100000000{int(dice.random() * 5)}"))
    if dice.happens(0.1):
        chats.append(("api", None))
    return chats


class _Writer:
    """Writes one conversation."""

    def __init__(
        self, person: Person, dice: Dice, channel: str, chat: str | None, slot: _Slot, *, first_number: int
    ) -> None:
        self.rows: list[dict[str, Any]] = []
        self._person = person
        self._dice = dice
        self._channel = channel
        self._chat = chat
        self._slot = slot
        self._id = dice.id(slot.start)
        # Numbers of a person's own: in a group others write too.
        self._first = person.number * NUMBERS_A_PERSON + first_number
        self._times: list[datetime] = []
        self._tokens = 0
        self._turns = 0
        self._model = dice.pick(MODELS)

    def write(self, size: int) -> None:
        """Write so many messages: turn after turn, with a system's message first at times."""
        self._times = _times(size, self._slot, self._dice)
        if size > 1 and self._dice.happens(0.3):
            self._say("system", self._person.language.system)
        while (left := size - len(self.rows)) > 0:
            asked = self._ask()
            if left > 1:
                self._answer(asked, at_most=left - 1)

    def conversation(self, *, is_open: bool) -> dict[str, Any]:
        """Return the conversation's row, with what the repositories count in it."""
        dice, last = self._dice, self.rows[-1]["created_at"] if self.rows else None
        closed_at = None if is_open else (last or self._slot.start) + (self._slot.end - (last or self._slot.start)) / 2
        deleted_at = closed_at if closed_at is not None and dice.happens(0.02) else None
        is_summed_up = len(self.rows) > 40
        return {
            "id": self._id,
            "user_id": self._person.id,
            "session_id": str(dice.id(self._slot.start)),
            "is_active": is_open,
            "channel": self._channel,
            "external_chat_id": self._chat,
            "title": said(dice, self._person.language, self._person.language.notes) if dice.happens(0.6) else None,
            "summary": self._spoken(200) if is_summed_up else None,
            "summary_upto_seq": len(self.rows) // 20 * 20 if is_summed_up else 0,
            "last_seq": len(self.rows),
            "last_message_at": last,
            "closed_at": closed_at,
            "close_reason": dice.pick(("idle", "idle", "user")) if closed_at else None,
            "turn_token": self._turns,
            "deleted_at": deleted_at,
            "created_at": self._slot.start,
            "updated_at": closed_at or last or self._slot.start,
        }

    def _ask(self) -> dict[str, Any]:
        dice, asks = self._dice, self._person.language.asks
        photo = [{"kind": "photo", "file_id": f"seed-{dice.getrandbits(48):x}"}] if dice.happens(0.03) else []
        asked = self._say(
            "user", said(dice, self._person.language, asks, dice.amount(45, 0.9, 4000)), attachments=photo
        )
        if dice.happens(0.01):
            self._edit(asked)
        elif dice.happens(0.005):
            asked["deleted_at"] = asked["updated_at"] = asked["created_at"] + timedelta(seconds=1)
        return asked

    def _answer(self, asked: dict[str, Any], *, at_most: int) -> None:
        """Answer, after one or two calls of tools where there is room for them and their results."""
        self._turns += 1
        calls = 2 if at_most > 3 and self._dice.happens(0.2) else 1
        if at_most > calls + 1 and self._dice.happens(0.15):
            self._use_tools(asked, calls)
        state = "interrupted" if self._dice.happens(0.005) else "complete"
        text = self._spoken(self._dice.amount(160, 0.8, 4000))
        self._say("assistant", text, parent_id=asked["id"], model=self._model, state=state)

    def _use_tools(self, asked: dict[str, Any], calls: int) -> None:
        used = [
            (f"call_{self._dice.getrandbits(64):016x}", *tool_call(self._dice, self._person.language))
            for _ in range(calls)
        ]
        parts = [{"type": "tool_call", "id": call, "name": tool, "input": given} for call, tool, given, _ in used]
        called = self._say("assistant", None, parts=parts, parent_id=asked["id"], model=self._model)
        for call, tool, _, result in used:
            self._say("tool", result, tool_call_id=call, tool_name=tool, parent_id=called["id"])

    def _spoken(self, length: float) -> str:
        return said(self._dice, self._person.language, self._person.language.answers, length)

    def _say(
        self,
        role: Any,
        content: str | None,
        *,
        parts: list[Any] | None = None,
        attachments: list[Any] | None = None,
        parent_id: UUID | None = None,
        tool_call_id: str | None = None,
        tool_name: str | None = None,
        model: str | None = None,
        state: Any = "complete",
    ) -> dict[str, Any]:
        place = len(self.rows)
        message = NewMessage(
            message_id=f"{self._channel}:{ACCOUNT}:{self._chat or 'none'}:{self._first + place}",
            role=role,
            content=content,
            parts=parts,
            attachments=attachments or [],
            tool_call_id=tool_call_id,
            tool_name=tool_name,
        )
        tokens = 1 + len(content or str(parts)) // CHARACTERS_A_TOKEN
        row = {
            "id": self._dice.id(self._times[place]),
            "conversation_id": self._id,
            "user_id": self._person.id,
            "seq": place + 1,
            "message_id": message.message_id,
            "fingerprint": message.fingerprint(),
            "role": role,
            "content": content,
            "parts": parts,
            "attachments": message.attachments,
            "parent_id": parent_id,
            "tool_call_id": tool_call_id,
            "tool_name": tool_name,
            "model": model,
            "input_tokens": self._tokens if model else None,
            "output_tokens": tokens if model else None,
            "token_count": tokens,
            "state": state,
            "edited_at": None,
            "deleted_at": None,
            "created_at": self._times[place],
            "updated_at": self._times[place],
            "metadata": {},
        }
        self._tokens = min(self._tokens + tokens, CONTEXT_TOKENS)
        self.rows.append(row)
        return row

    def _edit(self, row: dict[str, Any]) -> None:
        """Change a message as `edit` does: what was there before is kept, and its tokens are not known any more."""
        at = row["created_at"] + timedelta(seconds=1)
        row["metadata"] = {VERSIONS: [{"content": row["content"], "at": row["created_at"].isoformat()}]}
        row["content"] += " (edit)"
        row.update(token_count=None, edited_at=at, updated_at=at)


def _times(size: int, slot: _Slot, dice: Dice) -> list[datetime]:
    """Spread messages over a while as people do; where the slot is short, they type faster."""
    since = list(accumulate(1 + dice.amount(20, 1.0, 3600) for _ in range(size)))
    room = (slot.end - slot.start).total_seconds() * 0.9
    pace = min(1.0, room / since[-1]) if since else 1.0
    return [slot.start + timedelta(seconds=seconds * pace) for seconds in since]
