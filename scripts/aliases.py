"""Write the modules of `thea_database`: one for each package of `src.database`, with the same objects.

    python -m scripts.aliases    # or: make format

They are files because type checkers read files. A test compares them with the packages.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from pkgutil import iter_modules
from typing import Final

from src import database

ROOT: Final = Path(__file__).parents[1]
ALIASES: Final = ROOT / "thea_database"
BY_HAND: Final = {"__init__.py", "_location.py", "command.py", "pytest_plugin.py"}
_MODULE: Final = '''"""The names of `{name}`; `make format` writes this file."""

import thea_database._location
from {name} import *
'''


def main() -> int:
    """Write the modules, and remove those of packages that no longer exist."""
    expected = aliases()
    for path in set(written()) - expected.keys():
        path.unlink()
    for path, text in expected.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    sys.stdout.write(f"{ALIASES.name} has {len(expected)} modules\n")
    return 0


def written() -> list[Path]:
    """Return the files of the modules that were written."""
    return [path for path in ALIASES.rglob("*.py") if str(path.relative_to(ALIASES)) not in BY_HAND]


def aliases() -> dict[Path, str]:
    """Return the text of each module by its file."""
    names = {"config": "src.config", **dict(_modules(ROOT / "src" / "database"))}
    return {ALIASES / f"{alias}.py": _MODULE.format(name=name) for alias, name in names.items()}


def _modules(path: Path, folder: str = "") -> Iterator[tuple[str, str]]:
    """Yield the alias and the name of each public module of a package.

    A package inside the package is one module with the names that it exports; if it exports none, as `integrations`,
    its modules that do are public.
    """
    for module in iter_modules([str(path)]):
        if module.name.startswith("_") or (not folder and module.name in database.__all__):
            continue  # `thea_database.engine` is the engine of get_db
        source = path / module.name
        name, alias = ".".join(source.relative_to(ROOT).parts), f"{folder}{module.name}"
        file = source / "__init__.py" if module.ispkg else source.with_suffix(".py")
        if "__all__ =" in file.read_text() or (not folder and not module.ispkg):
            yield alias, name
        elif module.ispkg and (inside := list(_modules(source, f"{alias}/"))):
            yield from [(f"{alias}/__init__", name), *inside]


if __name__ == "__main__":
    sys.exit(main())
