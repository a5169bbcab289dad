"""The base of the schemas of rows that are returned to clients, and one page of them."""

from __future__ import annotations

from typing import Any, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer, model_validator
from sqlalchemy import inspect

from src.database.base import Base
from src.database.errors import LazyLoadError

T = TypeVar("T")


class Read(BaseModel):
    """A row to return to a client, made from an entity, or from a row of the store.

    Reading sends no statement: an attribute that was not loaded raises LazyLoadError. The rows of the store do not have
    all attributes; a missing attribute is left out of the JSON. The repr has no content.

    Example:
        from src.database.schemas import Page, UserRead

        users = await UserRepository(session).page(limit=10)
        print(Page[UserRead].model_validate(users).model_dump_json())
    """

    model_config = ConfigDict(from_attributes=True, frozen=True, hide_input_in_errors=True)

    id: UUID

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_loaded(cls, row: Any) -> Any:
        """Return the attributes of an entity, of which getattr would load those that are expired or deferred."""
        if not isinstance(row, Base):
            return row
        state = inspect(row)
        to_load = state.expired_attributes | state.callables.keys() if state.has_identity else state.unloaded
        if missing := [name for name in cls.model_fields if name in to_load]:
            raise LazyLoadError(
                f"{type(row).__name__}.{missing[0]} is not loaded, and {cls.__name__} sends no statement",
                hint="flush a new row first; read a row again after a rollback",
            )
        # An attribute that was neither set nor loaded is NULL: the flush of a new row loads what the server sets.
        return {name: vars(row).get(name) for name in cls.model_fields if hasattr(type(row), name)}

    @model_serializer(mode="wrap")
    def _only_what_is_given(self, serialize: SerializerFunctionWrapHandler):  # type: ignore[no-untyped-def]
        # Without a return type: pydantic would put the type in place of the fields into the JSON schema.
        values = serialize(self)
        return {name: value for name, value in values.items() if name in self.model_fields_set}

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """Return the id, without content."""
        return [("id", self.id)]


class Page(BaseModel, Generic[T]):
    """One page of rows, made from a page of a repository or the store. `next_cursor` is None after the last page."""

    model_config = ConfigDict(from_attributes=True, frozen=True, hide_input_in_errors=True)

    items: list[T]
    next_cursor: str | None
