"""Input: what every typed input is, and how one is handed on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["NOT_GIVEN", "CreateInput", "UpdateInput"]


def _without_default(schema: dict[str, Any]) -> None:
    """Keep the default out of the JSON schema: who reads `null` there would send it, and be refused."""
    schema.pop("default", None)


NOT_GIVEN: Final[Any] = Field(default=None, json_schema_extra=_without_default)
"""The default of an attribute that an update may leave out. It is not validated, so None itself can be refused."""


class Input(BaseModel):
    """What comes from outside, checked by the database's own limits before it gets there.

    A ValidationError's text does not repeat what came, only where it was; neither does a repr. Its `errors()` does:
    ask for `errors(include_input=False)` before it is logged. The name of an unknown field is told.

    JSON is best read with `json.loads` first, as FastAPI does: pydantic's own reader refuses a whole text for one lone
    surrogate, which is else replaced.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Name the attributes that were given, and no value."""
        yield "given", sorted(self.model_fields_set)


class CreateInput(Input):
    """What a row is made of."""

    def to_values(self) -> dict[str, Any]:
        """Return the attributes by name, those not given with their defaults: `User(**new.to_values())`."""
        return self.model_dump()


class UpdateInput(Input):
    """What changes of a row; what is not given stays as it is, and None is a value like another."""

    def to_values(self) -> dict[str, Any]:
        """Return the attributes that were given, by name: `users.update(user_id, **change.to_values())`."""
        return self.model_dump(exclude_unset=True)
