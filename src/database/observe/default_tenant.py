"""The log of where the default tenant is used because the code names none."""

from __future__ import annotations

from src.config import get_logger
from src.database.observe.callers import find_place

__all__ = ["DefaultTenantLog"]


class DefaultTenantLog:
    """Logs a warning for each line of the service that uses the default tenant, once a process."""

    def __init__(self) -> None:
        self._logged: set[tuple[str, str]] = set()

    def __call__(self) -> None:
        """Log the line of the service that called, unless that is done."""
        place = find_place()
        site = (place.function, place.caller)
        if site in self._logged:
            return
        self._logged.add(site)
        get_logger(__name__).warning(
            "default_tenant_used",
            caller=place.caller,
            function=place.function,
            hint="wrap the work in `with tenant_context(tenant_id):`; a thread or a task may have lost the tenant",
        )
