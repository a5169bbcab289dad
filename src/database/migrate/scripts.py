"""The migration scripts: those of the checkout, or those inside the wheel."""

from __future__ import annotations

from argparse import Namespace
from functools import cache
from pathlib import Path
from typing import Final

from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from src.database.errors import ConfigurationError
from src.database.migrate.version_table import VERSION_TABLE

_PACKAGE: Final = Path(__file__).parents[1]
_CHECKOUT: Final = _PACKAGE.parents[1]
_PACKAGED: Final = _PACKAGE / "_packaged"
_REVISIONS_IN_ERROR: Final = 20


def alembic_config(folder: Path | None = None) -> Config:
    """Return the Alembic configuration of the checkout if there is one, else of the wheel.

    Args:
        folder: A folder of further revisions, which follow those of this installation.

    Raises:
        ConfigurationError: This installation has no migrations, or the folder is no folder.
    """
    home = _home()
    config = Config(home / "alembic.ini", cmd_opts=Namespace(quiet=True))
    if folder is not None:
        if not folder.is_dir():
            raise ConfigurationError(f"the folder of revisions must be a folder, got {str(folder)!r}")
        paths = [home / "migrations" / "versions", folder.absolute()]
        # A path may contain Alembic's other separators: a space, a colon, a semicolon. ConfigParser interpolates "%".
        config.set_main_option("path_separator", "newline")
        config.set_main_option("version_locations", "\n".join(map(str, paths)).replace("%", "%%"))
    return config


def script_directory(folder: Path | None = None) -> ScriptDirectory:
    """Return the migration scripts.

    Raises:
        ConfigurationError: As `alembic_config` does.
    """
    return ScriptDirectory.from_config(alembic_config(folder))


def heads(folder: Path | None = None) -> tuple[str, ...]:
    """Return the newest revisions: one, or several if the history has branches.

    Raises:
        ConfigurationError: As `alembic_config` does.
    """
    return tuple(script_directory(folder).get_heads())


@cache
def installed_revisions() -> tuple[str, frozenset[str]]:
    """Return the newest revision and all revisions. Cached: Alembic executes each migration file to read them."""
    scripts = script_directory()
    return ",".join(sorted(scripts.get_heads())), frozenset(script.revision for script in scripts.walk_revisions())


def is_checkout() -> bool:
    """Return True if the migrations are those of a checkout, to which new migrations are written."""
    return _home() == _CHECKOUT


def explain(error: CommandError, folder: Path | None = None) -> ConfigurationError:
    """Return the error for an error of Alembic, with the remedy if it is known.

    Args:
        error: Alembic raises CommandError for each of its errors: the text distinguishes them.
        folder: The folder of further revisions, as in `alembic_config`.
    """
    text = str(error)
    if "not up to date" in text:
        return ConfigurationError(
            f"the models can only be compared with a database at the newest revision,"
            f" {', '.join(heads(folder))}: this database is behind",
            hint="run `thea-db upgrade` (`alembic upgrade head`), then run the command again",
        )
    if "locate revision" not in text:
        return ConfigurationError(f"Alembic: {text}")
    known = [script.revision for script in script_directory(folder).walk_revisions()]
    revisions = ", ".join(known[:_REVISIONS_IN_ERROR]) + (", ..." if len(known) > _REVISIONS_IN_ERROR else "")
    return ConfigurationError(
        f"Alembic: {text}; this installation has {revisions}",
        hint="if the database is at that revision, a newer release has migrated the database: install that release, or"
        f" check out its branch; delete neither migrations nor rows of {VERSION_TABLE}",
    )


def _home() -> Path:
    # The checkout first: an editable install also has the packaged copy, which becomes stale.
    for home in (_CHECKOUT, _PACKAGED):
        if (home / "alembic.ini").is_file() and (home / "migrations" / "env.py").is_file():
            return home
    raise ConfigurationError("the migrations are not in this installation", hint="reinstall thea-database")
