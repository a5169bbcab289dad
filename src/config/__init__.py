"""Settings and logging: what differs between environments."""

from src.config.environment import EnvironmentConfig, get_environment_config
from src.config.logging import configure_logging, get_logger
from src.config.settings import Settings, get_settings

__all__ = [
    "EnvironmentConfig",
    "Settings",
    "configure_logging",
    "get_environment_config",
    "get_logger",
    "get_settings",
]
