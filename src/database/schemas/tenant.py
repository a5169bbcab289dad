"""Tenants, from outside."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from src.database.schemas.base import NOT_GIVEN, CreateInput, UpdateInput
from src.database.schemas.fields import CLEAN, Int4, JsonObject

__all__ = ["TenantCreate", "TenantUpdate"]

Slug = Annotated[str, Field(strict=True, pattern="^[a-z0-9][a-z0-9-]{0,62}$"), CLEAN]
Name = Annotated[str, Field(strict=True, min_length=1, max_length=200), CLEAN]
Status = Literal["active", "suspended"]
RetentionDays = Annotated[Int4, Field(gt=0)]


class TenantCreate(CreateInput):
    """A tenant to register. Every tenant's role can read the registry: nobody's data belongs here."""

    slug: Slug
    name: Name
    status: Status = "active"
    retention_days: RetentionDays | None = None
    extra: JsonObject = Field(default_factory=dict)


class TenantUpdate(UpdateInput):
    """What changes of a tenant; `extra` is replaced as a whole."""

    slug: Slug = NOT_GIVEN
    name: Name = NOT_GIVEN
    status: Status = NOT_GIVEN
    retention_days: RetentionDays | None = NOT_GIVEN
    extra: JsonObject = NOT_GIVEN
