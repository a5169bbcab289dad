"""A call of each public method of each repository. Tests use all of them, and fail if a method has no call.

A module of this package with a `REPOSITORY` has the calls of it. If `rows.fill` inserts no row of its table,
the module has a function `new_row` that returns one.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any, Final

from src.database.repositories import Repository, TenantRepository
from src.database.session import AsyncSession
from src.database.store import StateStore, Store
from tests.acceptance.calls import base, discovery, rows, store, tenants
from tests.acceptance.calls.rows import TOKEN, Call, Rows, a_message, listed

__all__ = [
    "CALLS",
    "REGISTRY_CALLS",
    "STATE_CALLS",
    "STORE_CALLS",
    "TOKEN",
    "Call",
    "Rows",
    "a_message",
    "fill",
    "listed",
    "missing_calls",
]

_MODULES: Final[list[Any]] = [import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
CALLS: Final[dict[type[Repository[Any]], dict[str, Call]]] = {
    module.REPOSITORY: base.calls_of(module.REPOSITORY) | module.CALLS
    for module in _MODULES
    if hasattr(module, "REPOSITORY")
}
REGISTRY_CALLS: Final[dict[str, Call]] = tenants.CALLS
STORE_CALLS: Final[dict[str, Call]] = store.CALLS
STATE_CALLS: Final = {name.removeprefix(store.STATE): one for name, one in STORE_CALLS.items() if store.STATE in name}


async def fill(session: AsyncSession) -> Rows:
    """Insert one row of each table for the current tenant, and commit."""
    filled = await rows.fill(session)
    for module in _MODULES:
        if hasattr(module, "new_row"):
            row = module.new_row(filled)
            session.add(row)
            await session.commit()
            filled.others[type(row)] = row.id
    return filled


def missing_calls() -> list[str]:
    """Return `Class.method` for each public method that has no call here; each suite checks that there is none."""
    return discovery.missing_calls(
        {**CALLS, TenantRepository: REGISTRY_CALLS, Store: STORE_CALLS, StateStore: STATE_CALLS}
    )
