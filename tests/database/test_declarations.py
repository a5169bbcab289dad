"""An attribute of an entity is declared once, by its model: every other declaration has the type that the model has."""

from __future__ import annotations

from typing import Any, Final

import pytest
from sqlalchemy import Column
from sqlalchemy.orm import ColumnProperty

from scripts.attributes import FILE, attributes, package_mappers
from src.database import schemas
from src.database.models import Conversation, Event, MessageHistory, StateEntry, User
from src.database.repositories import NewMessage
from src.database.schemas import Read
from src.database.store import ConversationRow, EventRow, MessageRow, StateRow, UserRow


def schema_of(model: type[Any]) -> type[Read]:
    """Return the read schema of a table, found by the name of its model."""
    schema: type[Read] = getattr(schemas, f"{'Message' if model is MessageHistory else model.__name__}Read")
    return schema


DECLARED_BY: Final[dict[type[Any], type[Any]]] = {
    NewMessage: MessageHistory,
    MessageRow: MessageHistory,
    EventRow: Event,
    ConversationRow: Conversation,
    StateRow: StateEntry,
    UserRow: User,
    **{schema_of(mapper.class_): mapper.class_ for mapper in package_mappers()},
}
NOT_READ: Final = {
    "tenant_id",
    "deleted_at",
    "fingerprint",  # compared by `append`
    "blob",  # bytes are not JSON
    *("start_local", "start_local_basis"),  # computed from start_datetime and timezone
    *("turn_token", "turn_claimed_by", "turn_claimed_until"),  # of the workers
    *("reminder_token", "reminder_claimed_by", "reminder_claimed_until", "reminder_attempts"),  # the same
}
"""The attributes that a client does not read."""
DIFFERENT: Final = {
    (NewMessage, "created_at"): "None is the time of the call",
    (EventRow, "reminder_datetime"): "the rows are claimed reminders",
    (EventRow, "reminder_claimed_until"): "the rows are claimed reminders",
    (EventRow, "reminder_token"): "the rows are claimed reminders",
    (StateRow, "data_json"): "the property `value` decodes it",
    (UserRow, "preferences_json"): "the property `preferences` decodes it",
}


def annotations_of(kind: type[Any]) -> dict[str, str]:
    """Return the annotations of a class and its bases as they are written."""
    declared: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        declared |= vars(base).get("__annotations__", {})
    written = {name: getattr(type_, "__forward_arg__", type_) for name, type_ in declared.items()}
    return {name: str(type_).removeprefix("limits.") for name, type_ in written.items()}


def differences(kind: type[Any], model: type[Any]) -> dict[str, str]:
    """Return the attributes of a class whose type is not that of the model's attribute."""
    of_model = annotations_of(model)
    return {
        name: f"{type_}, and {of_model.get(name, 'nothing')} in {model.__name__}"
        for name, type_ in annotations_of(kind).items()
        if not name.startswith("_") and of_model.get(name) != f"Mapped[{type_}]"
    }


@pytest.mark.parametrize("kind", DECLARED_BY, ids=lambda kind: kind.__name__)
def test_an_attribute_has_the_type_that_its_model_declares(kind: type[Any]) -> None:
    found = differences(kind, DECLARED_BY[kind])

    assert found.keys() == {name for owner, name in DIFFERENT if owner is kind}, found


def test_the_attributes_for_type_checkers_are_those_of_the_models() -> None:
    assert FILE.read_text() == attributes(), "run `make format`"


@pytest.mark.parametrize("model", [mapper.class_ for mapper in package_mappers()])
def test_a_row_is_read_with_all_attributes(model: type[Any]) -> None:
    stored = {attribute.key for attribute in model.__mapper__.column_attrs if not is_computed(attribute)}

    assert stored - schema_of(model).model_fields.keys() == NOT_READ & stored


def is_computed(attribute: ColumnProperty[Any]) -> bool:
    column = attribute.columns[0]
    return not isinstance(column, Column) or column.computed is not None


def test_another_type_and_an_unknown_attribute_are_noticed() -> None:
    class Row:
        seq: str
        content: str
        lenght: int

    assert differences(Row, MessageHistory).keys() == {"seq", "content", "lenght"}
