"""Values that can change in place, as SQLAlchemy's are, but cheap to load: each row brings two or three of them."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy.ext.mutable import MutableDict, MutableList
from sqlalchemy.util import memoized_property

__all__ = ["ChangeableDict", "ChangeableList", "changeable"]


class _Holders(dict[Any, str]):
    """Which rows hold a value: what SQLAlchemy keeps in a WeakKeyDictionary, made at a fifth of its cost.

    A state refers to its row weakly; whether that is still there is asked when something has changed.
    """

    def items(self) -> Any:
        """Leave out the rows that are gone."""
        return [(state, name) for state, name in super().items() if state.obj() is not None]


_ATTRIBUTES: Final[dict[tuple[type[Any], str], Any]] = {}


class _HeldByRows:
    @memoized_property
    def _parents(self) -> _Holders:
        return _Holders()

    @classmethod
    def _listen_on_attribute(cls, attribute: Any, coerce: bool, parent_cls: Any) -> None:
        super()._listen_on_attribute(attribute, coerce, parent_cls)  # type: ignore[misc] # SQLAlchemy's
        _ATTRIBUTES[attribute.class_, attribute.key] = cls

    @classmethod
    def held_by(cls, state: Any, name: str, value: Any) -> Any:
        """Make it of a value that was loaded with a row."""
        held = cls(value)  # type: ignore[call-arg] # a dict's or a list's
        held.__dict__["_parents"] = _Holders({state: name})
        return held


class ChangeableDict(_HeldByRows, MutableDict[str, Any]):  # type: ignore[misc] # `_parents` is a lighter one
    """A JSON object; what is set or removed in it is stored."""


class ChangeableList(_HeldByRows, MutableList[Any]):  # type: ignore[misc] # the same
    """A list; what is added, replaced or removed in it is stored."""


def changeable(model: type[Any], name: str) -> Any:
    """Return what a mapped attribute's values are made into, or None where they are left as they come."""
    return _ATTRIBUTES.get((model, name))
