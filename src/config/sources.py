"""Where each setting comes from, and its value as it may be shown."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dotenv import dotenv_values
from pydantic import SecretStr
from sqlalchemy.engine import URL

from src.config.files import environment_files
from src.config.settings import Settings

__all__ = ["ShownSetting", "set_values", "show_settings"]

DEFAULT: Final = "default"
ENVIRONMENT: Final = "environment"


@dataclass(frozen=True, slots=True)
class ShownSetting:
    """A setting for human eyes: nothing secret is in it."""

    name: str
    value: str | int | float | bool | None
    source: str
    """``environment``, the name of a file, or ``default``."""


def show_settings(settings: Settings, environ: Mapping[str, str] = os.environ) -> list[ShownSetting]:
    """Return every setting with its source, in the order in which the class has them.

    Raises:
        ConfigurationError: ``ENV_FILE`` names a file that is not there.
    """
    found = set_values(environ)
    return [
        ShownSetting(name, _shown(getattr(settings, name)), found.get(name, ("", DEFAULT))[1])
        for name in Settings.model_fields
    ]


def set_values(environ: Mapping[str, str] = os.environ) -> dict[str, tuple[str, str]]:
    """Return the raw value and the source of each setting that is set; they may be secret, and may be wrong.

    Read as pydantic-settings does: the later file over the earlier, the environment over both, and what is empty counts
    as not set.

    Raises:
        ConfigurationError: ``ENV_FILE`` names a file that is not there.
    """
    found: dict[str, tuple[str, str]] = {}
    for file in environment_files(environ):
        found |= {name: (value, str(file)) for name, value in dotenv_values(file).items() if value}
    found |= {name: (value, ENVIRONMENT) for name, value in environ.items() if value}
    return {name: entry for name, entry in found.items() if name in Settings.model_fields}


def _shown(value: Any) -> str | int | float | bool | None:
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, URL):
        return value.render_as_string(hide_password=True)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
