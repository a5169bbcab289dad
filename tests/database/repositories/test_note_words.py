"""The words of a note: separated by any punctuation, and the same for the server, for queries and for snippets."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import pytest
from sqlalchemy import text

from src.database.models import Note, User
from src.database.models.note import plain as plain_sql
from src.database.repositories import NoteRepository
from src.database.repositories.notes import plain
from src.database.session import AsyncSession


@pytest.fixture
async def notes(session: AsyncSession) -> NoteRepository:
    return NoteRepository(session)


async def found(notes: NoteRepository, user: User, query: str, **options: bool) -> list[str]:
    return sorted(hit.note.content for hit in await notes.search(user.id, query, **options))  # type: ignore[arg-type]


async def add(notes: NoteRepository, user: User, *contents: str) -> None:
    await notes.add_many([Note(user_id=user.id, content=content) for content in contents])


def test_every_sign_is_a_space_and_no_letter_is() -> None:
    """Of the scripts that people write here: Latin, Greek, Cyrillic, the symbols, CJK's own signs, emoji."""
    blocks = [*range(1, 0x375), *range(0x400, 0x482), *range(0x483, 0x5BE), *range(0x2000, 0x2ADC)]
    blocks += [*range(0x3000, 0x309B), *range(0xFE00, 0xFE20), *range(0xFE30, 0xFE70), *range(0xFF00, 0x10000)]
    blocks += range(0x1F000, 0x1FBF0)
    for sign in map(chr, blocks):
        kind = unicodedata.category(sign)
        if kind[0] in "PSZC" and kind != "Cn":
            assert plain(sign) == " ", f"U+{ord(sign):04X}"
        if (sign.isalpha() or sign.isdecimal()) and not "\u2000" <= sign <= "\u215f":  # the letters there are symbols
            assert plain(sign) != " ", f"U+{ord(sign):04X}"


async def test_the_server_separates_the_same_words(session: AsyncSession) -> None:
    signs = "".join(map(chr, [*range(1, 0xD800), *range(0xE000, 0x30000), *range(0xE0000, 0xE0200)]))
    apart = "\u0378".join(unicodedata.normalize("NFC", signs))  # an unassigned one, so that nothing is composed

    theirs = await session.scalar(text("SELECT " + plain_sql("CAST(:signs AS text)")), {"signs": apart})

    assert re.sub(" +", " ", theirs) == re.sub(" +", " ", plain(apart))


@pytest.mark.parametrize(
    ("content", "query"),
    [
        ("casa/perro", "perro"),
        ("•Leche →pan ✓huevos 🎉fiesta", "leche pan huevos fiesta"),
        ("café\u00a0con leche", "cafe leche"),
        ("€20 ½kilo", "20 kilo"),
        ("línea\u2028segunda\u200bcero", "segunda cero"),
        ("esto <urgente y mañana> no", "urgente manana"),
        ("<b>casa</b> &amp; perro", "casa"),
        ("escribe a ana@example.com", "ana@exam"),
        ("escribe a ana@example.com", "ana@example.com"),
        ("escribe a ana@example.com", "example"),
        ("http://example.com/a?b=mesa", "mesa"),
        ("http://example.com/a?b=mesa", "example.com/a"),
        ("2026-01-02", "2026-01-0"),
        ("v1.2.3", "v1.2"),
        ("(“hola”)…", "hola"),
    ],
)
async def test_punctuation_beside_a_word_does_not_hide_it(
    notes: NoteRepository, user: User, content: str, query: str
) -> None:
    await add(notes, user, content, "otra ana, otro ejemplo")

    assert await found(notes, user, query) == [content]
    assert "«" in (await notes.search(user.id, query))[0].snippet


async def test_only_the_last_part_of_an_address_is_a_prefix(notes: NoteRepository, user: User) -> None:
    await add(notes, user, "anabel@example.com", "ana@example.com")

    assert await found(notes, user, "ana@exam") == ["ana@example.com"]
    assert await found(notes, user, "ana@exam", prefix=False) == []


@pytest.mark.parametrize("options", [{"tags": [""]}, {"tags": ["a"], "match": "foo"}, {"match": None}])
async def test_a_filter_that_filters_nothing_is_rejected(
    notes: NoteRepository, user: User, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"^(tags|match) must "):
        await notes.search(user.id, "x", **options)
    with pytest.raises(ValueError, match=r"^(tags|match) must "):
        await notes.page_for_user(user.id, **options)
