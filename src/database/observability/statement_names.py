"""The caller of a statement: the package's method that the service called, and the line of the service."""

from __future__ import annotations

import functools
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, Literal, NamedTuple, TypeVar

from greenlet import getcurrent

from src.config import get_logger

BINDING: Final = "TenantBinding.bind"
"""The name of the statement that binds a connection to its tenant."""
UNKNOWN: Final = "unknown"

_Kind = Literal["ours", "library", "service"]
_OwnerT = TypeVar("_OwnerT", bound=Callable[..., Any])

_PACKAGE: Final = Path(__file__).parents[1]
_LIBRARIES: Final = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})

_named: Final[set[type | CodeType]] = set()
"""The names that the decorator has registered, at import."""


def names_statements(owner: _OwnerT) -> _OwnerT:
    """Name statements by the methods of this class, or by this function, in metrics, traces and logs: a decorator.

    A method's name begins with the class of its object, or with the attribute `observed_as` of that class. Dashboards
    depend on the names: they stay if the code moves to another file.
    """
    _named.add(owner if isinstance(owner, type) else owner.__code__)
    return owner


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
    name = outermost = None
    for frame in _frames():
        kind = _kind(frame.f_code.co_filename)
        if kind == "service":
            return _at(frame, name)
        if kind == "ours":
            outermost = frame.f_code.co_qualname
            if name != BINDING:  # whatever the binding is sent for
                name = _operation(frame) or name
    return Place(name or outermost or UNKNOWN, UNKNOWN, UNKNOWN)


def _at(frame: FrameType, name: str | None) -> Place:
    code = frame.f_code
    function = f"{frame.f_globals.get('__name__', '')}.{code.co_qualname}"
    return Place(name or function, function, f"{_file(code.co_filename)}:{frame.f_lineno} in {code.co_name}")


def _frames() -> Iterator[FrameType]:
    """Yield the frames outwards; SQLAlchemy's synchronous part has a stack of its own, below that of the coroutine."""
    stack = getcurrent()
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - there is no public way
    while True:
        while frame is not None:
            yield frame
            frame = frame.f_back
        parent = stack.parent
        if parent is None:
            return
        stack, frame = parent, parent.gr_frame


def _operation(frame: FrameType) -> str | None:
    """Return the name that the frame's function gives to statements; a method has that of its object's class."""
    code = frame.f_code
    if code in _named:
        return code.co_qualname
    if code.co_varnames[:1] != ("self",) or code.co_name.startswith("<"):
        return None
    owner = type(frame.f_locals["self"])
    if _named.isdisjoint(owner.__mro__):
        return None
    return f"{getattr(owner, 'observed_as', owner.__name__)}.{code.co_name}"


@functools.cache
def _file(filename: str) -> str:
    return Path(filename).name


@functools.cache  # there are as many as there are source files
def _kind(filename: str) -> _Kind:
    if Path(filename).is_relative_to(_PACKAGE):
        return "ours"
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
