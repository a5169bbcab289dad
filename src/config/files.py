"""The `.env` files: which files are read, and which of their names are unknown."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Final

from dotenv.parser import parse_stream

from src.database.errors import ConfigurationError

_PREFIXES: Final = ("DATABASE_", "DB_")
_LIKELY: Final = 0.85
"""The similarity from which an unknown name in the process environment counts as a misspelled setting."""
_OF_PLATFORMS: Final = re.compile(
    r"_SERVICE_(HOST|PORT)(_|$)|_PORT_\d+_(TCP|UDP|SCTP)(_|$)|^DATABASE_URL_|^DATABASE_(PUBLIC|PRIVATE|DIRECT|READ)_URL$"
)
"""Variables that platforms set: Kubernetes for a service named `db`, Railway, Neon and Vercel beside DATABASE_URL."""


def environment_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the files to read: ``ENV_FILE``, or ``.env`` and ``.env.<ENVIRONMENT>``. Later files take precedence.

    Raises:
        ConfigurationError: ``ENV_FILE`` names a file that does not exist, a file cannot be read, or
            ``.env.<ENVIRONMENT>`` sets another ENVIRONMENT.
    """
    if named := environ.get("ENV_FILE"):
        if not Path(named).is_file():
            raise ConfigurationError(f"ENV_FILE must name a file that exists, got {named!r}")
        return (Path(named),)
    common = Path(".env")
    stated = _read(common)[0].get("ENVIRONMENT") if common.exists() else None
    environment = environ.get("ENVIRONMENT") or stated or "development"
    own = Path(f".env.{environment}")
    if own.exists() and _read(own)[0].get("ENVIRONMENT", environment) != environment:
        raise ConfigurationError(f"ENVIRONMENT in {own} must be {environment}, as in the file's name, or be removed")
    return tuple(file for file in (common, own) if file.exists())


def faults_of_file(file: Path, known: Collection[str]) -> list[str]:
    """Return the faults of a file: lines that cannot be parsed, and names ``DATABASE_*`` and ``DB_*`` of no setting."""
    values, unreadable = _read(file)
    faults = [f"line {number} of {file} cannot be parsed: check for a missing quote" for number in unreadable]
    for name, value in sorted(values.items()):
        upper = name.upper()
        if name in known:
            if value is None:
                faults.append(f"{name} in {file} has no value; write {name}=…")
        elif upper in known:
            faults.append(f"{name} in {file} is not a setting; did you mean {upper}?")
        elif upper.startswith(_PREFIXES):
            nearest = get_close_matches(upper, known, n=1, cutoff=0.6)
            remedy = f"did you mean {nearest[0]}?" if nearest else ".env.example lists all settings"
            faults.append(f"{name} in {file} is not a setting; {remedy}")
    return faults


def faults_of_process(environ: Mapping[str, str], known: Collection[str]) -> list[str]:
    """Return a sentence, without the value, for each variable of the process that looks like a misspelled setting.

    Other programs share the environment: a name that resembles no setting is not reported, nor is one that a platform
    sets.
    """
    faults = []
    for name in sorted(environ):
        upper = name.upper()
        if name in known or not upper.startswith(_PREFIXES) or _OF_PLATFORMS.search(upper):
            continue
        if near := _nearest_setting(upper, known):
            faults.append(f"{name} in the environment is not a setting, and is ignored; did you mean {near}?")
    return faults


def _nearest_setting(upper: str, known: Collection[str]) -> str | None:
    """Return the setting that a name misspells, shortens or extends, or None."""
    if upper in known:
        return upper
    if near := get_close_matches(upper, known, n=1, cutoff=_LIKELY):
        return near[0]
    beginning = [name for name in known if name.startswith(f"{upper}_") or upper.startswith(f"{name}_")]
    return get_close_matches(upper, beginning, n=1, cutoff=0.0)[0] if beginning else None


def _read(file: Path) -> tuple[dict[str, str | None], list[int]]:
    """Return the names and values of a file, and the numbers of the lines that cannot be parsed."""
    if not file.is_file():
        raise ConfigurationError(f"{file} must be a regular file")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} must be a readable UTF-8 file: {type(error).__name__}") from None
    bindings = list(parse_stream(StringIO(text)))
    values = {binding.key: binding.value for binding in bindings if binding.key is not None}
    return values, [binding.original.line for binding in bindings if binding.error]
