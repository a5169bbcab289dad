"""Everything that an operator can see, collected for the search for canaries: logs, error chains and reprs."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import pytest
import structlog

__all__ = ["CONTENT", "MORE_SOURCES", "SECRET", "Seen", "collecting"]

SECRET: Final = "c4n4ry-s3cret"
"""A password or token."""
CONTENT: Final = "c4n4ry-content"
"""Content of a user."""
MORE_SOURCES: Final[list[Callable[[], str]]] = []
"""Further outputs: functions that return their whole text, for example of metrics or traces."""


@dataclass
class Seen:
    """The collected texts, by their source."""

    texts: list[tuple[str, str]] = field(default_factory=list)

    def note(self, where: str, text: str) -> None:
        self.texts.append((where, text))

    def note_error(self, where: str, error: BaseException) -> None:
        """Collect an error as a log or an error reporter shows it: the whole chain, suppressed errors included."""
        self.note(where, "".join(traceback.format_exception(error)))
        for link in _chain(error):
            self.note(where, f"{link} {link!r} {link.args!r}")
            self.note(where, "\n".join(getattr(link, "__notes__", ())))
            self.note(where, repr({name: value for name, value in vars(link).items() if not name.startswith("_")}))

    def hits(self) -> list[str]:
        """Return the sources whose text contains a canary."""
        texts = [*self.texts, *(("more", source()) for source in MORE_SOURCES)]
        return [f"{where}: {_around(text)}" for where, text in texts if SECRET in text or CONTENT in text]


@contextmanager
def collecting(capfd: pytest.CaptureFixture[str]) -> Iterator[Seen]:
    """Collect all logs at DEBUG, of the package and of libraries, and the standard streams."""
    seen = Seen()
    handler = _Noting(seen)
    root = logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in ("", "sqlalchemy")}  # the latter keeps a level of its own
    root.addHandler(handler)
    for name in levels:
        logging.getLogger(name).setLevel(logging.DEBUG)
    structlog.reset_defaults()
    capfd.readouterr()
    try:
        yield seen
        printed = capfd.readouterr()
        seen.note("standard output", printed.out)
        seen.note("standard error output", printed.err)
    finally:
        root.removeHandler(handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        structlog.reset_defaults()


class _Noting(logging.Handler):
    def __init__(self, seen: Seen) -> None:
        super().__init__(logging.DEBUG)
        self._seen = seen
        self.setFormatter(logging.Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        self._seen.note(f"log of {record.name}", self.format(record))


def _chain(error: BaseException) -> Iterator[BaseException]:
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        link = left.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        left += [link.__cause__, link.__context__, getattr(link, "orig", None), *getattr(link, "exceptions", ())]


def _around(text: str) -> str:
    place = max(text.find(SECRET), text.find(CONTENT))
    return text[max(0, place - 150) : place + 80]
