"""The data layer: `async with get_db() as session`, and the repositories. Importing it opens and reads nothing."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from src.database.base import Base
    from src.database.session import (
        AsyncSession,
        AsyncSessionLocal,
        create_engine,
        current_tenant,
        engine,
        get_connect_arguments,
        get_db,
        get_engine,
        get_read_db,
        run_transaction,
        tenant_context,
    )

__all__ = [
    "AsyncSession",
    "AsyncSessionLocal",
    "Base",
    "create_engine",
    "current_tenant",
    "engine",
    "get_connect_arguments",
    "get_db",
    "get_engine",
    "get_read_db",
    "run_transaction",
    "tenant_context",
]

_ROOMS: Final = {
    "AsyncSession": "session",
    "AsyncSessionLocal": "session",
    "Base": "base",
    "create_engine": "session",
    "current_tenant": "session",
    "engine": "session",
    "get_connect_arguments": "session",
    "get_db": "session",
    "get_engine": "session",
    "get_read_db": "session",
    "run_transaction": "session",
    "tenant_context": "session",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Facade(ModuleType):
    """Keeps the name `engine` for the engine: the import system would bind the submodule of that name over it."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name == "engine" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Facade
