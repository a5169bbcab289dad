"""The tenant of a request: ASGI middleware for FastAPI, Starlette and Litestar, and the lookup in the registry."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Generic, TypeAlias, TypeVar
from uuid import UUID
from weakref import WeakKeyDictionary

from src.database.errors import DatabaseError, NoTenantError, NotFoundError, TenantRefused
from src.database.integrations.problems import MEDIA_TYPE, Problem, problem_of
from src.database.models import limits
from src.database.repositories import TenantRepository
from src.database.session import get_read_db, tenant_context

__all__ = ["Name", "Named", "Scope", "TenantLookup", "TenantMiddleware", "TenantOf", "from_header", "from_path"]

T = TypeVar("T")
# The types of Starlette and Litestar for the parts of ASGI exclude each other; these accept both.
Scope: TypeAlias = Mapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
Name: TypeAlias = UUID | str
"""The id or the slug of a tenant."""
Named: TypeAlias = Name | Awaitable[Name | None] | None
TenantOf: TypeAlias = Callable[[Scope], Named]
"""A function that returns the id or the slug of the tenant that a request names, or None."""

_SLUG: Final = re.compile(limits.SLUG_PATTERN)
_PARAMETER: Final = "{tenant}"
_REFUSED: Final = "the tenant of the request is unknown, suspended or not the caller's"


class TenantLookup:
    """The active tenants of the registry, by id or slug. Answers are kept for a short time.

    One lookup can serve several middlewares. A suspended, deleted, activated or renamed tenant is noticed when the kept
    answer expires, or after `clear`. Requests that wait for the same tenant share one query, which continues if a
    request is cancelled. Each event loop has its own answers, as it has its own engines.

    Args:
        seconds: How long an active tenant is kept.
        refused_seconds: How long a refusal is kept: the answer that no active tenant has the id or slug.
        size: The largest number of kept tenants, and of kept refusals; the oldest is dropped first. A client that tries
            many names displaces refusals, but no active tenant.

    Raises:
        ValueError: An argument is not above 0.
    """

    def __init__(self, *, seconds: float = 30.0, refused_seconds: float = 5.0, size: int = 10_000) -> None:
        for name, value in (("seconds", seconds), ("refused_seconds", refused_seconds), ("size", size)):
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        self._limits = (seconds, refused_seconds, size)
        self._of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, _Answers] = WeakKeyDictionary()

    async def resolve(self, named: Named) -> UUID:
        """Return the id of the active tenant that a function of a middleware has named.

        Raises:
            NoTenantError: The function has returned None.
            TenantRefused: There is no such tenant, or it is suspended.
        """
        name = await named if isinstance(named, Awaitable) else named
        if name is None:
            raise NoTenantError("the request names no tenant")
        return await self.get(name)

    async def get(self, name: Name) -> UUID:
        """Return the id of the active tenant with this id or slug. Text in the form of a UUID is an id.

        Raises:
            TenantRefused: There is no such tenant, or it is suspended.
            TypeError: The name is neither a UUID nor text.
        """
        key = _key_of(name)
        if key is None:
            raise TenantRefused(_REFUSED)
        loop = asyncio.get_running_loop()
        if (answers := self._of_loop.get(loop)) is None:
            answers = self._of_loop[loop] = _Answers(*self._limits)
        if (tenant_id := await answers.find(key)) is None:
            raise TenantRefused(_REFUSED)
        return tenant_id

    def clear(self) -> None:
        """Forget all answers: after this process changed the registry, or between tests that share an event loop."""
        self._of_loop.clear()


class _Answers:
    """The kept answers of an event loop, and its running queries."""

    def __init__(self, seconds: float, refused_seconds: float, size: int) -> None:
        self.active = _Kept[UUID](seconds, size)
        self.refused = _Kept[bool](refused_seconds, size)
        self.queries: dict[Name, asyncio.Task[UUID | None]] = {}

    async def find(self, key: Name) -> UUID | None:
        """Return the id of an active tenant, or None."""
        if self.refused.get(key):
            return None
        if (tenant_id := self.active.get(key)) is not None:
            return tenant_id
        if (query := self.queries.get(key)) is None:
            query = self.queries[key] = asyncio.create_task(self._query(key))
        return await asyncio.shield(query)  # a request that is cancelled must not cancel the query of the others

    async def _query(self, key: Name) -> UUID | None:
        try:
            tenant_id = await _active_tenant(key)
        finally:
            del self.queries[key]
        if tenant_id is None:
            self.refused.keep(key, True)
        else:
            self.active.keep(key, tenant_id)
        return tenant_id


class _Kept(Generic[T]):
    """Values by the name of a tenant, each for a limited time; the oldest value is dropped if there are too many."""

    def __init__(self, seconds: float, size: int) -> None:
        self._seconds = seconds
        self._size = size
        self._values: dict[Name, tuple[float, T]] = {}

    def get(self, key: Name) -> T | None:
        until, value = self._values.get(key, (0.0, None))
        return value if until > time.monotonic() else None

    def keep(self, key: Name, value: T) -> None:
        self._values.pop(key, None)  # a value that is kept again is the newest
        if len(self._values) >= self._size:
            del self._values[next(iter(self._values))]
        self._values[key] = (time.monotonic() + self._seconds, value)


def _key_of(name: Name) -> Name | None:
    """Return the id as a UUID, or the slug; None for text that cannot be the name of a tenant.

    A slug in the form of a UUID is never found by its text: it could be the id of another tenant.
    """
    if isinstance(name, UUID):
        return name
    if not isinstance(name, str):
        raise TypeError(f"a tenant must be a UUID, or text with its id or slug, got {type(name).__name__}")
    try:
        if str(as_id := UUID(name)) == name.lower():
            return as_id
    except ValueError:
        pass
    return name if _SLUG.fullmatch(name) else None


async def _active_tenant(key: Name) -> UUID | None:
    async with get_read_db() as session:
        tenants = TenantRepository(session)
        try:
            tenant = await (tenants.get(key) if isinstance(key, UUID) else tenants.get_by_slug(key))
        except NotFoundError:
            return None
    return tenant.id if tenant is not None and tenant.status == "active" else None


class TenantMiddleware:
    """ASGI middleware that sets the current tenant for a request or a WebSocket.

    The tenant is set for streamed bodies and background tasks too. A request that names no tenant is answered with 400.
    A tenant that is unknown, malformed, suspended or refused by `tenant_of` (TenantRefused, NotFoundError) is answered
    with 403, always in the same way, so that clients cannot find out which tenants exist. For another error of this
    package, the answer has the status of that error. All answers are problem documents. A WebSocket is refused before
    it is accepted.

    Args:
        app: The application; the framework passes it.
        tenant_of: A function from the ASGI scope to the id or slug of the tenant, or None; it may be asynchronous:
            `from_header`, `from_path`, or your own, which reads a claim of a token that an outer middleware verified.
            It raises TenantRefused if the caller does not belong to the tenant.
        public: Paths that need no tenant, with all paths below them, such as `/health`. They are served without one.
        lookup: The lookup; by default one with the default limits.

    Raises:
        ValueError: A public path does not begin with a slash, or is the root.
    """

    def __init__(
        self, app: ASGIApp, *, tenant_of: TenantOf, public: Iterable[str] = (), lookup: TenantLookup | None = None
    ) -> None:
        self._app = app
        self._tenant_of = tenant_of
        self._public = tuple(path.rstrip("/") for path in public)
        if faults := [path for path in self._public if not path.startswith("/")]:
            raise ValueError(f"public must be paths like /health, got {faults}")
        self._lookup = lookup or TenantLookup()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or a WebSocket with its tenant (the interface of ASGI)."""
        if scope["type"] not in {"http", "websocket"} or self._is_public(_path_of(scope)):
            await self._app(scope, receive, send)
            return
        try:
            tenant_id = await self._lookup.resolve(self._tenant_of(scope))
        except DatabaseError as error:
            # A row that `tenant_of` reads and does not find must have the answer of an unknown tenant.
            refusal = TenantRefused(_REFUSED) if isinstance(error, NotFoundError) else error
            await _refuse(problem_of(refusal), scope, send)
            return
        with tenant_context(tenant_id):
            await self._app(scope, receive, send)

    def _is_public(self, path: str) -> bool:
        return any(path == public or path.startswith(f"{public}/") for public in self._public)


def from_header(name: str) -> TenantOf:
    """Return a function that takes the tenant from a header.

    A header is safe only behind a gateway that authenticates the caller, and that sets the header and removes the
    client's own. A request that has the header twice is refused.

    Raises:
        ValueError: The name is empty, or not ASCII.
    """
    if not name or not name.isascii():
        raise ValueError("name must be the name of a header, in ASCII")
    key = name.lower().encode()

    def tenant_of(scope: Scope) -> Name | None:
        values = [value for header, value in scope["headers"] if header.lower() == key]
        if len(values) > 1:
            raise TenantRefused(f"the request has the header {name} {len(values)} times")
        return values[0].decode("latin-1") if values else None

    return tenant_of


def from_path(template: str) -> TenantOf:
    """Return a function that takes the tenant from the beginning of the path, such as `/tenants/{tenant}`.

    The middleware runs before routing, so it reads the path itself. A caller can write any path: check in a dependency,
    or in a function of your own, that the caller belongs to the tenant.

    Raises:
        ValueError: The template does not begin with a slash, or does not have one segment `{tenant}`.
    """
    segments = template.rstrip("/").split("/")
    if segments[0] or segments.count(_PARAMETER) != 1:
        raise ValueError(f"template must be a path with one segment {_PARAMETER}, got {template!r}")
    pattern = re.compile(
        "/".join("([^/]+)" if each == _PARAMETER else re.escape(each) for each in segments) + "(?:/|$)"
    )

    def tenant_of(scope: Scope) -> Name | None:
        found = pattern.match(_path_of(scope))
        return found[1] if found else None

    return tenant_of


def _path_of(scope: Scope) -> str:
    """Return the path without the prefix under which a server or another application mounts this one."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path[len(root) :] if path == root or path.startswith(f"{root}/") else path


async def _refuse(problem: Problem, scope: Scope, send: Send) -> None:
    """Answer a request, or refuse a WebSocket that is not accepted: with a response where the server supports it."""
    prefix = "" if scope["type"] == "http" else "websocket."
    if prefix and "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": problem.close_code})
        return
    headers = {"content-type": MEDIA_TYPE, "content-length": str(len(problem.body)), **problem.headers}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": f"{prefix}http.response.start", "status": problem.status, "headers": raw})
    await send({"type": f"{prefix}http.response.body", "body": problem.body})
