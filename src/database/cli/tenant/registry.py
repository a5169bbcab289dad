"""Read and change the registry of tenants for the commands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from sqlalchemy import text

from src.config import get_settings
from src.database.errors import ConfigurationError, DuplicateKeyError, NotFoundError
from src.database.migrate import ORIGIN, OTHER_DATABASE, Origin, compare_revisions, service_history
from src.database.models import Tenant, limits
from src.database.repositories import TenantRepository
from src.database.session import AsyncSession, get_db

_ORIGIN: Final = text(ORIGIN)

PAGE_SIZE: Final = 1000


@asynccontextmanager
async def registry_session() -> AsyncIterator[AsyncSession]:
    """Open a session, and check that the migrations of this package created the tables.

    The models of the service are imported, so that its tables are exported, erased and purged too.

    Raises:
        ConfigurationError: Other migrations created the tables, or the models of the service cannot be imported.
    """
    if (service := service_history(get_settings())) is not None:
        service.tables()
    async with get_db() as session:
        origin = Origin.of((await session.execute(_ORIGIN)).one())
        if origin.namesakes and not origin.is_ours:
            raise ConfigurationError(
                f"{compare_revisions((), origin).foreign_origin()}; nothing was changed", hint=OTHER_DATABASE
            )
        yield session


async def register(slug: str, name: str, *, retention_days: int | None) -> Tenant:
    """Register a tenant.

    Args:
        slug: 1 to 63 characters from a-z, 0-9 and dashes.
        name: The display name.
        retention_days: How long messages are kept; None: forever.

    Raises:
        ConfigurationError: The slug, the name or the retention is invalid.
        DuplicateKeyError: The slug is taken.
    """
    async with registry_session() as session:
        with _translated_errors(slug):
            return await TenantRepository(session).create(slug, name, retention_days=retention_days)


async def change(slug: str, values: dict[str, Any]) -> Tenant:
    """Change attributes of a tenant.

    Args:
        slug: The current slug of the tenant.
        values: The new values by attribute: slug, name, retention_days.

    Raises:
        ConfigurationError: A value is invalid.
        DuplicateKeyError: The new slug is taken.
        NotFoundError: There is no such tenant.
    """
    async with registry_session() as session:
        tenant = await find(session, slug)
        with _translated_errors(values.get("slug", slug)):
            return await TenantRepository(session).update(tenant.id, **values)


async def all_tenants() -> list[Tenant]:
    """Return the tenants in the order of their registration."""
    found: list[Tenant] = []
    cursor: str | None = None
    async with registry_session() as session:
        while True:
            page = await TenantRepository(session).page(after=cursor, limit=PAGE_SIZE)
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                return found


async def set_status(slug: str, status: limits.TenantStatus) -> Tenant:
    """Suspend or activate a tenant.

    Raises:
        NotFoundError: There is no such tenant.
    """
    async with registry_session() as session:
        tenants = TenantRepository(session)
        tenant = await find(session, slug)
        return await (tenants.suspend(tenant.id) if status == "suspended" else tenants.activate(tenant.id))


async def find(session: AsyncSession, slug: str) -> Tenant:
    """Return the tenant with this slug.

    Raises:
        NotFoundError: There is no such tenant.
    """
    tenant = await TenantRepository(session).get_by_slug(slug)
    if tenant is None:
        raise NotFoundError(f"there is no tenant {slug!r}", hint="`thea-db tenant list` shows all tenants")
    return tenant


@contextmanager
def _translated_errors(slug: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    except DuplicateKeyError:
        raise DuplicateKeyError(
            f"the slug {slug} is taken", hint="`thea-db tenant list` shows which tenant has it"
        ) from None
