"""Passwords from a function that is called for each connection: tokens that expire, secrets that are rotated."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pkgutil import resolve_name
from typing import Final

from src.database.errors import AuthenticationFailed, ConfigurationError
from src.database.target import Host, Target

PasswordProvider = Callable[[str, str, int], str | Awaitable[str]]
"""Returns the password for a user, a host and a port. A function that is not async is called in a thread. The password
is not stored."""

_SETTING: Final = "DATABASE_PASSWORD_PROVIDER"


def find_provider(name: str) -> PasswordProvider:
    """Import the function that the setting names as ``module:function``.

    Raises:
        ConfigurationError: The module cannot be imported, or has no such function.
    """
    try:
        provider: PasswordProvider = resolve_name(name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"{_SETTING} must be module:function that can be imported, got {name!r}: {type(error).__name__}",
            hint='to see the error, run this where the service runs: `python -c "import pkgutil;'
            f" pkgutil.resolve_name('{name}')\"`",
        ) from error
    if not callable(provider):
        raise ConfigurationError(
            f"{_SETTING} must be a function of user, host and port, got {name!r}, which is not callable"
        )
    return provider


async def with_password(provider: PasswordProvider, target: Target, host: Host) -> Target:
    """Return the target with the password for a connection to a host.

    Raises:
        AuthenticationFailed: The provider failed, or exceeded the time limit of a connection.
        ConfigurationError: The provider returned no text.
    """
    try:
        async with asyncio.timeout(target.connect_seconds):
            password: object = await _call(provider, target.user, host)
    except Exception as error:  # noqa: BLE001 - the provider is the service's code
        fault = type(error).__name__
    else:
        if not isinstance(password, str) or not password:
            raise ConfigurationError(
                f"the password provider must return text that is not empty, got {type(password).__name__}"
            )
        return replace(target, password=password)
    # Outside of the except block, so that this error has no cause: the text of the cause may contain the secret.
    raise AuthenticationFailed(
        f"the password provider failed for user {target.user} at {host}: {fault}",
        hint=f"call the provider on its own to see its error; its time limit is {target.connect_seconds:g} s",
    )


async def _call(provider: PasswordProvider, user: str, host: Host) -> object:
    # A blocking provider, such as a call of boto3, would stop the event loop: it runs in a thread.
    if inspect.iscoroutinefunction(provider):
        return await provider(user, host.name, host.port)
    answer = await asyncio.to_thread(provider, user, host.name, host.port)
    return await answer if inspect.isawaitable(answer) else answer  # a partial or a callable object may be async
