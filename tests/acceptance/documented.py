"""The Python code of documents and docstrings, and the running of this code."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
_BLOCK: Final = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_EXAMPLE: Final = re.compile(r"^Example:\n((?: {4}.*\n?|\n)+)", re.MULTILINE)


def blocks(text: str) -> list[str]:
    """Return the Python blocks of a Markdown text."""
    return _BLOCK.findall(text)


def examples() -> dict[str, str]:
    """Return the code of each `Example:` in a docstring of `src/database`, by the name of what it documents.

    A method's name has its class in front: `Store.turn`.
    """
    return {
        name: dedent(dedent(found[1]).removeprefix("::\n"))
        for path in sorted((ROOT / "src" / "database").rglob("*.py"))
        for name, docstring in _docstrings(ast.parse(path.read_text()))
        if (found := _EXAMPLE.search(docstring))
    }


def _docstrings(scope: ast.AST, prefix: str = "") -> Iterator[tuple[str, str]]:
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, ast.get_docstring(node) or ""
            yield from _docstrings(node, f"{prefix}{node.name}.")


async def run(code: str, source: str, names: dict[str, Any]) -> None:
    """Run code that may await outside of a function; the names that it defines are added to `names`."""
    running = eval(compile(code, source, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)  # noqa: S307 - our own
    if inspect.isawaitable(running):
        await running
