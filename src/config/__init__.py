"""Settings and logging: what differs between environments."""

from src.config.logging import configure_logging, get_logger
from src.config.settings import Settings, get_settings

__all__ = ["Settings", "configure_logging", "get_logger", "get_settings"]
