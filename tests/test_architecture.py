"""Rules of the architecture that no linter checks: settings, process state, exports, DML, private names, file sizes."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
import textwrap
import warnings
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy.pool import NullPool

from src import config, database

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "src").rglob("*.py"), ROOT / "migrations" / "env.py"])
MAY_READ_SETTINGS = {
    "migrations/env.py",
    "src/config/__init__.py",
    "src/config/profiles.py",
    "src/config/settings.py",
    "src/database/cli/app.py",
    "src/database/cli/migrations.py",
    "src/database/cli/drift.py",
    "src/database/cli/service.py",
    "src/database/cli/seed/commands.py",
    "src/database/cli/tenant/registry.py",
    "src/database/health/gauges.py",
    "src/database/health/readiness.py",
    "src/database/session/connect_arguments.py",
    "src/database/session/engines.py",
}

MAY_KNOW_SETTINGS = {"cli", "doctor", "drift", "health", "migrate", "observability", "operations", "session", "testing"}
"""Packages of `src/database` whose functions take `Settings`; the others take a Target and options.

Below `session`, only `observability.watch` does: services call it for engines of their own.
"""
INTERNALS = {"src/database/connect/asyncpg_internals.py", "src/database/engine/sqlalchemy_internals.py"}
"""The files that use private names of SQLAlchemy and asyncpg."""
PUBLIC = {
    "os._exit",  # documented under this name
    "sys._getframe",  # the same
    "session._tenant_id",  # our own session's: an observer must not make the session take a tenant
}
CACHES = {"cache", "lru_cache"}
CHANGING = CACHES | {
    *("ContextVar", "Event", "LRUCache", "Lock", "RLock", "Semaphore", "defaultdict", "deque", "local"),
    *("WeakKeyDictionary", "WeakSet", "WeakValueDictionary"),
}
MUTATORS = {"add", "append", "clear", "extend", "insert", "pop", "popitem", "remove", "setdefault", "update"}
OF_NAMED_TUPLES = {"_asdict", "_fields", "_make", "_replace"}
GENERIC = {"repository.py", "upsert.py"}
"""The generic base of repositories, in `repositories/base`: add, update, upsert and delete of any row."""
DML = re.compile(
    r"\b(insert\s+into|delete\s+from|merge\s+into|truncate\s+\w|update\s+(only\s+)?[\w.\"]+(\s+(as\s+)?\w+)?\s+set)\b",
    re.IGNORECASE,
)


def test_src_is_a_namespace() -> None:
    assert not (ROOT / "src" / "__init__.py").exists()


def test_only_listed_modules_read_the_settings() -> None:
    # Excludes the method of this name of the driver's connections.
    ours = re.compile(r"(?<![\w.])(?:config\.)?get_settings\b(?!\(self)")
    readers = {str(path.relative_to(ROOT)) for path in SOURCES if ours.search(path.read_text())}

    assert readers == MAY_READ_SETTINGS


def test_code_below_the_sessions_knows_targets_and_options() -> None:
    """`session/` resolves the settings; an import for annotations counts too."""
    knowing = {
        path.relative_to(ROOT / "src" / "database").parts[0]
        for path in (ROOT / "src" / "database").rglob("*.py")
        if any("Settings" in {name.name for name in node.names} for node in imports_of(path))
    }

    assert knowing == MAY_KNOW_SETTINGS


def imports_of(path: Path) -> list[ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]


def test_process_state_is_listed() -> None:
    """A variable of a module that changes is state of the process; docs/process-state.md lists all of it."""
    rows = re.findall(r"^\| `([\w.]+)` \|", (ROOT / "docs" / "process-state.md").read_text(), re.MULTILINE)
    found = {f"{module_name(path)}.{name}" for path in SOURCES for name in state_in(path.read_text())}

    assert found == set(rows)


@pytest.mark.parametrize(
    "source",
    [
        "x = {}",
        "x: Final[dict[str, int]] = {}",
        "x: Final[WeakKeyDictionary[A, B]] = WeakKeyDictionary()",
        "x = ContextVar('x')",
        "x = cache(Server)",
        "x = threading.Lock()",
        "x = {1: 2}\ndef f(): x[3] = 4",
        "x = [1]\ndef f(): x.append(2)",
        "x = 1\ndef f():\n    global x\n    x += 1",
        "@cache\ndef x(): return get_settings().DATABASE_URL",
        "@lru_cache(maxsize=1)\ndef x(): return Settings()",
    ],
)
def test_process_state_is_noticed(source: str) -> None:
    assert list(state_in(source)) == ["x"]


@pytest.mark.parametrize(
    "source",
    [
        "x = {1: 2}",
        "x = frozenset()",
        "x = [*y]",
        "@cache\ndef x(a): return a + 1",
        "def f():\n    x = {}\n    x[1] = 2",
    ],
)
def test_a_constant_is_no_state(source: str) -> None:
    assert not list(state_in(source))


def state_in(source: str) -> Iterator[str]:
    """Yield the module-level variables that change, and the cached functions that read the settings."""
    tree = ast.parse(source)
    changed = set(changed_names(tree))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and CACHES & {called(each) for each in node.decorator_list}:
            if {"Settings", "get_settings"} & {called(each) for each in ast.walk(node) if isinstance(each, ast.Call)}:
                yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
            if target in changed or is_mutable(node.value):
                yield target


def is_mutable(value: ast.expr) -> bool:
    """Return True for an empty container, and for objects that exist to change."""
    if isinstance(value, ast.Dict):
        return not value.keys
    if isinstance(value, ast.List | ast.Set):
        return not value.elts
    if not isinstance(value, ast.Call):
        return False
    return called(value) in CHANGING or (called(value) in {"dict", "list", "set"} and not value.args)


def changed_names(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a `global` statement, an item assignment or a mutating method changes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield from node.names
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            yield ast.unparse(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
            yield ast.unparse(node.func.value)


def called(node: ast.expr) -> str:
    """Return the last name of a called function or of a decorator."""
    function = node.func if isinstance(node, ast.Call) else node
    return ast.unparse(function).rpartition(".")[2].partition("[")[0]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_no_file_is_over_600_lines() -> None:
    tests = (ROOT / "tests").rglob("*.py")
    long = {str(path.relative_to(ROOT)) for path in [*SOURCES, *tests] if len(path.read_text().splitlines()) > 600}

    assert long == set()


def test_every_module_has_a_docstring() -> None:
    silent = [str(path.relative_to(ROOT)) for path in SOURCES if not path.read_text().startswith('"""')]

    assert silent == []


def test_no_module_is_a_collection_of_helpers() -> None:
    assert not {path.stem for path in SOURCES} & {"utils", "helpers", "common", "manager"}


def test_the_package_does_not_import_dateutil() -> None:
    """Only the tests have dateutil, which `recurring-ical-events` installs."""
    library = re.compile(r"^\s*(from|import) dateutil\b", re.MULTILINE)

    assert [path.name for path in SOURCES if library.search(path.read_text())] == []


def test_repositories_and_the_store_contain_no_dml() -> None:
    """Each write is implemented once, in `statements/`; repositories and the store call it."""
    database = ROOT / "src" / "database"
    paths = [*(database / "repositories").rglob("*.py"), *(database / "store").rglob("*.py")]
    found = {
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in paths
        if path.name not in GENERIC or path.parent.name != "base"
        for line, what in dml_in(path.read_text())
    }

    assert found == set()


@pytest.mark.parametrize(
    "source",
    [
        "from sqlalchemy import select, update",
        "from sqlalchemy.dialects.postgresql import insert as pg_insert",
        "from sqlalchemy.sql.expression import Delete",
        "import sqlalchemy as sa\nsa.delete(User)",
        "import sqlalchemy.dialects.postgresql as pg\npg.insert(User)",
        "User.__table__.update().values(name='-')",
        "text('DELETE FROM users')",
        "text(f'INSERT INTO {table} VALUES (1)')",
        "text(f'UPDATE {table} AS t SET name = 1')",
        "connection.copy_records_to_table('users', records=[])",
        "session.execute(base.update(User))",
    ],
)
def test_dml_is_noticed(source: str) -> None:
    assert list(dml_in(source))


@pytest.mark.parametrize(
    "source",
    [
        "known = set()\nknown.update([1])",
        "async def update(self):\n    await super().update(1)\n    await EventRepository(session).delete(2)",
        '"""Update a row; DELETE FROM is not sent here."""',
        "raise ValueError('use `update` to set it')",
        "statement.with_for_update()",
    ],
)
def test_text_that_resembles_dml_is_accepted(source: str) -> None:
    assert not list(dml_in(source))


def dml_in(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each expression of a module that builds or sends DML."""
    tree = ast.parse(source)
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    modules = {"base", "repository", "upsert"} | {name.asname or name.name for node in imports for name in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, name) for name in imported_dml(node))
        elif isinstance(node, ast.Attribute) and is_dml(node, modules):
            yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in documentation and DML.search(sql(node)):
            yield node.lineno, sql(node)


def imported_dml(node: ast.ImportFrom) -> list[str]:
    if not (node.module or "").startswith(("sqlalchemy", "src.database.repositories")):
        return []
    return [name.name for name in node.names if name.name.lower() in {"insert", "update", "delete", "merge"}]


def is_dml(node: ast.Attribute, modules: set[str]) -> bool:
    if node.attr in {"copy_records_to_table", "copy_to_table"}:
        return True
    owner = ast.unparse(node.value)
    return node.attr in {"insert", "update", "delete"} and (owner in modules or owner.endswith("__table__"))


def sql(node: ast.Constant | ast.JoinedStr) -> str:
    """Return the text of a constant or an f-string, with `value` for each of its expressions."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "".join(sql(part) if isinstance(part, ast.Constant) else "value" for part in node.values)


@pytest.mark.slow
def test_private_names_of_sqlalchemy_and_asyncpg_are_in_two_files() -> None:
    """Each private name has a canary test; other files use public names or functions of these two."""
    modules = {str(path.relative_to(ROOT)): path for path in SOURCES}
    found = {
        f"{name}: {used}"
        for name, path in modules.items()
        if name not in INTERNALS
        for used in private_names_in(path.read_text())
    }
    found |= {f"{kind.__name__}: {used}" for kind in our_classes() for used in inherited_private_names(kind)}

    assert found == set()


@pytest.mark.parametrize(
    "source",
    ["connection._transport", "from sqlalchemy.pool.base import _ConnectionRecord", "self.sync_session._new", "f()._x"],
)
def test_a_private_name_is_noticed(source: str) -> None:
    assert list(private_names_in(source))


@pytest.mark.parametrize(
    "source", ["self._x", "cls._x", "super()._x", "class A: ...\nA._x", "row._replace(x=1)", "os._exit(1)"]
)
def test_a_name_that_resembles_a_private_one_is_accepted(source: str) -> None:
    assert not list(private_names_in(source))


def test_an_inherited_private_name_is_noticed() -> None:
    class Overriding(NullPool):
        def _do_get(self) -> Any: ...

    class Using(NullPool):
        def use(self) -> Any:
            return self._creator

    class Own(NullPool):
        def _own(self) -> Any:
            return self._own()

    assert [list(inherited_private_names(kind)) for kind in (Overriding, Using, Own)] == [["_do_get"], ["_creator"], []]


def private_names_in(source: str) -> Iterator[str]:
    """Yield the private names that a module imports, or uses of other objects than its own classes' instances."""
    tree = ast.parse(source)
    own = {"self", "cls", "super()"} | {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (name.name for name in node.names if is_private(name.name))
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and ast.unparse(node.value) not in own:
            name = node.attr if node.attr in OF_NAMED_TUPLES else ast.unparse(node)
            if name not in OF_NAMED_TUPLES | PUBLIC:
                yield name


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def our_classes(*packages: ModuleType) -> set[type]:
    """Return the classes of these packages; by default of all packages whose libraries are installed."""
    modules = [
        imported(found.name)
        for package in packages or (config, database)
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    return {
        kind
        for module in filter(None, modules)
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__ and file_of(module) not in INTERNALS
    }


def imported(name: str) -> ModuleType | None:
    """Return a module; None for an integration whose framework `make test-frameworks` alone installs."""
    try:
        with warnings.catch_warnings():
            # Where Advanced Alchemy is installed, for `make bench`, Litestar imports it, and that import warns.
            warnings.simplefilter("ignore")
            return import_module(name)
    except ModuleNotFoundError as error:
        if not name.startswith("src.database.integrations.") or str(error.name).startswith("src"):
            raise
        return None


def file_of(module: ModuleType) -> str:
    return str(Path(str(module.__file__)).relative_to(ROOT))


def inherited_private_names(kind: type) -> Iterator[str]:
    """Yield the private names of a class's foreign bases that the class uses or overrides."""
    foreign = [base for base in kind.__mro__ if base.__module__.partition(".")[0] in {"sqlalchemy", "asyncpg"}]
    if not foreign:
        return
    theirs = {name for base in foreign for name in private_names_of(base)}
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(kind)))):
        name = getattr(node, "attr", getattr(node, "name", getattr(node, "id", None)))
        if isinstance(name, str) and is_private(name) and name in theirs:
            yield name


@cache
def private_names_of(base: type) -> set[str]:
    names = {name for name in vars(base) if is_private(name)}
    try:
        return names | set(re.findall(r"\bself\.(_\w+)", inspect.getsource(base)))
    except OSError:  # it is compiled
        return names


def test_packages_import_only_what_other_packages_export() -> None:
    """A package exports the `__all__` of its `__init__`; its modules are internal.

    A command imports one module of `doctor/`, which is a part of the commands: `thea-db wait` must not import Alembic.
    """
    packages = ROOT / "src" / "database"
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in packages.rglob("*.py")
        for name in not_exported(path.read_text(), path.relative_to(packages).parts[0])
    }

    assert found == set()


@pytest.mark.parametrize(
    "source",
    [
        "from src.database.statements.messages import NewMessage",
        "from src.database.statements import lock_rows",
        "from src.database.statements import rows",
        "import src.database.statements.messages",
        "from src.database.integrations import telegram",
    ],
)
def test_an_import_of_a_name_that_is_not_exported_is_noticed(source: str) -> None:
    assert list(not_exported(source, "store"))


@pytest.mark.parametrize(
    "source",
    [
        "from src.database.statements import NewMessage, windows",
        "from src.database.store.rows import columns_of",
        "from src.database.integrations.telegram import import_messages",
        "from src.database.errors import NotFoundError",
        "from src.database import models",
    ],
)
def test_an_import_of_an_exported_name_is_accepted(source: str) -> None:
    assert not list(not_exported(source, "store"))


def not_exported(source: str, package: str) -> Iterator[str]:
    """Yield the names that a module of a package imports from another package that does not export them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            imported = [(node.module or "", name.name) for name in node.names]
        elif isinstance(node, ast.Import):
            imported = [(name.name, "") for name in node.names]
        else:
            continue
        for module, name in imported:
            owner = module.removeprefix("src.database.").partition(".")[0]
            is_package = module.startswith("src.database.") and (ROOT / "src" / "database" / owner).is_dir()
            is_own = owner == package or (package, owner) == ("cli", "doctor")
            if is_package and not is_own and name not in exports_of(module):
                yield f"{module}.{name}"


@cache
def exports_of(module: str) -> frozenset[str]:
    """Return the names in the `__all__` of a package; a module that is no package exports none."""
    path = ROOT.joinpath(*module.split("."), "__init__.py")
    statements = ast.parse(path.read_text()).body if path.exists() else []
    lists = [node.value for node in statements if isinstance(node, ast.Assign | ast.AugAssign) and is_all(node)]
    return frozenset(name for names in lists for name in ast.literal_eval(names))


def is_all(node: ast.Assign | ast.AugAssign) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [ast.unparse(target) for target in targets] == ["__all__"]
