"""The doctor's checks of this machine: its settings, a package that hides ours, and localhost on Windows."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from src.config import Settings
from src.config.files import environment_files, faults_of_process
from src.config.settings import set_values
from src.database.check_result import CheckResult, failed, ok, skipped, warning
from src.database.errors import ConfigurationError
from src.database.target import hosts_of, parse_url

EXTEND_PATH: Final = '__path__ = __import__("pkgutil").extend_path(__path__, __name__)'


def check_settings(settings: Settings) -> CheckResult:
    """Report the environment and its files, and each variable that looks like a misspelled setting."""
    files = ", ".join(map(str, environment_files(os.environ)))
    found = f"ENVIRONMENT={settings.ENVIRONMENT}, {f'read from {files} and' if files else 'from'} the environment"
    misspelled = faults_of_process(os.environ, Settings.model_fields)
    if not misspelled:
        return ok(found)
    return warning(
        "\n".join([found, *misspelled]), "correct the name, or unset the variable; .env.example lists the settings"
    )


def check_namespace(paths: Iterable[str]) -> CheckResult:
    """Check that no `src` folder is a regular package: what starts there would not find `src.database`.

    Args:
        paths: The folders in which Python searches; the empty path is the working folder.
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


def check_localhost(hosts: Sequence[str], *, platform: str = sys.platform) -> CheckResult:
    """Check that no host is `localhost` on Windows: ::1 is tried first, where a server on 127.0.0.1 does not listen."""
    if platform != "win32":
        return skipped("matters on Windows alone")
    if "localhost" not in hosts:
        return ok("no host is called localhost")
    return warning(
        "on Windows localhost is ::1 first: connections are slow, or break with WinError 64",
        "write 127.0.0.1 in its place",
    )


def named_hosts() -> list[str]:
    """Return the hosts that the settings name, although the settings as a whole cannot be read."""
    values: dict[str, str] = {}
    with suppress(ConfigurationError, OSError, UnicodeError):
        values = {name: value for name, (value, _) in set_values().items()}
    hosts = [value for name, value in values.items() if name.endswith("_HOST")]
    with suppress(ValueError):
        hosts += [host.name for host in hosts_of(parse_url(values.get("DATABASE_URL", "")))]
    return hosts


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
