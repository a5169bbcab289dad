"""Typos in the names of attributes, and wrong types of values, are errors in mypy and in pyright."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TYPOS = ROOT / "tests" / "typing" / "typos.py"
IGNORE = re.compile(r"  # type: ignore\[[\w-]+\]$", re.MULTILINE)


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    """A copy of the file of typos, in which nothing is ignored."""
    (tmp_path / "probe.py").write_text(IGNORE.sub("", TYPOS.read_text()))
    return tmp_path / "probe.py"


@pytest.fixture(scope="module")
def expected() -> set[int]:
    """The lines of the typos."""
    lines = enumerate(TYPOS.read_text().splitlines(), start=1)
    return {number for number, line in lines if IGNORE.search(line)}


def run(*command: str | Path, folder: Path) -> str:
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    ).stdout


def test_mypy_reports_each_typo_and_nothing_else(probe: Path, expected: set[int]) -> None:
    flags = ("--strict", "--namespace-packages", "--explicit-package-bases", "--no-error-summary")
    cache = ROOT / ".cache" / "mypy-typos"

    output = run("mypy", *flags, "--cache-dir", cache, probe.name, folder=probe.parent)

    assert len(expected) >= 12
    assert {int(number) for number in re.findall(r"^probe\.py:(\d+): error", output, re.MULTILINE)} == expected, output


def test_pyright_reports_each_typo_and_nothing_else(probe: Path, expected: set[int]) -> None:
    settings = {"typeCheckingMode": "standard", "extraPaths": [str(ROOT)], "include": [probe.name]}
    (probe.parent / "pyrightconfig.json").write_text(json.dumps(settings))

    output = run("basedpyright", "--outputjson", "--pythonpath", sys.executable, folder=probe.parent)

    found = [one for one in json.loads(output)["generalDiagnostics"] if one["severity"] == "error"]
    assert {one["range"]["start"]["line"] + 1 for one in found} == expected, found
