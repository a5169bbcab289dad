"""The caller of a statement: the package's method that the service called, and the line of the service."""

from __future__ import annotations

import functools
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final, Literal, NamedTuple

from greenlet import getcurrent

from src.config import get_logger

BINDING: Final = "TenantBinding.bind"
"""The name of the statement that binds a connection to its tenant."""
UNKNOWN: Final = "unknown"

_Kind = Literal["room", "ours", "library", "service"]

_PACKAGE: Final = Path(__file__).parents[1]
_UNNAMED: Final = {_PACKAGE.name, "engine", "observability", "session"}
"""The packages whose functions are on the way of every statement: they do not name it."""
_LIBRARIES: Final = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


class Place(NamedTuple):
    """The origin of a statement, in names from the code, so that their number is limited."""

    name: str
    """``UserRepository.get_by_telegram_id``; the service's own function if it sent the statement itself."""
    function: str
    """The service's function, with its module."""
    caller: str
    """The service's line: ``handlers.py:42 in save``."""


def find_place() -> Place:
    """Return the origin of the statement that is being sent: walk from here to the first frame of the service."""
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
    """Yield the frames outwards; SQLAlchemy's synchronous part has a stack of its own, below that of the coroutine."""
    stack = getcurrent()
    frame: FrameType | None = start or sys._getframe(2)  # noqa: SLF001 - there is no public way
    while True:
        while frame is not None:
            yield frame
            frame = frame.f_back
        parent = stack.parent
        if parent is None:
            return
        stack, frame = parent, parent.gr_frame


def _title(frame: FrameType) -> str:
    """Return a method's name with the class of its object, not the base class that defines it."""
    code = frame.f_code
    if code.co_varnames[:1] != ("self",):
        return code.co_qualname
    return f"{type(frame.f_locals['self']).__name__}.{code.co_name}"


@functools.cache
def _file(filename: str) -> str:
    return Path(filename).name


@functools.cache  # there are as many as there are source files
def _kind(filename: str) -> _Kind:
    path = Path(filename)
    if path.is_relative_to(_PACKAGE):
        return "ours" if path.parent.name in _UNNAMED else "room"
    return "library" if filename.startswith(("<", *_LIBRARIES)) else "service"


class DefaultTenantLog:
    """Log a warning for each line of the service that uses the default tenant, once a process."""

    def __init__(self) -> None:
        self._logged: set[tuple[str, str]] = set()

    def __call__(self) -> None:
        """Log the line of the service that called, once."""
        place = find_place()
        site = (place.function, place.caller)
        if site in self._logged:
            return
        self._logged.add(site)
        get_logger(__name__).warning(
            "default_tenant_used",
            caller=place.caller,
            function=place.function,
            hint="wrap the work in `with tenant_context(tenant_id):`; a thread or a task may have lost the tenant",
        )
