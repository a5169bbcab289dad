"""The doctor's checks of this machine: what hides our package, and the name that leads elsewhere on Windows."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from src.database.cli.diagnose.finding import Finding, failed, ok, skipped, warning

__all__ = ["EXTEND_PATH", "check_localhost", "check_namespace"]

EXTEND_PATH: Final = '__path__ = __import__("pkgutil").extend_path(__path__, __name__)'


def check_namespace(paths: Iterable[str]) -> Finding:
    """Look for a `src` folder that is a package of its own: whatever starts there does not find `src.database`.

    Args:
        paths: The folders that Python looks into; empty is the working folder.
    """
    folders = dict.fromkeys(Path(path or ".").absolute() for path in ["", *paths])
    texts = {init: _read(init) for init in (folder / "src" / "__init__.py" for folder in folders)}
    inits = {init: text for init, text in texts.items() if text is not None}
    hiding = [str(init) for init, text in inits.items() if "extend_path" not in text]
    if hiding:
        return failed(
            f"{', '.join(hiding)} hides src.database from what starts there",
            f"write into the file: {EXTEND_PATH}",
        )
    return ok(f"{', '.join(map(str, inits))} lets src.database through" if inits else "no src/__init__.py hides us")


def check_localhost(hosts: Sequence[str], *, platform: str = sys.platform) -> Finding:
    """Look for `localhost` on Windows: it is tried as ::1 first, where a server on 127.0.0.1 alone does not listen."""
    if platform != "win32":
        return skipped("matters on Windows alone")
    if "localhost" not in hosts:
        return ok("no host is called localhost")
    return warning(
        "on Windows localhost is ::1 first: connections are slow, or break with WinError 64",
        "write 127.0.0.1 in its place",
    )


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
