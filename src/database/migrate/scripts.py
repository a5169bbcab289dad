"""The migration scripts: the checkout's, or those inside the wheel."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Final

from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from src.database.errors import ConfigurationError

_PACKAGE: Final = Path(__file__).parents[1]
_CHECKOUT: Final = _PACKAGE.parents[1]
_PACKAGED: Final = _PACKAGE / "_packaged"
_SHOWN: Final = 20
"""How many of the newest revisions an error names."""


def alembic_config(folder: Path | None = None) -> Config:
    """Return Alembic's configuration: the checkout's if there is one, else the one inside the wheel.

    Args:
        folder: A folder of further revisions, which follow those of this installation.

    Raises:
        ConfigurationError: There are no migrations here, or the folder cannot hold any.
    """
    home = _home()
    config = Config(home / "alembic.ini", cmd_opts=Namespace(quiet=True))
    if folder is not None:
        if not folder.is_dir():
            raise ConfigurationError(f"the folder of revisions must be a folder, got {str(folder)!r}")
        places = [home / "migrations" / "versions", folder.absolute()]
        # Separated by newlines: a path may contain the other separators.
        config.set_main_option("path_separator", "newline")
        config.set_main_option("version_locations", "\n".join(str(place) for place in places).replace("%", "%%"))
    return config


def script_directory(folder: Path | None = None) -> ScriptDirectory:
    """Return the migration scripts.

    Raises:
        ConfigurationError: As `alembic_config` does.
    """
    return ScriptDirectory.from_config(alembic_config(folder))


def heads(folder: Path | None = None) -> tuple[str, ...]:
    """Return the newest revisions: one, unless there are branches.

    Raises:
        ConfigurationError: As `alembic_config` does.
    """
    return tuple(script_directory(folder).get_heads())


def is_checkout() -> bool:
    """Return True if the migrations are a checkout's, where new ones belong, and not a release's."""
    return _home() == _CHECKOUT


def explain(error: CommandError, folder: Path | None = None) -> ConfigurationError:
    """Translate an error of Alembic, with the remedy if it is known."""
    text = str(error)
    if "not up to date" in text:
        return ConfigurationError(
            f"the models can only be compared with a database at the newest revision,"
            f" {', '.join(heads(folder))}: this database is behind",
            hint="`thea-db upgrade` (`alembic upgrade head`) applies the missing migrations; then run this again",
        )
    if "locate revision" not in text:
        return ConfigurationError(f"Alembic: {text}")
    known = [script.revision for script in script_directory(folder).walk_revisions()]
    shown = ", ".join(known[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
    return ConfigurationError(
        f"Alembic: {text}; this installation has {shown}",
        hint="if the database is at that revision, a newer release has migrated it: install that release, or check out"
        " its branch; delete neither migrations nor rows of alembic_version",
    )


def _home() -> Path:
    # The checkout first: an editable install has a copy too, which becomes stale.
    for home in (_CHECKOUT, _PACKAGED):
        if (home / "alembic.ini").is_file() and (home / "migrations" / "env.py").is_file():
            return home
    raise ConfigurationError("the migrations are not in this installation", hint="reinstall thea-database")
