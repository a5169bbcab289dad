"""The names of `thea_database`: the objects of `src.database`, also beside a regular package `src` of a service."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import thea_database
from scripts.aliases import ROOT, aliases, written
from src import database
from tests.database.test_imports import run

HIDDEN = """
import thea_database
try:
    import src.database
except ModuleNotFoundError as error:
    print(error)
from thea_database import get_db
import src.agents, src.database
assert src.database.get_db is get_db
assert src.__path__ == [{path!r}], src.__path__
"""


def test_the_files_are_those_of_the_packages() -> None:
    expected = aliases()

    assert {path: path.read_text() for path in written()} == expected, "run `make format`"


def assert_same_objects(path: Path) -> None:
    alias = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    package = import_module(alias.replace("thea_database", "src.database").replace("database.config", "config"))
    for name in getattr(package, "__all__", ()):
        assert getattr(import_module(alias), name) is getattr(package, name)


def test_the_objects_are_those_of_the_packages() -> None:
    for path in aliases():
        if path.parent.name != "integrations":  # tests/frameworks/test_names.py has the libraries of these
            assert_same_objects(path)
    for name in database.__all__:
        assert getattr(thea_database, name) is getattr(database, name)

    assert dir(thea_database) == sorted(database.__all__)
    with pytest.raises(AttributeError, match="'thea_database' has no attribute 'nothing'"):
        _ = thea_database.nothing


def test_importing_it_imports_nothing_of_src() -> None:
    run("import thea_database, sys; assert not [name for name in sys.modules if name.partition('.')[0] == 'src']")


def service_with(folder: Path, initialization: str) -> Path:
    (folder / "src" / "agents").mkdir(parents=True)
    (folder / "src" / "agents" / "__init__.py").touch()
    (folder / "src" / "__init__.py").write_text(initialization)
    return folder


def run_in(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), str(ROOT)])
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_regular_package_src_hides_src_database_until_thea_database_is_used(tmp_path: Path) -> None:
    folder = service_with(tmp_path, "")

    done = run_in(folder, HIDDEN.format(path=str(folder / "src")))

    assert done.returncode == 0, done.stderr
    assert f"src.database is hidden by the regular package {folder / 'src' / '__init__.py'}" in done.stdout
    assert "thea_database" in done.stdout
    assert "extend_path" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("initialization", ["from thea_database import get_db", "import thea_database.models"])
@pytest.mark.parametrize("first", ["src", "thea_database.errors"])
def test_the_order_of_imports_does_not_matter(tmp_path: Path, initialization: str, first: str) -> None:
    folder = service_with(tmp_path, initialization)
    code = f"import {first}, src.agents, src.database, src.config, thea_database.models\nprint(src.__file__)"

    done = run_in(folder, code)

    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder / 'src' / '__init__.py'}\n"


@pytest.mark.slow
def test_the_path_extended_by_the_service_is_enough(tmp_path: Path) -> None:
    extended = "from pkgutil import extend_path\n__path__ = extend_path(__path__, __name__)"

    done = run_in(service_with(tmp_path, extended), "import src.database.models, thea_database.models")

    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reported"),
    [
        ("src/config.py", "src.config must be the package of thea-database"),
        ("src/database/__init__.py", "src.database must be the package of thea-database"),
        ("src.py", "src must be a package"),
    ],
)
def test_a_module_of_the_service_with_our_name_is_reported(tmp_path: Path, name: str, reported: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    if name.startswith("src/"):
        (tmp_path / "src" / "__init__.py").touch()

    done = run_in(tmp_path, "import thea_database.errors")

    assert done.returncode == 1
    assert reported in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_the_command_finds_the_modules_of_a_service_whose_src_is_a_regular_package(tmp_path: Path) -> None:
    folder = service_with(tmp_path, "")
    (folder / "src" / "models.py").touch()
    # A console script has its own folder in the path, and not the working folder.
    code = (
        "import os, sys; sys.path[:] = [path for path in sys.path if path not in ('', os.getcwd())];"
        " sys.argv[1:] = ['--version']\n"
        "from thea_database.command import main\n"
        "try: main()\n"
        "except SystemExit: import src.models; print(src.models.__file__)\n"
    )

    done = run_in(folder, code)

    assert str(folder / "src" / "models.py") in done.stdout, done.stdout
