"""The schemas have the limits of the database and of the checks before a statement is sent."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

import psycopg
import pytest
from pydantic import BaseModel

from src.database import schemas
from src.database.base import Base
from src.database.models import MessageHistory
from src.database.models.limits import LIMITS, Json, Length, Whole
from src.database.repositories import NewMessage
from src.database.schemas import MessageCreate
from tests.database.schemas.catalogue import limits_of, read


def schemas_of(model: type[Base]) -> tuple[type[BaseModel], type[BaseModel]]:
    """Return the schemas of a table, found by the name of its model."""
    name = "Message" if model is MessageHistory else model.__name__
    return getattr(schemas, f"{name}Create"), getattr(schemas, f"{name}Update")


SCHEMAS: Final = {mapper.class_: schemas_of(mapper.class_) for mapper in Base.registry.mappers}
NOT_FROM_OUTSIDE: Final = {
    # Counted and claimed by the repositories.
    "ck_conversations_summary_upto_seq",
    "ck_conversations_turn_claim",
    "ck_conversations_closed_is_inactive",
    "ck_events_reminder_attempts",
    "ck_events_reminder_claim",
    # Of two columns, one of which the schemas do not have; and of the stored size.
    "ck_state_entries_owner",
    "ck_state_entries_value",
    "ck_state_entries_size",
}
CHECKED_TWICE: Final = {("message_history", "role"), ("message_history", "state"), ("users", "retention_days")}
"""The limits that a CHECK states too."""
BY_A_VALIDATOR: Final = {"ck_events_end_datetime", "ck_events_recurrence_id", "ck_user_identities_provider"}
"""Validators of the schemas check these; test_inputs.py and test_user_identities.py test them."""
FILLED_IN: Final = {"tenant_id", "id", "seq"}
OPTIONAL: Final = {(MessageCreate, "created_at")}
"""None is the present."""
APPENDED_TO: Final = {"conversation_id", "user_id"}
"""The columns of a message that `append` fills in."""
CHANGES: Final = [
    ("ADD CONSTRAINT ck_users_username CHECK (length(username) <= 65)", "UserCreate.username"),
    ("ADD CONSTRAINT ck_users_new CHECK (telegram_id > 5)", "UserCreate.telegram_id"),
    ("ADD CONSTRAINT ck_users_new CHECK (telegram_id <> 5)", "no schema mirrors ck_users_new"),
    ("ADD CONSTRAINT ck_users_new CHECK (length(locale) > length(timezone))", "no schema mirrors ck_users_new"),
    ("ALTER locale SET NOT NULL", "UserUpdate.locale"),
    ("ALTER timezone DROP NOT NULL", "UserUpdate.timezone"),
    ("ALTER retention_days TYPE bigint", "UserCreate.retention_days"),
    ("ADD mood text NOT NULL", "users.mood must have a value"),
    ("DROP CONSTRAINT ck_users_retention_days", "UserCreate.retention_days"),
]
"""Changes of the table users, and the start of the expected problem."""


def problems(connection: psycopg.Connection) -> list[str]:
    """Compare each attribute of each schema with its column, and find checks that no schema repeats."""
    columns, others = read(connection)
    found: list[str] = []
    mirrored: set[str] = set()
    for model, (create, update) in SCHEMAS.items():
        table = model.__tablename__
        attributes = {one.columns[0].name: one.key for one in model.__mapper__.column_attrs}
        for (of_table, name), column in columns.items():
            if of_table != table:
                continue
            attribute = attributes.get(name, name)
            limits = column.limits if column.checks else column.limits | checked_here(table, attribute)
            for schema in (create, update):
                if attribute not in schema.model_fields:
                    continue
                mirrored |= column.checks
                ours, theirs = limits_of(schema, attribute), (limits, column.nullable)
                if (schema, attribute) in OPTIONAL:
                    theirs = (limits, True)
                if ours != theirs:
                    found.append(f"{schema.__name__}.{attribute}: {ours}, and the column: {theirs}")
            if not (column.nullable or column.has_default) and not _is_required(create, attribute):
                found.append(f"{table}.{name} must have a value, and {create.__name__} does not ask for it")
        known = {attributes.get(name, name) for of_table, name in columns if of_table == table}
        found += [
            f"{one.__name__} has more than the table" for one in (create, update) if set(one.model_fields) - known
        ]
    of_one = {check for column in columns.values() for check in column.checks}
    found += [
        f"no schema mirrors {check}" for check in (of_one - mirrored | others) - NOT_FROM_OUTSIDE - BY_A_VALIDATOR
    ]
    return found


def checked_here(table: str, attribute: str) -> dict[str, Any]:
    """Return the limit that is checked before a statement is sent and that no CHECK repeats."""
    limit: Any = None if (table, attribute) in CHECKED_TWICE else LIMITS.get(table, {}).get(attribute)
    match limit:
        case Length(minimum=0, maximum=maximum):
            return {"maxLength": maximum}
        case Length(minimum=minimum, maximum=maximum):
            return {"minLength": minimum, "maxLength": maximum}
        case Json(kind=kind):
            return {"type": kind}
        case Whole(minimum=minimum):
            return {"minimum": minimum}
    return {}


def _is_required(create: type[BaseModel], attribute: str) -> bool:
    if attribute in FILLED_IN or (create is MessageCreate and attribute in APPENDED_TO):
        return True
    field = create.model_fields.get(attribute)
    return field is not None and (field.is_required() or field.default_factory is not None)


def test_the_limits_are_the_databases(superuser: psycopg.Connection) -> None:
    assert problems(superuser) == []


def test_another_limit_in_the_database_is_detected(superuser: psycopg.Connection) -> None:
    for change, problem in CHANGES:
        with superuser.transaction(force_rollback=True):
            superuser.execute(f"ALTER TABLE users {change}".encode())

            assert any(one.startswith(problem) for one in problems(superuser)), change


def test_a_message_has_all_that_append_takes() -> None:
    assert set(MessageCreate.model_fields) == {one.name for one in fields(NewMessage)}


@pytest.mark.parametrize("model", SCHEMAS)
def test_the_defaults_are_those_of_the_model(model: type[Base]) -> None:
    create, update = SCHEMAS[model]
    defaults: dict[str, Any] = {
        one.key: one.columns[0].default.arg
        for one in model.__mapper__.column_attrs
        if getattr(one.columns[0], "default", None) is not None and one.columns[0].default.is_scalar
    }

    ours = {name: field.default for name, field in create.model_fields.items() if name in defaults}

    assert ours == {name: value for name, value in defaults.items() if name in create.model_fields}
    assert all(not field.is_required() for field in update.model_fields.values())
