"""The data layer under a name that no package of a service can hide: `from thea_database import get_db`.

`thea_database.models` offers the objects of `src.database.models`, and so for the other packages: the same objects, not
copies. `thea_database` also works if the service's own `src` is a regular package (with an `__init__.py`), which hides
`src.database`: from its first use on, the package is found there too. Importing `thea_database` alone opens nothing,
reads nothing and imports nothing of `src`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from src.database import *

_PACKAGES: Final = ("src.config", "src.database")
_REMEDY: Final = (
    "import thea_database in its place (`from thea_database import get_db`), or add to that file:"
    " `from pkgutil import extend_path; __path__ = extend_path(__path__, __name__)`"
)


class _Finder(MetaPathFinder):
    """Finds `src.database` and `src.config` where the service's `src` hides them; Python asks this finder last.

    Attributes:
        folder: The folder of the packages; None before the first use of `thea_database`. Until then the finder only
            explains why they are not found: a service that relies on `src.database` must not depend on whether
            another module, or pytest, has imported `thea_database`.
    """

    folder: str | None = None

    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _PACKAGES:
            return None
        if self.folder is not None:
            return PathFinder.find_spec(name, [self.folder])
        file = getattr(sys.modules.get("src"), "__file__", None)
        if name != "src.database" or file is None:
            return None
        raise ModuleNotFoundError(f"src.database is hidden by the regular package {file}: {_REMEDY}", name=name)


_finder: Final = _Finder()
sys.meta_path.append(_finder)


def __getattr__(name: str) -> Any:
    if not name.startswith("_") or name == "__all__":
        import_module("thea_database._location")
        database = import_module("src.database")
        if name == "__all__" or name in database.__all__:
            return getattr(database, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__getattr__("__all__"))
