"""The histories of migrations: that of this package, in the checkout or in the wheel, and that of a service."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Final, Literal

from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from src.config import Settings
from src.database.base import Base
from src.database.errors import ConfigurationError
from src.database.migrate.version_table import VERSION_TABLE
from src.database.models import package_tables

HistoryName = Literal["package", "service"]

HISTORY: Final = "history"
"""The key of `alembic.config.Config.attributes` for the `History`."""

_PACKAGE: Final = Path(__file__).parents[1]
_CHECKOUT: Final = _PACKAGE.parents[1]
_PACKAGED: Final = _PACKAGE / "_packaged"
_REVISIONS_IN_ERROR: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A history of migrations: this package's, or that of the service that uses the package.

    Args:
        name: The name of the history.
        folders: The folders of the revisions.
        version_table: The table that records the revisions.
        models: The modules that declare the tables of a service.
    """

    name: HistoryName
    folders: tuple[Path, ...]
    version_table: str
    models: tuple[str, ...] = ()

    def config(self) -> Config:
        """Return the Alembic configuration, with the environment and the template of this package.

        Raises:
            ConfigurationError: This installation has no migrations.
        """
        home = _home()
        config = Config(home / "alembic.ini", cmd_opts=Namespace(quiet=True))
        config.attributes[HISTORY] = self
        # A path may contain Alembic's other separators: a space, a colon, a semicolon. ConfigParser interpolates "%".
        config.set_main_option("path_separator", "newline")
        config.set_main_option("version_locations", "\n".join(map(str, self.folders)).replace("%", "%%"))
        return config

    def scripts(self) -> ScriptDirectory:
        """Return the migration scripts.

        Raises:
            ConfigurationError: As `config` does.
        """
        return ScriptDirectory.from_config(self.config())

    def heads(self) -> tuple[str, ...]:
        """Return the newest revisions: one, or several if the history has branches; none if there is no revision."""
        return tuple(self.scripts().get_heads())

    def installed(self) -> tuple[str, frozenset[str]]:
        """Return the newest revision and all revisions. Cached until a file is added or removed."""
        return _installed(self, frozenset(file for folder in self.folders for file in folder.glob("*.py")))

    def tables(self) -> frozenset[str]:
        """Return the names of the tables of this history's models.

        Raises:
            ConfigurationError: A module of models cannot be imported, or the modules declare no table.
        """
        if self.name == "package":
            return package_tables()
        for module in self.models:
            _import(module)
        if tables := frozenset(Base.metadata.tables) - package_tables():
            return tables
        raise ConfigurationError(
            f"the modules in DATABASE_SERVICE_MODELS must declare tables, got {', '.join(self.models)}, without tables",
            hint="declare the models on Base or TenantBase of src.database.base, and name each module that declares"
            " one, or a module that imports them all",
        )


def package_history(folder: Path | None = None) -> History:
    """Return the history of this package: the migrations of the checkout if there is one, else of the wheel.

    Args:
        folder: A folder of further revisions, which follow those of this installation.

    Raises:
        ConfigurationError: This installation has no migrations, or the folder is no folder.
    """
    if folder is not None and not folder.is_dir():
        raise ConfigurationError(f"the folder of revisions must be a folder, got {str(folder)!r}")
    further = () if folder is None else (folder.absolute(),)
    return History(name="package", folders=(_home() / "migrations" / "versions", *further), version_table=VERSION_TABLE)


def service_history(settings: Settings) -> History | None:
    """Return the history of the service that the settings name; None if they name none.

    Raises:
        ConfigurationError: The folder does not exist, is that of this package, or is the folder of the revisions.
    """
    folder, models = settings.DATABASE_SERVICE_MIGRATIONS, settings.DATABASE_SERVICE_MODELS
    if folder is None or models is None:
        return None
    folder = folder.expanduser().absolute()
    if folder.name == "versions" or folder == _home() / "migrations":
        raise ConfigurationError(
            "DATABASE_SERVICE_MIGRATIONS must be the folder of the service that contains `versions`,"
            f" got {str(folder)!r}"
        )
    if not folder.is_dir():
        raise ConfigurationError(
            f"DATABASE_SERVICE_MIGRATIONS must be a folder, got {str(folder)!r}",
            hint="a relative path is relative to the working folder: create the folder, or run the command in the"
            " folder of the service",
        )
    return History(
        name="service",
        folders=(folder / "versions",),
        version_table=settings.DATABASE_SERVICE_VERSION_TABLE,
        models=tuple(name.strip() for name in models.split(",")),
    )


def named_history(settings: Settings | None, name: HistoryName) -> History:
    """Return a history by its name.

    Args:
        settings: The settings that name the history of a service; None: no history of a service is known.
        name: The name.

    Raises:
        ConfigurationError: The settings name no history of a service, or the folder does not exist.
    """
    if name == "package":
        return package_history()
    if settings is None or (service := service_history(settings)) is None:
        raise ConfigurationError(
            "DATABASE_SERVICE_MODELS and DATABASE_SERVICE_MIGRATIONS must be set for the history of a service",
            hint="docs/services.md describes both",
        )
    return service


def service_revisions(settings: Settings) -> frozenset[str]:
    """Return the revisions of the service's history; none if the settings name no such history.

    Raises:
        ConfigurationError: The folder of the service's migrations does not exist.
    """
    service = service_history(settings)
    return frozenset() if service is None else service.installed()[1]


def script_directory(folder: Path | None = None) -> ScriptDirectory:
    """Return the migration scripts of this package.

    Raises:
        ConfigurationError: As `package_history` does.
    """
    return package_history(folder).scripts()


def heads(folder: Path | None = None) -> tuple[str, ...]:
    """Return the newest revisions of this package: one, or several if the history has branches.

    Raises:
        ConfigurationError: As `package_history` does.
    """
    return package_history(folder).heads()


@cache
def _installed(history: History, _files: frozenset[Path]) -> tuple[str, frozenset[str]]:
    # Cached: Alembic executes each migration file to read them.
    scripts = history.scripts()
    return ",".join(sorted(scripts.get_heads())), frozenset(script.revision for script in scripts.walk_revisions())


def _import(module: str) -> None:
    """Import a module of models.

    Raises:
        ConfigurationError: The module cannot be imported.
    """
    # A console script has its own folder in sys.path, and not the working folder. alembic.ini has prepend_sys_path.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        import_module(module)
    except Exception as error:
        raise ConfigurationError(
            f"DATABASE_SERVICE_MODELS must name modules that can be imported, got {module!r}: {type(error).__name__}",
            hint=f'to see the error, run this where the service runs: `python -c "import {module}"`',
        ) from error


def is_checkout() -> bool:
    """Return True if the migrations are those of a checkout, to which new migrations are written."""
    return _home() == _CHECKOUT


def explain(error: CommandError, history: History) -> ConfigurationError:
    """Return the error for an error of Alembic, with the remedy if it is known.

    Args:
        error: Alembic raises CommandError for each of its errors: the text distinguishes them.
        history: The history that was run.
    """
    text = str(error)
    if "not up to date" in text:
        return ConfigurationError(
            f"the models can only be compared with a database at the newest revision,"
            f" {', '.join(history.heads())}: this database is behind",
            hint="run `thea-db upgrade` (`alembic upgrade head`), then run the command again",
        )
    if "locate revision" not in text:
        return ConfigurationError(f"Alembic: {text}")
    known = [script.revision for script in history.scripts().walk_revisions()]
    revisions = ", ".join(known[:_REVISIONS_IN_ERROR]) + (", ..." if len(known) > _REVISIONS_IN_ERROR else "")
    place = "this installation" if history.name == "package" else "DATABASE_SERVICE_MIGRATIONS"
    return ConfigurationError(
        f"Alembic: {text}; {place} has {revisions or 'no revision'}",
        hint="if the database is at that revision, a newer release has migrated the database: install that release, or"
        f" check out its branch; delete neither migrations nor rows of {history.version_table}",
    )


def _home() -> Path:
    # The checkout first: an editable install also has the packaged copy, which becomes stale.
    for home in (_CHECKOUT, _PACKAGED):
        if (home / "alembic.ini").is_file() and (home / "migrations" / "env.py").is_file():
            return home
    raise ConfigurationError("the migrations are not in this installation", hint="reinstall thea-database")
