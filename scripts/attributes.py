"""Write `src/database/models/attributes.py`: the attributes of each model, as type checkers know them.

    python -m scripts.attributes    # or: make format

The types are the annotations of the models. What a call refuses to set is left out. A test compares the file with the
models.
"""

from __future__ import annotations

import builtins
import re
import subprocess
import sys
from collections import ChainMap, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from inspect import get_annotations
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Column
from sqlalchemy.orm import Mapper

from src.database import repositories
from src.database.base import Base
from src.database.models import Tenant, User, limits
from src.database.repositories import Repository
from src.database.repositories.base import read_only_attributes
from src.database.statements.users import NEW_USER

ROOT: Final = Path(__file__).parents[1]
FILE: Final = ROOT / "src" / "database" / "models" / "attributes.py"
_CALLS: Final = {"Changes": "update", "Upsert": "upsert"}
_NAME: Final = re.compile(r"[A-Za-z_]\w*")
_HEAD: Final = '''"""The attributes of the models, for type checkers. `make format` writes this file."""

from __future__ import annotations

{imports}

T = TypeVar("T")

Value: TypeAlias = T | SQLColumnExpression[T]
"""A value, or an SQL expression that the server computes the value from."""
'''
_BASIS: Final = {
    ("typing", "TYPE_CHECKING"),
    ("typing", "TypeAlias"),
    ("typing", "TypeVar"),
    ("typing", "TypedDict"),
    ("sqlalchemy", "SQLColumnExpression"),
}


def main() -> int:
    """Write the file."""
    FILE.write_text(attributes())
    sys.stdout.write(f"{FILE.relative_to(ROOT)} has the attributes of the models\n")
    return 0


def attributes() -> str:
    """Return the text of the file, formatted."""
    mappers = package_mappers()
    types = {name: type_ for mapper in mappers for name, type_ in imports_of(mapper)}
    models = {mapper.class_.__name__: mapper.class_.__module__ for mapper in mappers}
    of_types = import_lines(_BASIS | {(module, name) for name, module in types.items() if name not in models})
    of_models = import_lines((models[name], name) for name in types if name in models)
    guarded = "if TYPE_CHECKING:\n" + "".join(f"    {line}\n" for line in of_models) if of_models else ""
    classes = "".join(text for mapper in mappers for text in classes_of(mapper))
    return formatted(_HEAD.format(imports="\n".join([*of_types, guarded])) + classes)


def package_mappers() -> list[Mapper[Any]]:
    """Return the mappers of this package's models. A service, or a test, can have models with the same base."""
    ours = [one for one in Base.registry.mappers if one.class_.__module__.startswith("src.database.models.")]
    return sorted(ours, key=lambda mapper: mapper.class_.__name__)


def classes_of(mapper: Mapper[Any]) -> Iterator[str]:
    """Yield the classes of one model: those of `update` and `upsert`, and that of its constructor."""
    model = mapper.class_
    name, types = model.__name__, {key: f"Value[{type_}]" for key, type_ in types_of(mapper).items()}
    if model is User:
        new = {key: type_ for key, type_ in types_of(mapper).items() if key in NEW_USER}
        yield typed_dict(f"New{name}", "TypedDict", f"The attributes of {name} that `get_or_create` sets.", new)
    base, known = "TypedDict", set[str]()
    for kind, names in settable(mapper).items():
        docstring = f"The attributes of {name} that `{_CALLS[kind]}` sets."
        yield typed_dict(f"{name}{kind}", base, docstring, only(types, names - known))
        base, known = f"{name}{kind}", known | names
    related = {relationship.key: annotation_of(model, relationship.key) for relationship in mapper.relationships}
    rest = only(types, types.keys() - known) | related
    yield typed_dict(f"{name}Attributes", base, f"The attributes of {name} that its constructor sets.", rest)


def settable(mapper: Mapper[Any]) -> dict[str, set[str]]:
    """Return the names that `update` sets, then those of `upsert`, which sets more, by the class that has them."""
    if mapper.class_ is Tenant:
        return {"Changes": set(limits.TENANTS)}
    if (repository := repository_of(mapper.class_)) is None:
        return {}
    known = mapper.column_attrs.keys() - read_only_attributes(repository).keys()
    inserted = known & set(repository.insert_only)
    changes = {"Changes": known - inserted}
    if repository.upsert.__annotations__["return"] != "NoReturn":
        changes["Upsert"] = known | {"id"}
    return changes


def typed_dict(name: str, base: str, docstring: str, types: Mapping[str, str]) -> str:
    """Return the text of a TypedDict."""
    lines = "".join(f"    {key}: {type_}\n" for key, type_ in types.items())
    return f'\n\nclass {name}({base}, total=False):\n    """{docstring}"""\n\n{lines}'


def only(types: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return the types of these attributes, in the order of the model."""
    wanted = set(names)
    return {name: type_ for name, type_ in types.items() if name in wanted}


def types_of(mapper: Mapper[Any]) -> dict[str, str]:
    """Return the types of the attributes that the server does not compute, as the model declares them."""
    columns = {attribute.key: attribute.columns[0] for attribute in mapper.column_attrs}
    return {
        name: annotation_of(mapper.class_, name)
        for name, column in columns.items()
        if isinstance(column, Column) and column.computed is None
    }


def annotation_of(model: type[Any], name: str) -> str:
    """Return the type of an attribute without its `Mapped`."""
    declared = next(found for kind in model.__mro__ if (found := get_annotations(kind).get(name)) is not None)
    return str(declared).removeprefix("Mapped[").removesuffix("]")


def repository_of(model: type[Any]) -> type[Repository[Any]] | None:
    """Return the repository of a model. The registry of tenants has one of its own kind."""
    exported = [getattr(repositories, name) for name in repositories.__all__]
    kinds = [kind for kind in exported if isinstance(kind, type) and issubclass(kind, Repository)]
    return next((kind for kind in kinds if getattr(kind, "model", None) is model), None)


def imports_of(mapper: Mapper[Any]) -> Iterator[tuple[str, str]]:
    """Yield the names in the annotations of a model, each with the module that defines the name."""
    model = mapper.class_
    texts = [*types_of(mapper).values(), *(annotation_of(model, one.key) for one in mapper.relationships)]
    models = {other.class_.__name__: other.class_ for other in package_mappers()}
    known = ChainMap(models, *(vars(sys.modules[kind.__module__]) for kind in model.__mro__))
    for name in {name for text in texts for name in _NAME.findall(text)} - vars(builtins).keys():
        declared = known[name]
        module = declared.__module__ if getattr(declared, "__name__", None) == name else None
        yield name, module or (limits.__name__ if name in vars(limits) else model.__module__)


def import_lines(names: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each module."""
    by_module: defaultdict[str, list[str]] = defaultdict(list)
    for module, name in sorted(names):
        by_module[module].append(name)
    return [f"from {module} import {', '.join(imported)}" for module, imported in by_module.items()]


def formatted(text: str) -> str:
    """Return the text as `make format` leaves it."""
    for command in (["check", "--quiet", "--fix", "--select", "I"], ["format", "--quiet"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(FILE), "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout  # noqa: S603 - our own command
    return text


if __name__ == "__main__":
    sys.exit(main())
