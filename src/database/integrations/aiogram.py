"""Middleware for aiogram: a session and the tenant for the handlers of an update."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

from aiogram import BaseMiddleware
from aiogram.dispatcher.event.bases import UNHANDLED
from aiogram.types import TelegramObject

from src.config import get_logger
from src.database.errors import NoTenantError, TenantRefused
from src.database.integrations.tenants import Named, TenantLookup
from src.database.session import get_db, tenant_context

__all__ = ["SessionMiddleware", "TenantOfUpdate"]

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
