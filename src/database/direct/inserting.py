"""A new row inserted on the short way: what a flush would send for it alone, and what it would leave behind."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from sqlalchemy import Column, bindparam, insert
from sqlalchemy.orm import Mapper, class_mapper
from sqlalchemy.orm.attributes import instance_dict, instance_state
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.util import greenlet_spawn

from src.database.base import TenantBase
from src.database.direct.entities import entities_of
from src.database.direct.run import Prepared
from src.database.tenancy import AsyncSession, TenantSession

__all__ = ["insert_alone"]

_OF_SESSION: Final = ("after_flush", "after_flush_postexec", "before_attach", "after_attach", "transient_to_pending")


async def insert_alone(session: AsyncSession, row: TenantBase) -> bool:
    """Insert a row that no session has yet; False: it takes a flush, and nothing was done.

    It does where other changes are pending, where the row brings related ones or SQL expressions, or where somebody
    listens to what a flush does.
    """
    sync, mapper = session.sync_session, class_mapper(type(row))
    if not sync.is_active or sync.has_changes() or not _is_plain(row, mapper) or _is_watched(sync, mapper):
        return False
    await greenlet_spawn(_begin, sync, row, mapper)
    state, has = instance_state(row), instance_dict(row)
    values = _values(row, mapper)
    with sync.no_autoflush:
        record = await _statement(type(row), frozenset(values)).record(session, values)
    if record is None:
        await session.flush()
        return True
    made = {name: value for name, value in record.items() if has.get(name) is None}
    has.update(made)
    mapper.class_manager.dispatch.refresh_flush(state, None, made.keys() | values.keys())
    sync._register_persistent({state})
    return True


def _begin(session: TenantSession, row: TenantBase, mapper: Mapper[Any]) -> None:
    """Do what a flush does before it sends anything."""
    session.add(row)
    connection = session.open_connection()
    session.keep_to_its_tenant(row)
    mapper.dispatch.before_insert(mapper, connection, instance_state(row))


def _is_plain(row: TenantBase, mapper: Mapper[Any]) -> bool:
    state, has = instance_state(row), instance_dict(row)
    if not state.transient or mapper.version_id_col is not None or mapper.polymorphic_on is not None:
        return False
    if any(name in has for name in mapper.relationships.keys()):  # noqa: SIM118 - it is no dict
        return False
    for name, value in has.items():
        if isinstance(value, ClauseElement) or hasattr(value, "__clause_element__"):
            return False
        if value is None and name in _json_columns(mapper):  # whether that is NULL or JSON's null, the type says
            return False
    return True


@cache
def _json_columns(mapper: Mapper[Any]) -> frozenset[str]:
    return frozenset(one.key for one in mapper.column_attrs if one.columns[0].type.should_evaluate_none)


def _is_watched(session: TenantSession, mapper: Mapper[Any]) -> bool:
    if len(session.dispatch.before_flush) > session.own_hooks_of_a_flush:
        return True
    return bool(mapper.dispatch.after_insert) or any(getattr(session.dispatch, name) for name in _OF_SESSION)


def _values(row: TenantBase, mapper: Mapper[Any]) -> dict[str, Any]:
    """Return what is sent: what the row has, and what is made here; what the server makes is left out."""
    has = instance_dict(row)
    values = {}
    for name, default in _columns(mapper).items():
        value = has.get(name)
        if value is None and default is not None:
            value = has[name] = default.arg(None) if default.is_callable else default.arg
        if value is not None:
            values[name] = value
    return values


@cache
def _columns(mapper: Mapper[Any]) -> Mapping[str, Any]:
    columns = {one.key: one.columns[0] for one in mapper.column_attrs}
    return {
        name: column.default
        for name, column in columns.items()
        if isinstance(column, Column) and column.computed is None
    }


@cache
def _statement(model: type[TenantBase], names: frozenset[str]) -> Prepared[Any]:
    given: dict[Any, Any] = {getattr(model, name): bindparam(name) for name in sorted(names)}
    return Prepared(insert(model).values(given).returning(*entities_of(model).columns), model)
