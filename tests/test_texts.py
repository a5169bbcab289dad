"""The rules for texts that ruff does not check: openers of docstrings, words that are not used, and the picture."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.house import PAGE, ROOT, house, page_with

CODE = ("src", "thea_database", "migrations", "scripts", "benchmarks", "examples")
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", ".env.example", "Makefile", ".ci/run")
FROZEN = {"versions", "sql"}
"""Migrations, and the bodies of SQL functions that are compared with their copies in migrations."""
RETIRED_OPENERS = re.compile(r"(?:Say|Tell|Have|Let|Want|Look|Hold|Give|Go|Hear|Who|Whoever|Whose|What|Whether|How)\b")
RETIRED_WORDS = re.compile(
    r"(?<![\w-])(?:"
    r"(?<!\")nobody|somebody|whoever|anew|mighty|for good|for ever|walls|clock on the wall|short way"
    r"|(?:no|some|any)body's|acting[ _]tenant|mends?|mended|heals?|healed|gives? way"
    r")(?![\w-])",
    re.IGNORECASE,
)


def test_the_picture_in_contributing_shows_the_import_contracts() -> None:
    assert PAGE.read_text() == page_with(house()), "run `make house`"


def test_docstrings_begin_with_a_verb_or_a_noun_and_not_with_a_clause() -> None:
    found = {
        name_of(path)
        for path in code()
        if any(RETIRED_OPENERS.match(docstring) for docstring in docstrings_of(path.read_text()))
    }

    assert found == set()


def test_retired_words_are_not_used() -> None:
    documents = [path for folder in ("docs", "db") for path in (ROOT / folder).rglob("*") if path.is_file()]
    texts = [*code(), *(ROOT / name for name in DOCUMENTS), *documents]

    assert {name_of(path) for path in texts if RETIRED_WORDS.search(path.read_text())} == set()


@pytest.mark.parametrize("docstring", ["Say whether it is so.", "What is left.", "Who acts.", "How it is done."])
def test_a_retired_opener_is_noticed(docstring: str) -> None:
    assert RETIRED_OPENERS.match(docstring)


@pytest.mark.parametrize(
    "text", ["# nobody else", "kept for good.", "Three walls", "acting_tenant", "one retry heals it"]
)
def test_a_retired_word_is_noticed(text: str) -> None:
    assert RETIRED_WORDS.search(text)


@pytest.mark.parametrize("text", ["firewalls", "wall-clock time", "healthy", "amended"])
def test_a_word_that_resembles_a_retired_one_is_accepted(text: str) -> None:
    assert not RETIRED_WORDS.search(text)


def code() -> list[Path]:
    files = [path for folder in CODE for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".sql", ".mako"}]
    return sorted(path for path in files if not FROZEN & set(path.relative_to(ROOT).parts[:-1]))


def docstrings_of(source: str) -> Iterator[str]:
    """Yield the docstrings of a Python module, its classes and its functions; none for other languages."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))
