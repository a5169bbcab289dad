"""Keep values under keys: entries of a tenant, a user or a conversation, with a version and an expiry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

from sqlalchemy import ARRAY, Integer, Select, Text, Uuid, any_, bindparam, delete, exists, literal, or_, select

from src.database.base import check_duration, check_id, uuid7
from src.database.errors import NotFoundError, StaleDataError
from src.database.json_values import json_text
from src.database.models import Conversation, StateEntry, User, limits
from src.database.session import AsyncSession
from src.database.statements.call import Call, Sender
from src.database.statements.in_session import entity_columns
from src.database.statements.pagination import (
    MAX_LIMIT,
    InvalidCursorError,
    Page,
    check_limit,
    decode_cursor,
    encode_cursor,
)
from src.database.statements.rows import statement_time
from src.database.statements.windows import MAX_SEQ

LARGEST_VALUE: Final = 16 * 2**20
"""The largest value in bytes, of JSON as text."""
LONGEST_EXPIRY: Final = timedelta(days=36_500)
OF_KEYS: Final = ("owner_id", "namespace", "keys")
OF_PAGE: Final = ("owner_id", "namespace", "first", "after", "before", "limit")
_SET: Final[Call[Any]] = Call("app_set_state", 11, columns=lambda: [*entity_columns(StateEntry)(), "outcome"])
_DELETE: Final[Call[Any]] = Call("app_delete_state", 6)
_LAST_CHARACTER: Final = "\U0010ffff"


class Entry(Protocol):
    """An entry, of a session or of the store."""

    @property
    def key(self) -> str:
        """The key."""


EntryT = TypeVar("EntryT", bound=Entry)


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner of entries: a user, a conversation, or without both the tenant."""

    user_id: UUID | None
    conversation_id: UUID | None

    def __post_init__(self) -> None:
        """Check the ids.

        Raises:
            ValueError: Both are given, or one is not a UUID.
        """
        for name in ("user_id", "conversation_id"):
            if (value := getattr(self, name)) is not None:
                check_id(name, value)
        if self.user_id is not None and self.conversation_id is not None:
            raise ValueError("the owner must be user_id or conversation_id, got both; a conversation has its own user")

    def id_in(self, tenant_id: UUID) -> UUID:
        """Return `StateEntry.owner_id` of the entries."""
        return UUID(str(self.conversation_id or self.user_id or tenant_id))

    def missing(self) -> NotFoundError:
        """Return the error for an owner that does not exist or is deleted."""
        kind, row_id = (
            ("User", self.user_id) if self.conversation_id is None else ("Conversation", self.conversation_id)
        )
        return NotFoundError(f"this tenant has no {kind} with id {row_id}")


def by_keys(columns: Sequence[Any], tenant_id: Any) -> Select[Any]:
    """Return a select of the entries with these keys; its parameters are `OF_KEYS`."""
    wanted = any_(bindparam("keys", type_=ARRAY(Text())))
    return _of_owner(columns, tenant_id).where(StateEntry.key == wanted)


def by_prefix(columns: Sequence[Any], tenant_id: Any, *, is_descending: bool = False) -> Select[Any]:
    """Return a select of one page of the entries whose keys have a prefix; its parameters are `OF_PAGE`.

    The prefix is a range of keys: LIKE is not leakproof, so that row-level security would keep it from the index.
    """
    first, after, before = (bindparam(name, type_=Text()) for name in ("first", "after", "before"))
    within = (StateEntry.key >= first, StateEntry.key > after, StateEntry.key < before)
    order = StateEntry.key.desc() if is_descending else StateEntry.key
    return _of_owner(columns, tenant_id).where(*within).order_by(order).limit(bindparam("limit", type_=Integer()))


def is_live() -> Any:
    """Return the condition that an entry has not expired, by the server's time."""
    return or_(StateEntry.expires_at.is_(None), StateEntry.expires_at > statement_time())


def _of_owner(columns: Sequence[Any], tenant_id: Any) -> Select[Any]:
    return select(*columns).where(
        *_are_owned(tenant_id, bindparam("owner_id", type_=Uuid()), bindparam("namespace", type_=Text()))
    )


def _are_owned(tenant_id: Any, owner_id: Any, namespace: Any) -> tuple[Any, ...]:
    """Return the conditions of the entries in a namespace that have not expired, and whose owner is not deleted."""
    has_owner = or_(
        owner_id == tenant_id,
        *(
            exists().where(one.tenant_id == tenant_id, one.id == owner_id, one.deleted_at.is_(None))
            for one in (User, Conversation)
        ),
    )
    return (
        StateEntry.tenant_id == tenant_id,
        StateEntry.owner_id == owner_id,
        StateEntry.namespace == namespace,
        is_live(),
        has_owner,
    )


async def get_by_keys(
    fetch: Callable[..., Awaitable[list[EntryT]]], tenant_id: UUID, owner: Owner, namespace: str, keys: Collection[str]
) -> dict[str, EntryT]:
    """Return the entries with these keys by key, without missing ones; see `StateRepository.get_by_keys`.

    Args:
        fetch: Sends `by_keys` with the values of `OF_KEYS`.
        tenant_id: The tenant.
        owner: The owner.
        namespace: The namespace.
        keys: The keys.
    """
    _check_keys(namespace, keys)
    if not keys:
        return {}
    return {entry.key: entry for entry in await fetch(owner.id_in(tenant_id), namespace, list(keys))}


async def page_by_prefix(
    fetch: Callable[..., Awaitable[list[EntryT]]],
    tenant_id: UUID,
    owner: Owner,
    namespace: str,
    *,
    prefix: str,
    start: str | None,
    stop: str | None,
    is_descending: bool,
    after: str | None,
    limit: int,
) -> Page[EntryT]:
    """Return a page of entries by key; see `StateRepository.page_by_prefix`. `fetch` sends `by_prefix`."""
    check_limit(limit)
    _check_keys(namespace, [])
    first, before = _range(prefix, start, stop)
    owner_id = owner.id_in(tenant_id)
    scope = f"state:{tenant_id}:{owner_id}:{namespace}:{is_descending}:{len(first)}:{first}:{before}"
    position = "" if after is None else _position(after, scope)
    if position and is_descending:
        position, before = "", min(before, position)
    entries = await fetch(owner_id, namespace, first, position, before, limit + 1)
    if len(entries) <= limit:
        return Page(entries, None)
    return Page(entries[:limit], encode_cursor([entries[limit - 1].key], scope=scope))


async def set_entries(
    sender: Sender,
    owner: Owner,
    namespace: str,
    values: Mapping[str, Any],
    *,
    expires_in: timedelta | None,
    merge: bool = False,
    expected_version: int | None = None,
) -> list[Any]:
    """Insert or replace entries; see `StateRepository.set`, `set_many` and `merge`.

    Returns:
        The columns of `entity_columns` of each entry.
    """
    _check_keys(namespace, values)
    if expires_in is not None:
        check_duration("expires_in", expires_in)
        if not timedelta(0) < expires_in <= LONGEST_EXPIRY:
            days = LONGEST_EXPIRY.days
            raise ValueError(f"expires_in must be more than zero and at most {days} days, got {expires_in}")
    if expected_version is not None:
        check_version(expected_version, least=0)
    if not values:
        return []
    keys = sorted(values)  # two calls that share keys wait for each other in one direction only
    if merge:
        for value in values.values():
            limits.Json("object").check("values", value)
    columns = [_stored(values[key], namespace) for key in keys]
    rows = await sender.call(
        _SET, owner.user_id, owner.conversation_id, namespace, keys, [uuid7() for _ in keys],
        [data for data, _ in columns], [blob for _, blob in columns], expires_in, merge, expected_version,
    )  # fmt: skip
    outcome = rows[0][-1]
    if outcome == "no_owner":
        raise owner.missing()
    if outcome == "stale":
        raise _stale(namespace, expected_version, rows[0][_version_position()])
    return rows


async def delete_entry(sender: Sender, owner: Owner, namespace: str, key: str, *, expected_version: int | None) -> bool:
    """Delete an entry; see `StateRepository.delete_by_key`."""
    _check_keys(namespace, [key])
    if expected_version is not None:
        check_version(expected_version, least=1)
    arguments = (owner.user_id, owner.conversation_id, namespace, key, expected_version)
    [(outcome, version)] = await sender.call(_DELETE, *arguments)
    if outcome == "stale":
        raise _stale(namespace, expected_version, version)
    return bool(outcome == "deleted")


async def delete_by_keys(session: AsyncSession, owner: Owner, namespace: str, keys: Collection[str]) -> int:
    """Delete the entries with these keys; see `StateRepository.delete_by_keys`."""
    _check_keys(namespace, keys)
    wanted = any_(literal(list(keys), ARRAY(Text())))
    return await _delete(session, owner, namespace, StateEntry.key == wanted)


async def delete_by_prefix(
    session: AsyncSession, owner: Owner, namespace: str, prefix: str, *, start: str | None, stop: str | None
) -> int:
    """Delete the entries whose keys have a prefix; see `StateRepository.delete_by_prefix`."""
    _check_keys(namespace, [])
    first, before = _range(prefix, start, stop)
    return await _delete(session, owner, namespace, StateEntry.key >= first, StateEntry.key < before)


async def _delete(session: AsyncSession, owner: Owner, namespace: str, *conditions: Any) -> int:
    tenant_id = session.tenant_id
    are_owned = _are_owned(tenant_id, literal(owner.id_in(tenant_id), Uuid()), namespace)
    statement = delete(StateEntry).where(*are_owned, *conditions).returning(StateEntry.id)
    # "fetch" expunges the deleted rows from the session.
    return len((await session.scalars(statement, execution_options={"synchronize_session": "fetch"})).all())


def check_version(version: int, *, least: int) -> None:
    """Check that a value can be the version of an entry.

    Raises:
        ValueError: The value is not an integer, or is out of range.
    """
    if type(version) is not int or not least <= version <= MAX_SEQ:
        got = version if type(version) is int else f"a {type(version).__name__}"
        raise ValueError(f"expected_version must be an integer from {least} to 2^63 - 1, got {got}")


def _check_keys(namespace: str, keys: Collection[str]) -> None:
    if isinstance(keys, str):  # a string is a collection of its characters
        raise ValueError("keys must be a list of strings, got a str")  # noqa: TRY004 - bad input
    if len(keys) > MAX_LIMIT:
        raise ValueError(f"keys must be at most {MAX_LIMIT}, got {len(keys)}")
    _required("namespace", namespace, limits.NAMESPACE)
    for key in keys:
        _required("key", key, limits.STATE_KEY)


def _range(prefix: str, start: str | None, stop: str | None) -> tuple[str, str]:
    """Return the first key of the range that has the prefix, and the key before which the range ends."""
    for name, key in (("prefix", prefix or None), ("start", start), ("stop", stop)):
        if key is not None:
            limits.STATE_KEY.check(name, key)
    end = prefix.ljust(limits.STATE_KEY.maximum + 1, _LAST_CHARACTER)  # greater than each key: longer by one character
    return max(prefix, start or ""), end if stop is None else min(stop, end)


def _required(name: str, value: Any, limit: limits.Length) -> None:
    if value is None:
        raise ValueError(f"{name} must be a string, got None")
    limit.check(name, value)


def _stored(value: Any, namespace: str) -> tuple[str | None, bytes | None]:
    """Return the value as JSON text or as bytes.

    Raises:
        ValueError: The value is neither JSON nor bytes, or is too large.
    """
    data = None if isinstance(value, bytes) else json_text(value, "value", of=f"state {namespace!r}")
    size = len(value if data is None else data.encode())
    if size > LARGEST_VALUE:
        raise ValueError(f"value must be at most {LARGEST_VALUE} bytes, got {size}; store it as several entries")
    return data, value if data is None else None


def _position(cursor: str, scope: str) -> str:
    values = decode_cursor(cursor, scope=scope)
    if len(values) != 1 or not isinstance(values[0], str):
        raise InvalidCursorError("the cursor cannot be read; begin again without a cursor")
    try:
        limits.STATE_KEY.check("key", values[0])
    except ValueError:
        raise InvalidCursorError("the cursor cannot be read; begin again without a cursor") from None
    return values[0]


def _version_position() -> int:
    return entity_columns(StateEntry)().index("version")


def _stale(namespace: str, expected: int | None, version: int) -> StaleDataError:
    found = f"has version {version}" if version else "is missing"
    return StaleDataError(
        f"an entry of the state {namespace!r} {found}, expected was version {expected}; nothing was written",
        hint="read the entry again, and decide again: another writer has changed it",
    )
