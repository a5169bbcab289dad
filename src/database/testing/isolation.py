"""assert_isolated: run a call as two tenants, and check that the second one sees nothing of the first."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final, Protocol
from uuid import UUID

from src.database.errors import ForeignKeyError, NotFoundError, StaleDataError, TenantMismatchError
from src.database.models import Tenant
from src.database.session import AsyncSession, get_db, tenant_context

Call = Callable[[], Awaitable[object]] | Callable[[AsyncSession], Awaitable[object]]
IsEmpty = Callable[[Any], bool]

REFUSALS: Final[tuple[type[Exception], ...]] = (NotFoundError, ForeignKeyError, StaleDataError)
"""The errors that a tenant gets for rows that it does not have: of a read, of a new child row, of a token."""


class AssertIsolated(Protocol):
    """The type of the fixture `assert_isolated`."""

    async def __call__(
        self,
        call: Call,
        *,
        raises: type[Exception] | tuple[type[Exception], ...] = REFUSALS,
        is_empty: IsEmpty | None = None,
    ) -> None:
        """Check that a call sees something as `tenant`, and nothing as `other_tenant`."""


class _Undo(Exception):
    """Ends a block, so that what a call has written is undone."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The result of a call, or its refusal."""

    value: object
    is_refused: bool = False


class Isolation:
    """Checks of the isolation of two tenants.

    Args:
        tenant: The tenant that has the rows.
        other_tenant: A tenant without these rows.
    """

    def __init__(self, tenant: Tenant, other_tenant: Tenant) -> None:
        self._tenant_id: UUID = tenant.id
        self._other_id: UUID = other_tenant.id

    async def assert_isolated(
        self,
        call: Call,
        *,
        raises: type[Exception] | tuple[type[Exception], ...] = REFUSALS,
        is_empty: IsEmpty | None = None,
    ) -> None:
        """Check that a call sees something as `tenant`, and nothing as `other_tenant`.

        The call runs as `tenant` first: a cache that lacks the tenant in its key is filled by then. A result that is
        empty for this tenant too would prove nothing, unless the other tenant is refused, as by `delete`. After each
        run, what the call has written in the session that it gets is undone; with `db_session`, also what it has
        written in sessions that it opens.

        Empty are None, False, 0, a text or a collection without elements, and a tuple, a mapping or a dataclass of
        which all values are empty, such as an empty page.

        Args:
            call: A function without arguments, or one that takes the session of the tenant.
            raises: The errors that mean the same as an empty result.
            is_empty: Returns True for an empty result, such as a response with the status 404.

        Raises:
            AssertionError: The call returns something as `other_tenant`, or nothing as `tenant`.
        """
        empty = is_empty or is_nothing
        own = await _run(self._tenant_id, call, raises)
        seen = await _run(self._other_id, call, raises)
        if not (seen.is_refused or empty(seen.value)):
            raise AssertionError(f"the call must return nothing as `other_tenant`, and returned {_kind(seen.value)}")
        if own.is_refused or (empty(own.value) and not seen.is_refused):
            raise AssertionError(
                "the call must return something as `tenant`, or the check proves nothing: create rows first; the call"
                f" {'was refused' if own.is_refused else f'returned {_kind(own.value)}'}"
            )


async def _run(tenant_id: UUID, call: Call, raises: type[Exception] | tuple[type[Exception], ...]) -> _Outcome:
    """Run a call as a tenant, undo what it writes, and return the outcome."""
    takes_session = bool(inspect.signature(call).parameters)
    outcome = _Outcome(None)
    try:
        with tenant_context(tenant_id):
            async with get_db() as session:
                outcome = _Outcome(await (call(session) if takes_session else call()))  # type: ignore[call-arg] # one of the two
                raise _Undo  # noqa: TRY301 - it ends the block
    except _Undo:
        return outcome
    except TenantMismatchError as error:
        raise AssertionError(
            "the call must use the session of the tenant that it runs as, and uses another session, such as db_session:"
            " pass a function that takes the session, `lambda session: NoteRepository(session).get(note.id)`"
        ) from error
    except raises:
        return _Outcome(None, is_refused=True)


def is_nothing(value: object) -> bool:
    """Return True if a value shows no row."""
    if value is None or value is False or value == 0:
        return True
    if is_dataclass(value) and not isinstance(value, type):
        return all(is_nothing(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, Mapping):
        return all(map(is_nothing, value.values()))
    if isinstance(value, tuple):
        return all(map(is_nothing, value))
    return isinstance(value, Collection) and len(value) == 0


def _kind(value: object) -> str:
    """Describe a value without its content."""
    size = (
        f" with {len(value)} elements" if isinstance(value, Collection) and not isinstance(value, str | bytes) else ""
    )
    return "nothing" if value is None else f"a value of type {type(value).__name__}{size}"
