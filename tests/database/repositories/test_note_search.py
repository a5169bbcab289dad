"""NoteRepository.search: matches for any query text, and their snippets."""

from __future__ import annotations

import unicodedata

import pytest

from src.database.models import Note, User
from src.database.repositories import NoteRepository
from src.database.repositories.notes import FRAGMENT_LENGTH, snippet
from src.database.session import AsyncSession

HOSTILE = [
    "' & | ! ( \\ <-> :*",
    "'",
    "''",
    '"',
    '"""',
    "\\",
    "a\\' b",
    "a'b:*",
    "!!",
    "-",
    "--",
    '-"',
    '-""',
    "a & b | !c <-> (d):*A",
    "a:*b",
    "<->",
    "can\0ción\0",
    "\ud800",
    "😀",
    "😀 -😀 or 😀",
    "or",
    "or or or",
    "OR a OR",
    "de la the of",
    "-de -the",
    "... ,,, ;;;",
    "%s $1 :words",
    "<b>x</b> &amp;",
    "漢" * 1000,
    "x" * 1000,
    "😀a" * 500,
    "a " * 500,
    "a or " * 200,
    '"a" ' * 250,
    "-a " * 300,
]


@pytest.fixture
async def notes(session: AsyncSession, user: User) -> NoteRepository:
    return NoteRepository(session)


async def found(notes: NoteRepository, user: User, query: str, **options: bool) -> list[str]:
    return sorted(hit.note.content for hit in await notes.search(user.id, query, **options))  # type: ignore[arg-type]


async def add(notes: NoteRepository, user: User, *contents: str) -> None:
    await notes.add_many([Note(user_id=user.id, content=content) for content in contents])


@pytest.mark.parametrize("query", HOSTILE)
async def test_any_query_text_is_accepted(notes: NoteRepository, user: User, query: str) -> None:
    await add(notes, user, "a b 😀 de the 漢")

    for prefix in (True, False):
        await notes.search(user.id, query, prefix=prefix)


async def test_a_query_that_is_too_long_is_refused_without_repeating_it(notes: NoteRepository, user: User) -> None:
    with pytest.raises(ValueError, match=r"query must be at most 1000 characters, got 10000; search for a few"):
        await notes.search(user.id, "s" * 10_000)
    with pytest.raises(ValueError, match=r"query must be at most 1000 characters, got 3000"):
        await notes.search(user.id, "\ufb2c" * 1000)  # grows threefold when it is composed


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("query", ["cancion", "canción", "CANCIÓN", "canciones", "Canci\N{LATIN SMALL LETTER O}nes"])
async def test_accents_and_case_make_no_difference_however_they_are_encoded(
    notes: NoteRepository, user: User, form: str, query: str
) -> None:
    content = unicodedata.normalize(form, "Mi canción")  # type: ignore[arg-type] # a parameter
    await add(notes, user, content)

    [hit] = await notes.search(user.id, unicodedata.normalize(form, query))  # type: ignore[arg-type] # a parameter

    assert hit.snippet == "Mi «canción»"


@pytest.mark.parametrize(
    "content", ["¿Canción?", "la «canción»", "una canción—y otra", "\u201cCanción\u201d…", "d\u2019une canción"]
)
async def test_signs_beside_a_word_are_no_part_of_it(notes: NoteRepository, user: User, content: str) -> None:
    await add(notes, user, content)

    for query in ("cancion", "¿canción?", "canciones"):
        assert len(await notes.search(user.id, query, prefix=False)) == 1


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("tort", ["Receta de tortilla"]),
        ("receta tort", ["Receta de tortilla"]),
        ("tort receta", []),  # only the last word is still being typed
        ('"tort"', []),
        ("receta -tort", ["Receta de tortilla"]),
        ("state-of-the-a", ["state-of-the-art"]),
    ],
)
async def test_the_last_word_matches_as_a_prefix(
    notes: NoteRepository, user: User, query: str, expected: list[str]
) -> None:
    await add(notes, user, "Receta de tortilla", "state-of-the-art")

    assert await found(notes, user, query) == expected
    assert await found(notes, user, "tort", prefix=False) == []


async def test_a_whole_word_comes_before_one_that_begins_with_it(notes: NoteRepository, user: User) -> None:
    await add(notes, user, "pan", "pantalla", "panda")

    hits = await notes.search(user.id, "pan")

    assert [hit.note.content for hit in hits] == ["pan", "panda", "pantalla"]
    assert hits[0].rank > hits[1].rank


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("running canciones", ["I run with a canción"]),  # each word in its own language
        ("the canciones", ["I run with a canción", "otras canciones de hoy"]),
        ("canciones -run", ["otras canciones de hoy"]),
        ("canciones -running", ["otras canciones de hoy"]),
        ('"otras canciones"', ["otras canciones de hoy"]),
        ("“otras canciones”", ["otras canciones de hoy"]),
        ('"canciones otras"', []),
        ("otra or running", ["I run with a canción", "otras canciones de hoy"]),
        ("a b or otra", ["otras canciones de hoy"]),  # `or` binds less than standing side by side
        ("with", ["I run with a canción"]),  # a stop word by itself is a word
    ],
)
async def test_a_query_can_mix_both_languages(
    notes: NoteRepository, user: User, query: str, expected: list[str]
) -> None:
    await add(notes, user, "I run with a canción", "otras canciones de hoy")

    assert await found(notes, user, query, prefix=False) == expected


async def test_a_title_counts_more_than_the_content(notes: NoteRepository, user: User) -> None:
    await notes.add_many(
        [
            Note(user_id=user.id, title="Casa", content="x"),
            Note(user_id=user.id, title="x", content="casa"),
        ]
    )

    assert [hit.note.title for hit in await notes.search(user.id, "casa")] == ["Casa", "x"]


async def test_a_snippet_marks_matches_by_either_stem_and_by_prefix(notes: NoteRepository, user: User) -> None:
    await add(notes, user, "She runs. Las CANCIONES, running; a cáncer")

    [hit] = await notes.search(user.id, "run canción or can")

    assert hit.snippet == "She «runs». Las «CANCIONES», «running»; a «cáncer»"


async def test_a_snippet_is_the_part_of_a_long_note_where_the_words_stand(notes: NoteRepository, user: User) -> None:
    await add(notes, user, ("relleno de texto " * 6000)[:99_000] + "mi canción preferida" + " y más texto" * 40)

    [hit] = await notes.search(user.id, "cancion")

    assert "mi «canción» preferida" in hit.snippet
    assert hit.snippet.startswith("… ")
    assert hit.snippet.endswith(" …")
    assert len(hit.snippet) <= FRAGMENT_LENGTH + 10


async def test_a_snippet_of_a_note_found_by_its_title_is_how_the_content_begins(
    notes: NoteRepository, user: User
) -> None:
    await notes.add(Note(user_id=user.id, title="Casa", content="primera\nlínea " * 100))

    [hit] = await notes.search(user.id, "casa")

    assert hit.snippet.startswith("primera línea primera")
    assert len(hit.snippet) <= FRAGMENT_LENGTH + 2


def test_a_mark_is_always_a_word_that_was_found() -> None:
    assert snippet("dijo «una casa» y <b>casa</b>", ["casa"]) == "dijo \u2039una «casa»\u203a y <b>«casa»</b>"


@pytest.mark.parametrize(
    ("content", "words", "marked"),
    [
        ("casa casas acasa casa_x", ["casa"], "«casa» casas acasa «casa»_x"),
        ("un e-mail, el mail", ["mail", "e"], "un «e-mail», el «mail»"),
        ("ana@example.com, ana", ["ana", "example", "com"], "«ana@example.com», «ana»"),
        ("İstanbul casa", ["casa"], "İstanbul «casa»"),
        ("x", [], "x"),
        ("a\n\n\tcasa", ["casa"], "a «casa»"),
        ("ß casa", ["ß"], "«ß» casa"),
    ],
)
def test_marks_whole_words(content: str, words: list[str], marked: str) -> None:
    assert snippet(content, words) == marked


def test_shows_two_places_where_different_words_stand_apart() -> None:
    marked = snippet("uno " + "relleno " * 100 + "dos " + "relleno " * 100, ["uno", "dos"])

    assert marked.startswith("«uno» relleno")
    assert "… relleno" in marked
    assert "«dos»" in marked
    assert len(marked) <= 2 * FRAGMENT_LENGTH + 15


def test_a_word_without_end_is_cut() -> None:
    assert len(snippet("x" * 100_000, ["x" * 2000])) <= FRAGMENT_LENGTH + 2
    assert len(snippet("x " + "y" * 100_000, ["y" * 100_000])) <= FRAGMENT_LENGTH + 6
