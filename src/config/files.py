"""The `.env` files: which ones count, and whether every name in them is known."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from dotenv import dotenv_values

from src.database.errors import ConfigurationError

__all__ = ["environment_files", "unknown_names"]

_PREFIXES: Final = ("DATABASE_", "DB_")


def environment_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the files that count, the later over the earlier: ``ENV_FILE``, or ``.env`` and ``.env.<ENVIRONMENT>``.

    Raises:
        ConfigurationError: ``ENV_FILE`` names a file that is not there.
    """
    if named := environ.get("ENV_FILE"):
        if not Path(named).is_file():
            raise ConfigurationError(f"ENV_FILE must name a file that exists, got {named!r}")
        return (Path(named),)
    common = Path(".env")
    stated = dotenv_values(common).get("ENVIRONMENT") if common.is_file() else None
    environment = environ.get("ENVIRONMENT") or stated or "development"
    return tuple(file for file in (common, Path(f".env.{environment}")) if file.is_file())


def unknown_names(
    source: Path | Mapping[str, str], known: Collection[str], *, near_misses_only: bool = False
) -> list[str]:
    """Name each ``DATABASE_*`` and ``DB_*`` of a file, or of the process environment, that no setting answers to."""
    names = dotenv_values(source) if isinstance(source, Path) else source
    where = f"in {source}" if isinstance(source, Path) else "in the environment"
    faults = []
    for name in sorted(names):
        if name in known or not name.startswith(_PREFIXES):
            continue
        nearest = get_close_matches(name, known, n=1, cutoff=0.85 if near_misses_only else 0.6)
        if nearest:
            faults.append(f"{name} {where} is no setting; did you mean {nearest[0]}?")
        elif not near_misses_only:
            faults.append(f"{name} {where} is no setting; .env.example lists all of them")
    return faults
