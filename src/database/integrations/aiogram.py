"""aiogram: a session and the tenant for the handlers of an update, the storage of dialogs, and their isolation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from datetime import timedelta
from hashlib import sha256
from typing import Any, Final, TypeAlias
from uuid import UUID
from weakref import WeakValueDictionary

from aiogram import BaseMiddleware
from aiogram.dispatcher.event.bases import UNHANDLED
from aiogram.exceptions import DataNotDictLikeError
from aiogram.fsm.state import State
from aiogram.fsm.storage.base import BaseEventIsolation, BaseStorage, StateType, StorageKey
from aiogram.types import TelegramObject

from src.config import get_logger
from src.database.errors import NoTenantError, TenantRefused
from src.database.integrations.tenants import Named, TenantLookup
from src.database.models import limits
from src.database.session import get_db, given_tenant, tenant_context
from src.database.store import get_store

__all__ = ["SessionMiddleware", "StateIsolation", "StateStorage", "TenantOfKey", "TenantOfUpdate"]

_STATE: Final = "aiogram:state"
_DATA: Final = "aiogram:data"
_LEASE: Final = "aiogram:"

TenantOfUpdate: TypeAlias = Callable[[TelegramObject, dict[str, Any]], Named]
"""A function that returns the id or the slug of the tenant of an update, or None.

Its arguments are those of a middleware: the update, and the data with `bot`, `event_from_user` and `event_chat`.
"""


class SessionMiddleware(BaseMiddleware):
    """Passes `session` to the handlers of an update: one transaction, committed when the handler has returned.

    The session opens no connection before its first statement. It rolls back if a handler or a later middleware raises.
    The commit runs before aiogram sends the method that a handler returns (`return message.answer("Saved")`), but after
    `await message.answer("Saved")`.

    Register the middleware on the dispatcher: `dispatcher.update.outer_middleware(SessionMiddleware())`. Middlewares
    that are registered later, filters and handlers run inside the transaction and the tenant. Handlers of
    `dispatcher.errors` run after the rollback and without the tenant; they open a session of their own.

    Args:
        tenant_of: The tenant of an update. If the function returns None, or a tenant that is unknown or suspended, the
            update is not handled. Without a function, the session has the default tenant.
        lookup: The lookup of tenants; by default one with the default limits.
    """

    def __init__(self, tenant_of: TenantOfUpdate | None = None, *, lookup: TenantLookup | None = None) -> None:
        self._tenant_of = tenant_of
        self._lookup = lookup or TenantLookup()

    async def __call__(
        self,
        handler: Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]],
        event: TelegramObject,
        data: dict[str, Any],
    ) -> Any:
        """Run the handlers of an update (the method of aiogram's middleware)."""
        async with AsyncExitStack() as stack:
            if self._tenant_of is not None:
                try:
                    tenant_id = await self._lookup.resolve(self._tenant_of(event, data))
                except (NoTenantError, TenantRefused) as error:
                    get_logger(__name__).info("update_refused", reason=error.args[0])
                    return UNHANDLED  # after an error, Telegram would send the update to the webhook again
                stack.enter_context(tenant_context(tenant_id))
            data["session"] = await stack.enter_async_context(get_db())
            return await handler(event, data)


TenantOfKey: TypeAlias = UUID | Callable[[StorageKey], UUID] | None
"""The tenant of a dialog, a function that returns it, or None for the current or the default tenant."""


class StateStorage(BaseStorage):
    """A storage of aiogram's states and data of dialogs.

    The entries of a person belong to the `User` with the Telegram id of the key: the export and the erasure of a user's
    data include them. A write creates the user if there is none. Entries of a key whose `user_id` is that of a group
    (`FSMStrategy.CHAT`) belong to the tenant.

    Data are JSON: a tuple is read as a list, and another type raises ValueError. `update_data` is atomic: concurrent
    updates of other keys are kept.

    Args:
        tenant_id: The tenant, or a function that returns the tenant of a key. aiogram reads the state before the
            middlewares of a program run, so that no tenant of theirs is set.
        expires_in: The time after the last write in which a state and the data are kept; None is unlimited.
    """

    def __init__(self, tenant_id: TenantOfKey = None, *, expires_in: timedelta | None = None) -> None:
        self._tenant_id = tenant_id
        self._expires_in = expires_in

    async def set_state(self, key: StorageKey, state: StateType = None) -> None:
        """Set the state of a dialog; None deletes it."""
        await self._write(_STATE, key, state.state if isinstance(state, State) else state)

    async def get_state(self, key: StorageKey) -> str | None:
        """Return the state of a dialog, or None."""
        state: str | None = await self._read(_STATE, key)
        return state

    async def set_data(self, key: StorageKey, data: Mapping[str, Any]) -> None:
        """Replace the data of a dialog; an empty dict deletes them.

        Raises:
            DataNotDictLikeError: The data are not a dict.
        """
        _check_is_dict(data)
        await self._write(_DATA, key, data or None)

    async def get_data(self, key: StorageKey) -> dict[str, Any]:
        """Return the data of a dialog, a dict of the caller's own."""
        return await self._read(_DATA, key) or {}

    async def update_data(self, key: StorageKey, data: Mapping[str, Any]) -> dict[str, Any]:
        """Set keys of the data of a dialog in one atomic statement, and return all data.

        Raises:
            DataNotDictLikeError: The data are not a dict.
        """
        _check_is_dict(data)
        if not data:
            return await self.get_data(key)
        with _tenant(self._tenant_id, key):
            owner = await _owner(key, creates=True)
            merged = await get_store().state.merge(
                _DATA, _name("", key), data, expires_in=self._expires_in, **(owner or {})
            )
        values: dict[str, Any] = merged.value
        return values

    async def close(self) -> None:
        """Keep the connections open: they are the store's, which other parts of the program use."""

    async def _read(self, namespace: str, key: StorageKey) -> Any:
        with _tenant(self._tenant_id, key):
            if (owner := await _owner(key, creates=False)) is None:
                return None
            entry = await get_store().state.get_by_key(namespace, _name("", key), **owner)
        return None if entry is None else entry.value

    async def _write(self, namespace: str, key: StorageKey, value: Any) -> None:
        with _tenant(self._tenant_id, key):
            owner = await _owner(key, creates=value is not None)
            if owner is None:
                return
            state, name = get_store().state, _name("", key)
            if value is None:
                await state.delete_by_key(namespace, name, **owner)
            else:
                await state.set(namespace, name, value, expires_in=self._expires_in, **owner)


class StateIsolation(BaseEventIsolation):
    """Isolation of aiogram's events between all processes: the updates of one dialog are handled one after another.

    A lease of the store is held while an update is handled (`StateStore.lease`), and no connection. If a worker is
    killed, its dialogs are free when the lease ends. If a worker loses its lease, the handler is cancelled and
    StaleDataError is raised. The tenant is the current tenant while an update is handled.

    Args:
        tenant_id: As of `StateStorage`.
        lease: The time after which the dialogs of a killed worker are free; a lease is renewed while its handler runs.
    """

    def __init__(self, tenant_id: TenantOfKey = None, *, lease: timedelta = timedelta(seconds=30)) -> None:
        self._tenant_id = tenant_id
        self._lease = lease
        # Within a process, callers are served in their order, and only the first one polls the database.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def lock(self, key: StorageKey) -> AsyncGenerator[None, None]:
        """Take the lease of a dialog, and keep it while an update is handled."""
        name = _name(_LEASE, key)
        with _tenant(self._tenant_id, key):
            async with self._locks.setdefault(name, asyncio.Lock()), get_store().state.lease(name, lease=self._lease):
                yield

    async def close(self) -> None:
        """Do nothing: a lock ends with its update."""


def _tenant(tenant_id: TenantOfKey, key: StorageKey) -> AbstractContextManager[object]:
    return tenant_context(tenant_id(key)) if callable(tenant_id) else given_tenant(tenant_id)


async def _owner(key: StorageKey, *, creates: bool) -> dict[str, Any] | None:
    """Return the arguments for the owner of the entries of a key, or None if there is no such user."""
    if key.user_id <= 0:
        return {}
    if creates:
        user, _ = await get_store().get_or_create_user(key.user_id)
        return {"user_id": user.id}
    found = await get_store().user_by_telegram_id(key.user_id)
    return None if found is None else {"user_id": found.id}


def _name(prefix: str, key: StorageKey) -> str:
    """Return the key of an entry: the parts as JSON, whose places are unambiguous, or a hash if they are long."""
    parts = [key.bot_id, key.chat_id, key.user_id, key.thread_id, key.business_connection_id, key.destiny]
    name = prefix + json.dumps(parts, separators=(",", ":"))
    return name if len(name) <= limits.STATE_KEY.maximum else f"{prefix}sha256:{sha256(name.encode()).hexdigest()}"


def _check_is_dict(data: object) -> None:
    if not isinstance(data, dict):
        raise DataNotDictLikeError(f"data must be a dict, got {type(data).__name__}")
