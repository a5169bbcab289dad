"""JSON values in jsonb: each JSON value that `encode_json` accepts is stored, and read back equal.

jsonb cannot store NUL and lone surrogates, which occur in the output of tools. In strings and names, each of them is
stored as `ESCAPE` and the four hexadecimal digits of its code, and so is `ESCAPE` itself. Other strings are stored
unchanged.
"""

from __future__ import annotations

import json
import re
from math import isfinite
from typing import Any, Final, TypeAlias

ESCAPE: Final = "\ufdd0"
"""A noncharacter of Unicode, which is reserved for internal use and does not occur in texts that are exchanged."""
DEEPEST: Final = 100
"""The deepest nesting of lists and dicts in a JSON value."""
# 4,300 digits: the default of sys.set_int_max_str_digits, beyond which Python neither writes nor parses an int.
_LARGEST_NUMBER_BITS: Final = 14_284
_FIRST_WITH_EXPONENT: Final = 1e16  # greater floats are whole numbers; Python writes them with an exponent
_LONGEST_NAME_IN_PATH: Final = 40
_LONGEST_PATH: Final = 120
_UNSTORABLE: Final = re.compile(f"[\0\ud800-\udfff{ESCAPE}]")
_ESCAPED: Final = re.compile(f"{ESCAPE}(0000|d[89a-f][0-9a-f]{{2}}|fdd0)")

_Place: TypeAlias = "tuple[_Place, str | int] | None"
"""A place within a JSON value: the place of its container, and its name or index there; None is the value itself."""


def encode_json(value: Any, attribute: str = "JSON", *, of: str = "") -> Any:
    """Return a JSON value as it is stored: a copy with escaped strings and names, and with lists in place of tuples.

    Args:
        value: The value.
        attribute: The name of the attribute, for errors.
        of: The owner of the attribute, for errors: `message 'telegram:bot:42:7'`.

    Raises:
        ValueError: The value is not a JSON value. The message names the attribute, the rule and the path, and has no
            text of the value.
    """
    try:
        return _encoded(value, None, 0)
    except _NotJson as error:
        message = f"{attribute} must {error.rule} at {attribute}{_path(error.place)}"
    # Outside of the except block: as its context, the error would keep the frames with the user's content alive.
    raise ValueError(f"{of}: {message}" if of else message)


def json_text(value: Any, attribute: str = "JSON", *, of: str = "") -> str:
    """Return the JSON text of `encode_json`, as the SQL functions take it.

    Raises:
        ValueError: As `encode_json` does.
    """
    return json.dumps(encode_json(value, attribute, of=of), ensure_ascii=False)


def decode_json(text: str) -> Any:
    """Return the value of a JSON text that the server has sent."""
    value = json.loads(text)
    return _decoded(value) if ESCAPE in text else value


class _NotJson(Exception):
    def __init__(self, rule: str, place: _Place) -> None:
        self.rule, self.place = rule, place


def _encoded(value: Any, place: _Place, depth: int) -> Any:
    if isinstance(value, str):
        return _escape(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value.bit_length() > _LARGEST_NUMBER_BITS:
            raise _NotJson("have numbers of at most 4300 digits, got more", place)
        return value
    if isinstance(value, float):
        if not isfinite(value):
            raise _NotJson(f"have only finite numbers, got {value}", place)
        # 1e23 is 99999999999999991611392. jsonb would return the digits of "1e+23", an int that is not equal to it.
        return int(value) if abs(value) >= _FIRST_WITH_EXPONENT else value
    if depth >= DEEPEST and isinstance(value, dict | list | tuple):
        raise _NotJson(f"be nested at most {DEEPEST} levels deep, got more", place)
    if isinstance(value, dict):
        return {_encoded_name(name, place): _encoded(item, (place, name), depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(item, (place, index), depth + 1) for index, item in enumerate(value)]
    kind = type(value).__name__
    raise _NotJson(f"have only text, numbers, true, false, null, lists and dicts, got {kind}", place)


def _encoded_name(name: Any, place: _Place) -> str:
    # json.dumps converts some types: {1: "a", "1": "b"} would have one name twice.
    if not isinstance(name, str):
        raise _NotJson(f"have only strings as keys, got {type(name).__name__}", place)
    return _escape(name)


def _escape(text: str) -> str:
    if "\0" not in text and text.isascii():  # takes a tenth of the time of the search
        return text
    return _UNSTORABLE.sub(lambda one: f"{ESCAPE}{ord(one[0]):04x}", text)


def _decoded(value: Any) -> Any:
    if isinstance(value, str):
        return _ESCAPED.sub(lambda one: chr(int(one[1], 16)), value)
    if isinstance(value, dict):
        return {_decoded(name): _decoded(item) for name, item in value.items()}
    return [_decoded(item) for item in value] if isinstance(value, list) else value


def _path(place: _Place) -> str:
    """Return the path of a place as Python text, `[0].score`, without names that can be a user's content."""
    parts: list[str] = []
    while place is not None:
        place, step = place
        if isinstance(step, int):
            parts.append(f"[{step}]")
        else:
            parts.append(f".{step}" if step.isidentifier() and len(step) <= _LONGEST_NAME_IN_PATH else "[…]")
    path = "".join(reversed(parts))
    return path if len(path) <= _LONGEST_PATH else f"{path[:_LONGEST_PATH]}…"
