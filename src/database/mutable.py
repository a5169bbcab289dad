"""Mutable values of rows: JSON objects and lists whose changes in place are stored."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy.ext.mutable import MutableDict, MutableList

__all__ = ["ChangeableDict", "ChangeableList", "changeable"]

_TYPES: Final[dict[tuple[type[Any], str], Any]] = {}
"""The class of a mapped attribute's values, by model and name."""


class _Registered:
    """Registers the attributes whose values are of this class."""

    @classmethod
    def associate_with_attribute(cls, attribute: Any) -> None:
        super().associate_with_attribute(attribute)  # type: ignore[misc] # of the other base
        _TYPES[attribute.class_, attribute.key] = cls


class ChangeableDict(_Registered, MutableDict[str, Any]):
    """A JSON object; what is set or removed in it is stored."""


class ChangeableList(_Registered, MutableList[Any]):
    """A list; what is added, replaced or removed in it is stored."""


def changeable(model: type[Any], name: str) -> Any:
    """Return the class of a mapped attribute's mutable values, or None if they are not mutable."""
    return _TYPES.get((model, name))
