"""The check of the isolation layers: whether row-level security binds this process, table by table."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import asyncpg

from src.config import Settings
from src.database.check_result import CheckResult, degraded, healthy, skipped, unhealthy
from src.database.drift import Isolation, read_isolation
from src.database.health.primary import NO_PRIMARY, Look, has_seen
from src.database.migrate import Revision, revision_of
from src.database.resolve import resolve_target

__all__ = ["check_isolation"]

KEPT_SECONDS: Final = 30.0
"""How long a healthy answer serves later reports; another answer is checked again each time."""
_BOUND: Final = healthy("row-level security is forced on every table and binds the role")
_VERIFY: Final = "`thea-db verify` names each difference and the statements that repair it"
_ROLE: Final = "connect as a role with NOSUPERUSER NOBYPASSRLS that owns no table: `thea-db bootstrap` creates one"
_SEE_REVISION: Final = "see revision"

_healthy_until: Final[dict[str, float]] = {}
"""By target, in the seconds of the monotonic clock."""


async def check_isolation(looking: asyncio.Task[Look], settings: Settings) -> CheckResult:
    """Check that row-level security is on and forced, by this release's policies, for a role that it binds."""
    await asyncio.wait([looking])
    if not has_seen(looking):
        return skipped(NO_PRIMARY)
    target = str(resolve_target(settings))
    if time.monotonic() < _healthy_until.get(target, 0.0):
        return _BOUND
    look = looking.result()
    async with look.turn:
        isolation = await read_isolation(look.connection)
    if isolation == Isolation(tables=isolation.tables) and isolation.tables:
        _healthy_until[target] = time.monotonic() + KEPT_SECONDS
        return _BOUND
    async with look.turn:
        revision = await _readable_revision(look.connection)
    return _judge(isolation, revision, is_local=settings.is_local)


def _judge(isolation: Isolation, revision: Revision | None, *, is_local: bool) -> CheckResult:
    """Judge what is not as it should be, by the revision that may explain it."""
    if not isolation.tables:
        return skipped(_SEE_REVISION)
    is_newest = revision is None or revision.database == revision.head
    if not is_newest and (revision is None or revision.is_known or isolation.missing):
        return skipped(_SEE_REVISION)  # behind, or made by migrations that are not this package's
    if isolation.open_tables:
        return unhealthy("; ".join(isolation.open_tables), _VERIFY)
    if isolation.changed_policies:  # by a newer release's migration, they may be as they should be
        found = f"the policies of {', '.join(isolation.changed_policies)} are not this release's"
        return unhealthy(found, _VERIFY) if is_newest else degraded(found, _VERIFY)
    if isolation.role is not None:
        found = f"the role {isolation.role}"
        return degraded(found, _ROLE) if is_local else unhealthy(found, _ROLE)
    return healthy(f"row-level security binds the role on {', '.join(isolation.tables)}")


async def _readable_revision(connection: asyncpg.Connection[Any]) -> Revision | None:
    """Return the revision; None: the role may not read it."""
    try:
        return await revision_of(connection)
    except asyncpg.InsufficientPrivilegeError:
        return None
