"""Statements as the driver takes them: the text compiled once, and where each parameter's value comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from sqlalchemy import BindParameter
from sqlalchemy.sql.cache_key import CacheKey
from sqlalchemy.util import LRUCache

from src.database.base import TenantBase
from src.database.engine import cache_key_of, can_only_read, is_select, result_columns, text_parameters
from src.database.statements.entities import DIALECT, Entities, entities_of
from src.database.statements.fence import TENANT, fenced, in_fence

SHAPES: Final = 500


_Parameter = tuple[int, Callable[[Any], Any] | None]
"""The place of a parameter in the cache key, and what makes its value of the driver's type."""


@dataclass(eq=False)
class Ready:
    """A compiled statement that returns one model's rows, or values; it serves every statement of the same shape.

    Attributes:
        statement: The statement.
        key: What statements of the same shape have in common, with the parameters.
        entities: Creates the entities; None if the statement returns values.
        sql: The text.
        parameters: The text's parameters, in their order.
        may_write: True if the statement may write.
    """

    statement: Any = field(repr=False)
    key: CacheKey = field(repr=False)
    entities: Entities | None
    sql: str
    parameters: Sequence[_Parameter]
    may_write: bool

    @cached_property
    def fenced(self) -> Ready | None:
        """The statement in a form that binds its own transaction to the tenant; None if it is no select of a tenant's.

        The tenant is then one more argument.
        """
        tenant = next((place for place, bind in enumerate(self.key.bindparams) if bind.key == TENANT), None)
        if tenant is None or not is_select(self.statement):
            return None
        compiled: Any = in_fence(self.statement).compile(dialect=DIALECT, cache_key=self.key)
        parameters = [*_parameters(compiled, self.key), (tenant, str)]
        sql = fenced(compiled.string, tenant=len(parameters))
        return Ready(self.statement, self.key, self.entities, sql, parameters, may_write=False)

    def arguments(self, bound: Sequence[BindParameter[Any]]) -> list[Any]:
        """Return what the driver is given of a statement's bound parameters."""
        return [
            bound[place].effective_value if process is None else process(bound[place].effective_value)
            for place, process in self.parameters
        ]

    def named_arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """Return what the driver is given where the statement was built without its values."""
        given = []
        for place, process in self.parameters:
            bind = self.key.bindparams[place]
            value = values[bind.key] if bind.required else bind.effective_value
            given.append(value if process is None else process(value))
        return given


_COMPILED: Final[LRUCache[Any, Ready | None]] = LRUCache(SHAPES)


def ready(statement: Any, model: type[Any] | None) -> tuple[Ready, Sequence[BindParameter[Any]]] | None:
    """Return a statement ready to be sent, and its parameters; None if only SQLAlchemy can send it.

    Args:
        statement: The statement.
        model: The model whose rows it returns; None if it returns values that need no conversion.
    """
    key = cache_key_of(statement)
    if key is None or key.params:
        return None
    try:
        found = _COMPILED[key.key]
    except KeyError:
        found = _COMPILED[key.key] = _compile(statement, key, model)
    return None if found is None else (found, key.bindparams)


def compile_once(statement: Any, model: type[Any]) -> Ready | None:
    """Return a statement ready to be sent; None where only SQLAlchemy can send it."""
    key = cache_key_of(statement)
    return None if key is None else _compile(statement, key, model)


def _compile(statement: Any, key: CacheKey, model: type[Any] | None) -> Ready | None:
    """Compile a statement; return None if it lacks a column of the model, or has values that SQLAlchemy generates."""
    if model is not None and not issubclass(model, TenantBase):
        return None
    compiled: Any = statement.compile(dialect=DIALECT, cache_key=key)
    entities = None if model is None else entities_of(model)
    if entities is not None and not _begins_with(entities.columns, result_columns(compiled)):
        return None
    made_each_time = compiled.post_compile_params or compiled.literal_execute_params or compiled.prefetch
    if made_each_time or not set(compiled.positiontup) <= set(text_parameters(compiled, key)):
        return None
    may_write = not can_only_read(compiled.statement)
    return Ready(statement, key, entities, compiled.string, _parameters(compiled, key), may_write)


def _begins_with(columns: Sequence[Any], result: Sequence[Sequence[Any]]) -> bool:
    """Return True if the first columns of a result are these, in this order."""
    return len(result) >= len(columns) and all(
        column in objects for column, objects in zip(columns, result, strict=False)
    )


def _parameters(compiled: Any, key: CacheKey) -> list[_Parameter]:
    """Return the parameters of a compiled text, in their order."""
    places = text_parameters(compiled, key)
    return [(places[name], _processor(compiled.binds[name])) for name in compiled.positiontup]


def _processor(bind: BindParameter[Any]) -> Callable[[Any], Any] | None:
    """Return what makes a parameter's value of the driver's type; None if the driver takes the value as it is."""
    return bind.type.dialect_impl(DIALECT).bind_processor(DIALECT)
