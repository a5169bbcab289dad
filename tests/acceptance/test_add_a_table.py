"""The worked example of CONTRIBUTING.md, "Add a table", carried out on a copy of the tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent, indent

import pytest

from src.database.embedded import SUPERUSER
from tests.conftest import url_of

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".*cache", ".cache", ".git", ".venv", "__pycache__", "build", "dist")
BLOCK = re.compile(r"^ +```(python|console)\n(.*?)^ +```\n", re.MULTILINE | re.DOTALL)
EXPORTS = re.compile(r"^__all__ \+= \[(.*)\]\n", re.MULTILINE)
MOST_FILES = 11
"""Eight by hand, and three that commands write."""
TESTS_OF_ANY_TABLE = [
    "tests/database/cli/test_diagram.py",
    "tests/database/schemas/test_limits.py",
    "tests/database/test_declarations.py",
    "tests/database/statements/test_personal_data_coverage.py::test_every_table_that_holds_user_data_is_exported_and_erased",
    "tests/database/statements/test_retention.py::test_a_dry_run_counts_everything_and_changes_nothing",
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT, tmp_path / "tree", ignore=LEFT_OUT))


@pytest.mark.slow
def test_the_example_passes_the_checks_and_its_own_tests(tree: Path, empty_database: str) -> None:
    before = contents(tree)

    for language, block in blocks():
        if language == "python":
            write(tree, block)
            continue
        for command in block.splitlines():
            program, _, arguments = command.partition(" ")
            if program == "make":
                format_(tree)
            else:
                url = url_of("postgres", SUPERUSER).render_as_string() if " check" in command else empty_database
                run(tree, "-c", "from src.database.cli import main; main()", *words(arguments), DATABASE_URL=url)

    changed = {name for name, text in contents(tree).items() if before.get(name) != text}
    assert len(changed) <= MOST_FILES, changed
    run(tree, "-m", "ruff", "check", ".")
    run(tree, "-m", "ruff", "format", "--check", ".")
    run(tree, "-m", "mypy", *(name for name in changed if name.endswith(".py")))
    run(tree, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()")
    run(
        tree,
        "-c",
        "from src.database.cli import main; main()",
        "check",
        DATABASE_URL=url_of("postgres", SUPERUSER).render_as_string(),
    )
    run(tree, "-m", "pytest", "-q", "tests/database/repositories/test_labels.py", *TESTS_OF_ANY_TABLE)
    run(tree, "-m", "pytest", "-q", "tests/acceptance/test_tenants.py", "-k", "LabelRepository or every_public_method")


def blocks() -> list[tuple[str, str]]:
    """Return the code blocks of the section, with their languages."""
    section = (ROOT / "CONTRIBUTING.md").read_text().split("\n## Add a table\n")[1].split("\n## ")[0]
    return [(language, dedent(block)) for language, block in BLOCK.findall(section)]


def write(tree: Path, block: str) -> None:
    """Write a block to the file that its first line names: create the file, or add the block to it."""
    head, _, code = block.partition("\n")
    name, is_migration, _ = head.removeprefix("# ").partition(", in upgrade(), after op.create_table")
    if is_migration:
        add_to_upgrade(next(tree.glob(name)), code)
    elif (file := tree / name).exists():
        add_to_module(file, code)
    else:
        file.write_text(code)


def add_to_module(file: Path, code: str) -> None:
    """Add a block: its imports after those of the module, its exports to `__all__`, and the rest to the end."""
    text = file.read_text()
    imports, exported, rest = EXPORTS.split(code)
    start, end = text.split("\n__all__ = [")
    file.write_text(f"{start.rstrip()}\n{imports}\n__all__ = [{exported}, {end.rstrip()}\n{rest}")


def add_to_upgrade(file: Path, code: str) -> None:
    """Add lines to a generated migration after its `op.create_table(...)`."""
    text = file.read_text()
    place = text.index("\n    )\n", text.index("op.create_table(")) + len("\n    )\n")
    file.write_text(text[:place] + indent(code, "    ") + text[place:])


def format_(tree: Path) -> None:
    """Format the tree as `make format` does."""
    run(tree, "-m", "scripts.attributes")
    run(tree, "-m", "ruff", "format", "--quiet", ".")
    run(tree, "-m", "ruff", "check", "--fix", "--exit-zero", "--quiet", ".")
    run(tree, "-m", "ruff", "format", "--quiet", ".")


def words(arguments: str) -> list[str]:
    return [word.strip('"') for word in arguments.split()]


def contents(tree: Path) -> dict[str, str]:
    files = (path for path in tree.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {
        str(path.relative_to(tree)): path.read_text(errors="replace") for path in files if "_cache" not in str(path)
    }


def run(tree: Path, *arguments: str | Path, **variables: str) -> None:
    unset = ("DATABASE_", "DB_", "ENVIRONMENT", "THEA_TEST_SERVER", "PYTEST_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=tree,
        env={**inherited, "PYTHONPATH": str(tree), "ENVIRONMENT": "test", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}{done.stderr}"
