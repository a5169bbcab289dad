"""The `.env` files: which ones are read, and which of their names are unknown."""

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
"""The similarity above which an unknown name in the process environment is taken for a misspelled setting."""
_OF_PLATFORMS: Final = re.compile(
    r"_SERVICE_(HOST|PORT)(_|$)|_PORT_\d+_(TCP|UDP|SCTP)(_|$)|^DATABASE_URL_|^DATABASE_(PUBLIC|PRIVATE|DIRECT|READ)_URL$"
)
"""Variables that platforms set beside DATABASE_URL: Kubernetes for a service named `db`, Railway, Neon, Vercel."""


def environment_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the files to read, later ones over earlier ones: ``ENV_FILE``, or ``.env`` and ``.env.<ENVIRONMENT>``.

    Raises:
        ConfigurationError: ``ENV_FILE`` names a file that is not there, or the second names another environment.
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
        raise ConfigurationError(f"ENVIRONMENT in {own} must be {environment}, or not be there: it chose this file")
    return tuple(file for file in (common, own) if file.exists())


def faults_of_file(file: Path, known: Collection[str]) -> list[str]:
    """Name each line of a file that cannot be read, and each ``DATABASE_*`` and ``DB_*`` that no setting answers to."""
    values, unreadable = _read(file)
    faults = [f"line {number} of {file} cannot be read: is a quote left open?" for number in unreadable]
    for name, value in sorted(values.items()):
        upper = name.upper()
        if name in known:
            if value is None:
                faults.append(f"{name} in {file} has no value; write {name}=…")
        elif upper in known:
            faults.append(f"{name} in {file} is no setting; did you mean {upper}?")
        elif upper.startswith(_PREFIXES):
            nearest = get_close_matches(upper, known, n=1, cutoff=0.6)
            remedy = f"did you mean {nearest[0]}?" if nearest else ".env.example lists all of them"
            faults.append(f"{name} in {file} is no setting; {remedy}")
    return faults


def faults_of_process(environ: Mapping[str, str], known: Collection[str]) -> list[str]:
    """Return a sentence for each variable of the process environment that looks like a misspelled setting.

    Other programs share the environment: a name that resembles no setting is not reported, nor is one that a platform
    sets. The values are not part of the sentences.
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
    """Return the setting that a name is a misspelling or a part of, or None."""
    if upper in known:
        return upper
    if near := get_close_matches(upper, known, n=1, cutoff=_LIKELY):
        return near[0]
    beginning = [name for name in known if name.startswith(f"{upper}_") or upper.startswith(f"{name}_")]
    return get_close_matches(upper, beginning, n=1, cutoff=0.0)[0] if beginning else None


def _read(file: Path) -> tuple[dict[str, str | None], list[int]]:
    """Return the names and values of a file, and the numbers of the lines that cannot be read."""
    if not file.is_file():
        raise ConfigurationError(f"{file} must be a regular file")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} must be a readable UTF-8 file: {type(error).__name__}") from None
    bindings = list(parse_stream(StringIO(text)))
    values = {binding.key: binding.value for binding in bindings if binding.key is not None}
    return values, [binding.original.line for binding in bindings if binding.error]
