"""Whose statement it is: the method of ours that the service called, and the line it called it from."""

from __future__ import annotations

import functools
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final, Literal, NamedTuple

from greenlet import getcurrent

__all__ = ["BINDING", "Place", "find_place"]

BINDING: Final = "TenantBinding.bind"
"""What a session's own statement is called: the one that says who acts."""
UNKNOWN: Final = "unknown"

_Kind = Literal["room", "ours", "library", "service"]

_PACKAGE: Final = Path(__file__).parents[1]
_UNNAMED: Final = {_PACKAGE.name, "engine", "observe", "session"}
"""The folders whose functions are on the way of every statement: their names do not tell which it is."""
_LIBRARIES: Final = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


class Place(NamedTuple):
    """Where a statement comes from, in names that are in the code: there are as many of them as there is code."""

    name: str
    """``UserRepository.get_by_telegram_id``; the service's own function where it sent the statement itself."""
    function: str
    """The service's function, with its module."""
    caller: str
    """The service's line: ``handlers.py:42 in save``."""


def find_place() -> Place:
    """Walk from the caller outwards, and through SQLAlchemy's switch of stacks, to the first line of the service."""
    name = None
    for frame in _frames():
        kind = _kind(frame.f_code.co_filename)
        if kind == "ours" and frame.f_code.co_name == "bind" and name is None:
            return _service(frame, BINDING)
        if kind == "room" and not frame.f_code.co_name.startswith("<"):
            name = _title(frame)
        elif kind == "service":
            return _at(frame, name)
    return Place(name or UNKNOWN, UNKNOWN, UNKNOWN)


def _service(inner: FrameType, name: str) -> Place:
    for frame in _frames(inner):
        if _kind(frame.f_code.co_filename) == "service":
            return _at(frame, name)
    return Place(name, UNKNOWN, UNKNOWN)


def _at(frame: FrameType, name: str | None) -> Place:
    code = frame.f_code
    function = f"{frame.f_globals.get('__name__', '')}.{code.co_qualname}"
    return Place(name or function, function, f"{_file(code.co_filename)}:{frame.f_lineno} in {code.co_name}")


def _frames(start: FrameType | None = None) -> Iterator[FrameType]:
    """Go outwards; SQLAlchemy's synchronous half has a stack of its own, whose parent is the awaiting one's."""
    stack = getcurrent()
    frame: FrameType | None = start or sys._getframe(2)  # noqa: SLF001 - the one way to it
    while True:
        while frame is not None:
            yield frame
            frame = frame.f_back
        parent = stack.parent
        if parent is None:
            return
        stack, frame = parent, parent.gr_frame


def _title(frame: FrameType) -> str:
    """Return a method's name with the class that it was called on: `get` of a base class says little."""
    code = frame.f_code
    if code.co_varnames[:1] != ("self",):
        return code.co_qualname
    owner = type(frame.f_locals["self"])
    return f"{getattr(owner, 'known_as', owner.__name__)}.{code.co_name}"


@functools.cache
def _file(filename: str) -> str:
    return Path(filename).name


@functools.cache  # there are as many as there are source files
def _kind(filename: str) -> _Kind:
    path = Path(filename)
    if path.is_relative_to(_PACKAGE):
        return "ours" if path.parent.name in _UNNAMED else "room"
    return "library" if filename.startswith(("<", *_LIBRARIES)) else "service"
