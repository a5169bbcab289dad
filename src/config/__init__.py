"""Settings and logging: what differs between environments. Each name is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from src.config.logging import configure_logging, get_logger
    from src.config.profiles import EnvironmentConfig, get_environment_config
    from src.config.settings import Settings, get_settings

__all__ = [
    "EnvironmentConfig",
    "Settings",
    "configure_logging",
    "get_environment_config",
    "get_logger",
    "get_settings",
]

_MODULES: Final = {
    "EnvironmentConfig": "profiles",
    "Settings": "settings",
    "configure_logging": "logging",
    "get_environment_config": "profiles",
    "get_logger": "logging",
    "get_settings": "settings",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
