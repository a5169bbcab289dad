"""The bodies of the SQL functions, and the copies that migrations have of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

__all__ = ["BODIES", "FROZEN", "bodies", "code_of", "statements_of", "without_a_copy"]

ROOT: Final = Path(__file__).parents[3]
BODIES: Final = ROOT / "src" / "database" / "statements" / "sql"
FROZEN: Final = ROOT / "migrations" / "sql"


def bodies(folder: Path = BODIES) -> dict[str, str]:
    """Return the text of each function by the function's name."""
    return {f"app_{file.stem}": file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.sql"))}


def without_a_copy(current: Path = BODIES, frozen: Path = FROZEN) -> list[str]:
    """Return the functions whose newest copy in a migration is missing or differs, each with its fault."""
    copies: dict[str, str] = {}
    for revision in sorted(folder for folder in frozen.iterdir() if folder.is_dir()):
        copies |= bodies(revision)
    return [
        f"{name}: {'no migration creates it' if name not in copies else 'the newest copy in a migration differs'}"
        for name, text in bodies(current).items()
        if copies.get(name) != text
    ]


def code_of(text: str) -> str:
    """Return a function's text without comments, and with its string constants empty."""
    return re.sub(r"'(?:[^']|'')*'", "''", re.sub(r"--[^\n]*", "", text))


def statements_of(text: str) -> list[str]:
    """Return the statements of a function's body."""
    return re.split(r";\s", code_of(text).split("$$")[1])
