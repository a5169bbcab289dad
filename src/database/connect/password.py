"""Passwords from a function that is called for each connection: tokens that expire, secrets that are rotated."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import replace
from importlib import import_module
from typing import Final

from src.database.errors import AuthenticationFailed, ConfigurationError
from src.database.target import Host, Target

PasswordProvider = Callable[[str, str, int], str | Awaitable[str]]
"""Returns the password for a user, a host and a port. It may be async; otherwise it is called in a thread. The password
is not kept."""

DEFAULT_TIMEOUT_SECONDS: Final = 10.0
_SETTING: Final = "DATABASE_PASSWORD_PROVIDER"


def find_provider(name: str) -> PasswordProvider:
    """Import the function that the setting names as ``module:function``.

    Raises:
        ConfigurationError: There is no such function.
    """
    module, _, attribute = name.partition(":")
    try:
        found: PasswordProvider = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"{_SETTING} must be module:function, one that can be imported, got {name!r}: {type(error).__name__}",
            hint=f"try `python -c 'from {module} import {attribute}'` where the service runs",
        ) from error
    if not callable(found):
        raise ConfigurationError(f"{_SETTING} must be a function of user, host and port, got {name!r}, which is none")
    return found


async def with_password(provider: PasswordProvider, target: Target, host: Host) -> Target:
    """Return the target with the password for a connection to a host.

    Raises:
        AuthenticationFailed: The provider failed, or exceeded the time limit of a connection.
        ConfigurationError: It returned no text.
    """
    limit = target.connect_timeout or DEFAULT_TIMEOUT_SECONDS
    try:
        async with asyncio.timeout(limit):
            password: object = await _call(provider, target.user, host)
    except Exception as error:  # noqa: BLE001 - the provider is the service's code
        fault = type(error).__name__
    else:
        if not isinstance(password, str) or not password:
            raise ConfigurationError(
                f"the password's provider must return text that is not empty, got {type(password).__name__}"
            )
        return replace(target, password=password)
    # Outside of the handler, so that the cause is dropped: its text may contain the secret.
    raise AuthenticationFailed(
        f"the password's provider failed for user {target.user} at {host}: {fault}",
        hint=f"call it by itself to see more; it has {limit:g} s",
    )


async def _call(provider: PasswordProvider, user: str, host: Host) -> object:
    if inspect.iscoroutinefunction(provider):
        return await provider(user, host.name, host.port)
    answer = await asyncio.to_thread(provider, user, host.name, host.port)
    return await answer if inspect.isawaitable(answer) else answer
