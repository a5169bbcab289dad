"""An attribute of an entity is declared once, by its model: every other declaration has the type that the model has."""

from __future__ import annotations

from typing import Any, Final

import pytest

from src.database.models import Conversation, Event, MessageHistory, User
from src.database.repositories import NewMessage
from src.database.store import ConversationRow, EventRow, MessageRow, UserRow

DECLARED_BY: Final = {
    NewMessage: MessageHistory,
    MessageRow: MessageHistory,
    EventRow: Event,
    ConversationRow: Conversation,
    UserRow: User,
}
NARROWER: Final = {
    "Role": "str",
    "State": "str",
    "limits.Role": "str",
    "limits.State": "str",
}
"""Types whose values are some of those of the column: each checks them before a statement is sent."""
DIFFERENT: Final = {
    (NewMessage, "created_at"): "None is the time of the call",
    (EventRow, "reminder_datetime"): "the rows are claimed reminders",
    (EventRow, "reminder_claimed_until"): "the rows are claimed reminders",
    (EventRow, "reminder_token"): "the rows are claimed reminders",
    (UserRow, "preferences_json"): "the property `preferences` decodes it",
}


def annotations_of(kind: type[Any]) -> dict[str, str]:
    """Return the annotations of a class and its bases as they are written."""
    declared: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        declared |= vars(base).get("__annotations__", {})
    return {name: getattr(type_, "__forward_arg__", type_) for name, type_ in declared.items()}


def differences(kind: type[Any], model: type[Any]) -> dict[str, str]:
    """Return the attributes of a class whose type is not that of the model's attribute."""
    of_model = annotations_of(model)
    return {
        name: f"{type_}, and {of_model.get(name, 'nothing')} in {model.__name__}"
        for name, type_ in annotations_of(kind).items()
        if not name.startswith("_") and of_model.get(name) != f"Mapped[{NARROWER.get(type_, type_)}]"
    }


@pytest.mark.parametrize("kind", DECLARED_BY, ids=lambda kind: kind.__name__)
def test_an_attribute_has_the_type_that_its_model_declares(kind: type[Any]) -> None:
    found = differences(kind, DECLARED_BY[kind])

    assert found.keys() == {name for owner, name in DIFFERENT if owner is kind}, found


def test_another_type_and_an_unknown_attribute_are_noticed() -> None:
    class Row:
        seq: str
        content: str
        lenght: int

    assert differences(Row, MessageHistory).keys() == {"seq", "content", "lenght"}
