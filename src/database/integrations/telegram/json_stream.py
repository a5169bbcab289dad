"""Read a JSON document piece by piece: a file of any size needs the memory of its largest piece."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, TextIO

_CHUNK: Final = 1 << 18
_LONGEST_TOKEN: Final = 16  # at least the longest token that a chunk can cut: an escaped pair of surrogates, -Infinity
_WHITESPACE: Final = " \t\r\n"
_DECODER: Final = json.JSONDecoder(strict=False)  # some exports have raw control characters in texts


class JsonSyntaxError(ValueError):
    """The document is not JSON; the error names the line."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line


class JsonStream:
    """A JSON document that is read forward: the caller enters objects and lists, or reads a value as a whole.

    Args:
        file: A text file at its beginning; the caller closes it.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._buffer = ""
        self._at = 0
        self._is_at_end = False
        self._line = 1

    @property
    def line(self) -> int:
        """The line of the next character, from 1."""
        return self._line + self._buffer.count("\n", 0, self._at)

    def peek(self) -> str:
        """Return the next character that is not whitespace, or an empty text at the end."""
        while True:
            while self._at < len(self._buffer):
                if self._buffer[self._at] not in _WHITESPACE:
                    return self._buffer[self._at]
                self._at += 1
            if not self._read_more():
                return ""

    def names(self) -> Iterator[str]:
        """Yield the names of an object. The caller reads each value before the next name.

        Raises:
            JsonSyntaxError: The document is not JSON here.
        """
        self._take("{")
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            name = self.value()
            if not isinstance(name, str):
                raise JsonSyntaxError(self.line, "a name must be in quotes")
            self._take(":")
            yield name
            if self._take(",}") == "}":
                return

    def items(self) -> Iterator[int]:
        """Yield the line of each item of a list. The caller reads each item before the next line.

        Raises:
            JsonSyntaxError: The document is not JSON here.
        """
        self._take("[")
        if self.peek() == "]":
            self._at += 1
            return
        while True:
            self.peek()
            yield self.line
            if self._take(",]") == "]":
                return

    def value(self) -> Any:
        """Read the next value as a whole.

        Raises:
            JsonSyntaxError: The document is not JSON here.
        """
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos >= len(self._buffer) - _LONGEST_TOKEN
                if not (is_cut and self._read_more()):
                    line = self._line + self._buffer.count("\n", 0, min(error.pos, len(self._buffer)))
                    raise JsonSyntaxError(line, error.msg) from None
                continue
            except RecursionError:
                raise JsonSyntaxError(self.line, "too deeply nested") from None
            except ValueError:
                raise JsonSyntaxError(self.line, "a number is too long") from None
            if isinstance(value, int | float) and end + 2 >= len(self._buffer) and self._read_more():
                continue  # the next chunk may continue the number: 1, 1.5, 1e-7
            self._at = end
            return value

    def _take(self, characters: str) -> str:
        found = self.peek()
        if not found or found not in characters:
            expected = " or ".join(characters)
            raise JsonSyntaxError(self.line, f"expected {expected}")
        self._at += 1
        return found

    def _read_more(self) -> bool:
        if self._is_at_end:
            return False
        self._line += self._buffer.count("\n", 0, self._at)
        rest = self._buffer[self._at :]
        piece = self._file.read(
            max(_CHUNK, len(rest))
        )  # twice as much each time, so that a long value is decoded only a few times
        self._buffer, self._at = rest + piece, 0
        self._is_at_end = not piece
        return bool(piece)
