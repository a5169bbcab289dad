"""The public methods of repositories and the store, and those without a call."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any

import src.database.repositories
import src.database.store
from src.database.repositories import Repository
from src.database.store import Store

__all__ = ["discovered", "missing_calls", "public_methods"]

Calls = Mapping[type, Mapping[str, object]]


def discovered() -> list[type]:
    """Return all subclasses of Repository, the store, and all other classes whose name ends in Repository or Store.

    A subclass of the store is included only if it has further public methods.
    """
    modules = [*_modules_of(src.database.repositories), *_modules_of(src.database.store)]
    named = {
        member
        for module in modules
        for name, member in vars(module).items()
        if inspect.isclass(member) and name.endswith(("Repository", "Store")) and member.__module__ == module.__name__
    }
    wider = {one for one in _subclasses(Store) if public_methods(one) > public_methods(Store)}
    return sorted({Store, *wider, *named, *_subclasses(Repository)} - {Repository}, key=lambda one: one.__qualname__)


def missing_calls(calls: Calls) -> list[str]:
    """Return `Class.method` for each public method without a call.

    A class is excluded if a subclass for the same model has calls.
    """
    return [
        f"{one.__name__}.{name}"
        for one in discovered()
        if not any(issubclass(other, one) and other is not one and _model(other) is _model(one) for other in calls)
        for name in sorted(public_methods(one) - {call.partition(",")[0] for call in calls.get(one, ())})
    ]


def public_methods(one: type) -> set[str]:
    """Return the names of the public methods, asynchronous generators included."""
    return {
        name
        for name, member in inspect.getmembers(one)
        if not name.startswith("_") and callable(member) and not inspect.isclass(member)
    }


def _modules_of(package: Any) -> list[Any]:
    return [
        importlib.import_module(found.name) for found in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    ]


def _subclasses(one: type) -> Iterator[type]:
    subclass: type
    for subclass in one.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _model(one: type) -> object:
    return getattr(one, "model", None)
