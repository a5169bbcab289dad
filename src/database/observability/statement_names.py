"""The origin of a statement: the registered name of the operation, and for logs and traces the line of the service."""

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
"""The name of the statement that binds an open transaction to its tenant."""
SERVICE: Final = "service"
"""The name of a statement that the service sends itself, in a function that `names_statements` has not registered."""
UNKNOWN: Final = "unknown"
"""The name of a statement if neither an operation nor the service is on the stack."""

_Kind = Literal["ours", "library", "service"]
_OwnerT = TypeVar("_OwnerT", bound=Callable[..., Any])

_PACKAGE: Final = Path(__file__).parents[1]
_LIBRARIES: Final = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})

_named: Final[set[type | CodeType]] = set()
"""The names that the decorator has registered, at import."""


def names_statements(owner: _OwnerT) -> _OwnerT:
    """Register a class or a function whose name its statements have in metrics, traces and logs; a decorator.

    A statement has the name of the outermost registered function of this package that is running, as in
    ``UserRepository.get`` or ``erase_user``. If there is none, it has the name of the service's function that sends the
    statement, if that is registered. Subclasses are registered with their class.

    Dashboards depend on the names: so they are those of the code and not of its file. A method's name begins with the
    class of its object, or with the attribute `observed_as` of that class.

    Example:
        from src.database.observability import names_statements

        @names_statements
        async def monthly_report(session):
            return (await session.execute(select(Event.title, Event.start_datetime))).all()

        await monthly_report(session)

    Args:
        owner: A class, or a function.

    Returns:
        The owner, unchanged.
    """
    _named.add(owner if isinstance(owner, type) else owner.__code__)
    return owner


class Origin(NamedTuple):
    """The origin of a statement.

    Attributes:
        name: A name that `names_statements` has registered, `SERVICE` or `UNKNOWN`. It alone is a label of metrics.
        function: The service's function, with its module, as found on the stack; for logs and traces.
        caller: The service's line, ``handlers.py:42 in save``, as found on the stack; for logs.
    """

    name: str
    function: str
    caller: str


def find_origin() -> Origin:
    """Return the origin of the statement that is being sent.

    This walks the stack from here to the first frame of the service, some microseconds a statement, and only while
    metrics, traces or a log of statements are on.
    """
    name = None
    for frame in _frames():
        kind = _kind(frame.f_code.co_filename)
        if kind == "service":
            return _origin(name or _operation(frame) or SERVICE, frame)
        if kind == "ours" and name != BINDING:  # the binding keeps its name, whatever operation it is sent for
            name = _operation(frame) or name
    return Origin(name or UNKNOWN, UNKNOWN, UNKNOWN)


def _origin(name: str, frame: FrameType) -> Origin:
    code = frame.f_code
    function = f"{frame.f_globals.get('__name__', '')}.{code.co_qualname}"
    return Origin(name, function, f"{_file(code.co_filename)}:{frame.f_lineno} in {code.co_name}")


def _frames() -> Iterator[FrameType]:
    """Yield the frames outwards, beginning with the caller of `find_origin`.

    SQLAlchemy runs its synchronous part in a greenlet, which has a stack of its own: its outermost frame is followed by
    the frame of the coroutine that waits for it, in the parent greenlet.
    """
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
    """Return the registered name of the frame's function, or None."""
    code = frame.f_code
    if code in _named:
        return code.co_qualname
    if code.co_varnames[:1] != ("self",) or code.co_name.startswith("<"):
        return None
    owner = type(frame.f_locals["self"])
    if _named.isdisjoint(owner.__mro__):
        return None
    return f"{getattr(owner, 'observed_as', owner.__name__)}.{code.co_name}"


@functools.cache  # as many entries as there are source files
def _file(filename: str) -> str:
    return Path(filename).name


@functools.cache
def _kind(filename: str) -> _Kind:
    if Path(filename).is_relative_to(_PACKAGE):
        return "ours"
    return "library" if filename.startswith(("<", *_LIBRARIES)) else "service"


class DefaultTenantLog:
    """Logs a warning for each line of the service that uses the default tenant, once."""

    def __init__(self) -> None:
        self._logged: set[tuple[str, str]] = set()

    def __call__(self) -> None:
        """Log the line of the service that runs, unless it was logged before."""
        origin = find_origin()
        site = (origin.function, origin.caller)
        if site in self._logged:
            return
        self._logged.add(site)
        get_logger(__name__).warning(
            "default_tenant_used",
            caller=origin.caller,
            function=origin.function,
            hint="wrap the work in `with tenant_context(tenant_id):`; a thread or a task may have lost the tenant",
        )
