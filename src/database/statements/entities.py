"""Create entities from the driver's records, each once in the session's identity map, as SQLAlchemy's loader does.

This replaces the loader where only columns are loaded: without relationships, polymorphism and loader options, a row
takes a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import ARRAY, Dialect, Float, Numeric, TypeDecorator
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.orm import Session, class_mapper
from sqlalchemy.orm.attributes import instance_dict, instance_state, set_committed_value

from src.database.base import changeable
from src.database.engine import has_fast_path, track_changes

DIALECT: Final[Dialect] = PGDialect_asyncpg()  # type: ignore[no-untyped-call]
_OIDS: Final[dict[type[Any], int]] = {Float: 701, Numeric: 1700}
"""The server's OIDs of the types whose conversion depends on the OID, also within arrays: float8 and numeric."""


def _decoder(kind: Any) -> Callable[[Any], Any] | None:
    """Return the conversion of a column's values, which SQLAlchemy chooses by the type and by its OID."""
    item = kind.item_type if isinstance(kind, ARRAY) else kind
    if isinstance(item, TypeDecorator):
        item = item.impl_instance
    oid = next((oid for family, oid in _OIDS.items() if isinstance(item, family)), None)
    decoder: Callable[[Any], Any] | None = kind.dialect_impl(DIALECT).result_processor(DIALECT, oid)
    return decoder


class Entities:
    """The loader of one model's entities.

    Args:
        model: A mapped class of a table with tenants' rows.
    """

    def __init__(self, model: type[Any]) -> None:
        mapper = class_mapper(model)
        attributes = [one for one in mapper.column_attrs if not one.deferred]
        self.columns = [one.columns[0] for one in attributes]
        self._manager = mapper.class_manager
        self._identity_class = mapper.identity_key_from_primary_key(())[0]
        self._names = [one.key for one in attributes]
        self._set_of_names = frozenset(self._names)
        self._key_of: Callable[[Sequence[Any]], tuple[Any, ...]] = itemgetter(
            *(self._names.index(mapper.get_property_by_column(column).key) for column in mapper.primary_key)
        )
        self._decoders = [
            (name, decode)
            for name, column in zip(self._names, self.columns, strict=True)
            if (decode := _decoder(column.type)) is not None
        ]

        self._changeable = [(name, kind) for name in self._names if (kind := changeable(model, name)) is not None]

    def load(self, session: Session, records: Sequence[Sequence[Any]], *, refresh: bool) -> list[Any]:
        """Return the entity of each record.

        Args:
            session: The session that the entities belong to.
            records: The records of the driver, which begin with the values of `columns` in their order.
            refresh: Set all attributes of an entity that the session has already; else only expired ones.
        """
        known, new = session.identity_map, self._manager.new_instance
        session_id, on_load = session.hash_key, self._manager.dispatch.load
        # Off the fast path, the mutable types' own listeners of `load` track changes, as with SQLAlchemy's loader.
        mutable = self._changeable if has_fast_path(session.bind) else []
        has_listeners = len(on_load) > len(mutable)  # each mutable attribute has registered one
        entities = []
        for record in records:
            key = (self._identity_class, self._key_of(record), None)
            entity = known.get(key)
            if entity is not None:
                self._fill(entity, record, refresh=refresh)
            else:
                entity = new()
                state = instance_state(entity)
                state.key = key
                state.session_id = session_id
                values = self.values(record)
                for name, kind in mutable:
                    if (value := values[name]) is not None:
                        values[name] = tracked = kind(value)
                        track_changes(tracked, state, name)
                instance_dict(entity).update(values)
                known.add(state)
                if has_listeners:
                    on_load(state, None)
            entities.append(entity)
        return entities

    def values(self, record: Sequence[Any]) -> dict[str, Any]:
        """Return the values of a record by attribute."""
        values = dict(zip(self._names, record, strict=False))  # a record may have more columns than the entity
        for name, decode in self._decoders:
            values[name] = decode(values[name])
        return values

    def _fill(self, entity: Any, record: Sequence[Any], *, refresh: bool) -> None:
        state = instance_state(entity)
        names = self._set_of_names if refresh else self._set_of_names & state.unloaded
        if not names:
            return
        values = self.values(record)
        for name in names:
            set_committed_value(entity, name, values[name])
        self._manager.dispatch.refresh(state, None, None if refresh else names)


@cache
def entities_of(model: type[Any]) -> Entities:
    """Return the loader of a model's entities; the first call configures the mappers."""
    return Entities(model)
