"""Write the sample of `thea-db demo`: Bot API updates in which invented people exchange the dialogues of a corpus.

Run it in the checkout: `pip install --group sample`, then `python scripts/make_demo_sample.py`. The same corpus
produces the same file. The dialogues are from the PyPI package chatterbot-corpus (src/database/cli/demo/NOTICE).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import chatterbot_corpus
import yaml

TARGET: Final = Path(__file__).parents[1] / "src" / "database" / "cli" / "demo" / "sample.jsonl"
CORPUS: Final = Path(chatterbot_corpus.__file__).parent / "data"
TOPICS: Final = {
    "es": ("spanish", ("conversations", "dinero", "emociones", "greetings", "IA", "trivia")),
    "en": (
        "english",
        (
            *("ai", "coding", "computers", "conversations", "emotion", "food", "greetings", "history"),
            *("literature", "money", "movies", "science", "sports", "trivia"),
        ),
    ),
}
EMOJI: Final = ("🙂", "😂", "👍🏽", "🎉", "❤️", "👩‍👩‍👧‍👦", "🇪🇸", "🏳️‍🌈", "☕", "🤖")
PEOPLE: Final = {
    "es": ("Álvaro Núñez", "Lucía Peña", "Íñigo Ibarra", "Begoña Muñoz", "Zoë Ferrer", "José Ángel Ríos"),
    "en": ("Ada Green", "Ben O'Neill", "Chloe Li", "Dev Patel", "Ed Müller", "Fay Ng"),
}
FIRST_SECOND: Final = 1_772_442_000  # 2026-03-02T09:00:00Z
LONGEST_TEXT: Final = 4096


@dataclass
class Chat:
    """A chat with the bot. Messages are numbered per chat."""

    chat: dict[str, Any]
    people: list[dict[str, Any]]
    messages: int = 0


@dataclass
class Feed:
    """The updates, in the order in which Telegram would send them without failures."""

    dice: random.Random
    second: int = FIRST_SECOND
    updates: list[dict[str, Any]] = field(default_factory=list)

    def add(self, chat: Chat, person: dict[str, Any], **body: Any) -> dict[str, Any]:
        """Add a message."""
        chat.messages += 1
        self.second += self.dice.randint(2, 90)
        message = {
            "message_id": chat.messages,
            "from": person,
            "chat": chat.chat,
            "date": self.second,
            **body,
        }
        self.updates.append({"message": message})
        return message

    def edit(self, message: dict[str, Any], text: str) -> None:
        """Add a later version of a message."""
        self.second += self.dice.randint(2, 20)
        self.updates.append({"edited_message": {**message, "edit_date": self.second, "text": text}})


def dialogues(language: str) -> Iterator[list[str]]:
    """Yield the dialogues of the corpus in one language."""
    folder, topics = TOPICS[language]
    for topic in topics:
        text = (CORPUS / folder / f"{topic}.yml").read_text(encoding="utf-8")
        for dialogue in yaml.safe_load(text)["conversations"]:
            yield [str(line).strip() for line in dialogue if str(line).strip()]


def person(number: int, name: str, language: str) -> dict[str, Any]:
    """Return an invented user in the form of the Bot API."""
    first, _, last = name.partition(" ")
    return {
        "id": 700_000_000 + number,
        "is_bot": False,
        "first_name": first,
        "last_name": last,
        "username": f"demo_{language}_{number}",
        "language_code": language,
    }


def chats(language: str, offset: int) -> list[Chat]:
    """Return two groups and a private chat with each person."""
    people = [person(offset + number, name, language) for number, name in enumerate(PEOPLE[language])]
    groups = [
        Chat(
            {
                "id": -1_001_000_000_000 - offset - n,
                "type": "supergroup",
                "title": f"{language} group {n + 1}",
            },
            half,
        )
        for n, half in enumerate((people[:3], people[3:]))
    ]
    private = [Chat({"id": p["id"], "type": "private", "first_name": p["first_name"]}, [p]) for p in people]
    return [*groups, *private]


def add_dialogue(feed: Feed, chat: Chat, dialogue: list[str]) -> None:
    """Add a dialogue between the people of a chat; a private chat gets only every second line, those of the user."""
    lines = dialogue if len(chat.people) > 1 else dialogue[::2]
    first = feed.dice.randrange(len(chat.people))
    for turn, line in enumerate(lines):
        speaker = chat.people[(first + turn) % len(chat.people)]
        luck = feed.dice.random()
        if luck < 0.03:
            name = f"demo-photo-{chat.chat['id']}-{chat.messages}"
            photo = [{"file_id": name, "file_unique_id": f"u-{name}", "width": 1280, "height": 720}]
            feed.add(chat, speaker, photo=photo, caption=line)
        elif luck < 0.15:
            feed.add(chat, speaker, text=f"{line} {feed.dice.choice(EMOJI)}")
        else:
            message = feed.add(chat, speaker, text=line)
            if luck > 0.97:
                feed.edit(message, f"{line} (edit)")


def with_faults(feed: Feed) -> list[dict[str, Any]]:
    """Return the numbered updates, some of them twice and some late, as bots receive them."""
    numbered = [{"update_id": 500_000_000 + n, **update} for n, update in enumerate(feed.updates)]
    order = [(n + (feed.dice.uniform(2, 12) if feed.dice.random() < 0.05 else 0), u) for n, u in enumerate(numbered)]
    again = [(n + feed.dice.uniform(1, 40), u) for n, u in enumerate(numbered) if feed.dice.random() < 0.04]
    return [update for _, update in sorted([*order, *again], key=lambda pair: pair[0])]


def main() -> None:
    """Write the sample."""
    feed = Feed(random.Random(20260302))  # noqa: S311 - a sample, not a secret
    everywhere = []
    for number, language in enumerate(TOPICS):
        places = chats(language, number * 100)
        everywhere += [
            (places[feed.dice.randrange(2) if len(d) > 2 else feed.dice.randrange(len(places))], d)
            for d in dialogues(language)
        ]
    feed.dice.shuffle(everywhere)
    for chat, dialogue in everywhere:
        add_dialogue(feed, chat, dialogue)
    group = everywhere[0][0]
    feed.add(group, group.people[0], text="A NUL byte \0 in the middle")
    feed.add(group, group.people[0], text=("La más larga que Telegram admite. " * 200)[:LONGEST_TEXT])
    lines = [json.dumps(update, ensure_ascii=False, separators=(",", ":")) for update in with_faults(feed)]
    TARGET.write_text("\n".join(lines) + "\n", encoding="utf-8")
    messages = sum("message" in update for update in feed.updates)
    print(f"{TARGET}: {len(lines)} updates, {messages} messages")  # noqa: T201 - a script's report


if __name__ == "__main__":
    main()
