"""Compile statements once to the driver's text, and find the values of its parameters in each statement."""

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

CACHE_SIZE: Final = 500
"""The number of compiled statements that are kept, the least recently used ones are dropped."""


_Parameter = tuple[int, Callable[[Any], Any] | None]
"""The position of a parameter among those of the cache key, and the function that converts its value, if any."""


@dataclass(eq=False)
class DriverStatement:
    """A compiled statement that returns one model's rows, or values; it serves every statement of the same shape.

    Attributes:
        statement: The statement that was compiled.
        key: SQLAlchemy's cache key: equal for statements that differ in the values of parameters only.
        entities: The loader of the entities; None if the statement returns values.
        sql: The text.
        parameters: The parameters in the order of the text.
        may_write: True if the statement may write.
    """

    statement: Any = field(repr=False)
    key: CacheKey = field(repr=False)
    entities: Entities | None
    sql: str
    parameters: Sequence[_Parameter]
    may_write: bool

    @cached_property
    def fenced(self) -> DriverStatement | None:
        """The statement with a fence, or None if it is not a select with the parameter `TENANT`.

        The tenant is the last argument.
        """
        tenant = next((position for position, bind in enumerate(self.key.bindparams) if bind.key == TENANT), None)
        if tenant is None or not is_select(self.statement):
            return None
        compiled: Any = in_fence(self.statement).compile(dialect=DIALECT, cache_key=self.key)
        parameters = [*_parameters(compiled, self.key), (tenant, str)]
        sql = fenced(compiled.string, tenant=len(parameters))
        return DriverStatement(self.statement, self.key, self.entities, sql, parameters, may_write=False)

    def arguments(self, bound: Sequence[BindParameter[Any]]) -> list[Any]:
        """Return the arguments for the driver from the bound parameters of a statement of the same shape."""
        return [
            bound[position].effective_value if process is None else process(bound[position].effective_value)
            for position, process in self.parameters
        ]

    def named_arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """Return the arguments for the driver from values by the name of the `bindparam`."""
        arguments = []
        for position, process in self.parameters:
            bind = self.key.bindparams[position]
            value = values[bind.key] if bind.required else bind.effective_value
            arguments.append(value if process is None else process(value))
        return arguments


_COMPILED: Final[LRUCache[Any, DriverStatement | None]] = LRUCache(CACHE_SIZE)


def compile_cached(
    statement: Any, model: type[Any] | None
) -> tuple[DriverStatement, Sequence[BindParameter[Any]]] | None:
    """Return the compiled form of a statement, from the cache or a new one, and the bound parameters of the statement.

    Returns None if only SQLAlchemy can send the statement.

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


def compile_statement(statement: Any, model: type[Any]) -> DriverStatement | None:
    """Return the compiled form of a statement, without the cache; None if only SQLAlchemy can send the statement."""
    key = cache_key_of(statement)
    return None if key is None else _compile(statement, key, model)


def _compile(statement: Any, key: CacheKey, model: type[Any] | None) -> DriverStatement | None:
    """Compile a statement; return None if it lacks a column of the model, or has values that SQLAlchemy generates."""
    if model is not None and not issubclass(model, TenantBase):
        return None
    compiled: Any = statement.compile(dialect=DIALECT, cache_key=key)
    entities = None if model is None else entities_of(model)
    if entities is not None and not _begins_with(entities.columns, result_columns(compiled)):
        return None
    generated = compiled.post_compile_params or compiled.literal_execute_params or compiled.prefetch
    if generated or not set(compiled.positiontup) <= set(text_parameters(compiled, key)):
        return None
    may_write = not can_only_read(compiled.statement)
    return DriverStatement(statement, key, entities, compiled.string, _parameters(compiled, key), may_write)


def _begins_with(columns: Sequence[Any], result: Sequence[Sequence[Any]]) -> bool:
    """Return True if the first columns of a result are these, in this order."""
    return len(result) >= len(columns) and all(
        column in objects for column, objects in zip(columns, result, strict=False)
    )


def _parameters(compiled: Any, key: CacheKey) -> list[_Parameter]:
    """Return the parameters of a compiled statement in the order of its text."""
    positions = text_parameters(compiled, key)
    return [(positions[name], _processor(compiled.binds[name])) for name in compiled.positiontup]


def _processor(bind: BindParameter[Any]) -> Callable[[Any], Any] | None:
    """Return the function that converts a parameter's value for the driver, or None if no conversion is needed."""
    return bind.type.dialect_impl(DIALECT).bind_processor(DIALECT)
