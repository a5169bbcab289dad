"""The doctor's checks of this machine: the settings, packages that hide src.database, and localhost on Windows."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from src.config import Settings
from src.config.files import environment_files, faults_of_process
from src.database.check_result import CheckResult, ok, skipped, warning

EXTEND_PATH: Final = '__path__ = __import__("pkgutil").extend_path(__path__, __name__)'


def check_settings(settings: Settings) -> CheckResult:
    """Report ENVIRONMENT and the files that were read; warn of each variable that looks like a misspelled setting."""
    files = ", ".join(map(str, environment_files(os.environ)))
    found = f"ENVIRONMENT={settings.ENVIRONMENT}, {f'read from {files} and' if files else 'from'} the environment"
    misspelled = faults_of_process(os.environ, Settings.model_fields)
    if not misspelled:
        return ok(found)
    return warning(
        "\n".join([found, *misspelled]), "correct the name, or unset the variable; .env.example lists all settings"
    )


def check_namespace(paths: Iterable[str]) -> CheckResult:
    """Check that no `src` folder on the search path is a regular package.

    `src` is a namespace package (PEP 420), so that a service with a `src` folder of its own finds `src.database` too.
    An `src/__init__.py` ends the search: `src.database` cannot be imported, and only `thea_database` has the objects.

    Args:
        paths: The folders that Python searches (`sys.path`); the empty path is the working folder.
    """
    folders = dict.fromkeys(Path(path or ".").absolute() for path in ["", *paths])
    texts = {init: _read(init) for init in (folder / "src" / "__init__.py" for folder in folders)}
    inits = {init: text for init, text in texts.items() if text is not None}
    hiding = [str(init) for init, text in inits.items() if "extend_path" not in text]
    if hiding:
        return warning(
            f"{', '.join(hiding)} makes src a regular package, so that src.database cannot be imported from there",
            f"import thea_database in its place, or add this line to the file: {EXTEND_PATH}",
        )
    return ok(f"{', '.join(map(str, inits))} extends its path" if inits else "no src/__init__.py hides src.database")


def check_localhost(hosts: Sequence[str], *, platform: str = sys.platform) -> CheckResult:
    """Warn of `localhost` on Windows: it is ::1 first, where a server that listens on 127.0.0.1 does not answer."""
    if platform != "win32":
        return skipped("matters only on Windows")
    if "localhost" not in hosts:
        return ok("no host is localhost")
    return warning(
        "on Windows localhost resolves to ::1 first: connecting is slow, or fails with WinError 64",
        "write 127.0.0.1 instead of localhost",
    )


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
