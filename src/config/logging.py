"""structlog: a console in development, JSON elsewhere; secrets are masked wherever they come from."""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from src.config.constants import LOCAL_ENVIRONMENTS

if TYPE_CHECKING:
    import structlog
    from structlog.typing import EventDict, Processor, WrappedLogger

_MASK: Final = "***"
_SECRET_NAME: Final = re.compile(
    r"password|passwd|secret|api_?key|(^|_)token$|dsn|database_url|migration_url", re.IGNORECASE
)
_URL_PASSWORD: Final = re.compile(r"(?P<before>\w+://[^\s:/@]*:).+(?=@)")
_QUERY_PASSWORD: Final = re.compile(r"(?P<before>(?:^|[?&;\s])(?:password|pwd)=)[^&;\s]+", re.IGNORECASE)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return a logger for a module. Without a structlog configuration, logs go to standard error."""
    import structlog  # noqa: PLC0415 - with rich behind it: a service that logs nothing never imports them

    if not structlog.is_configured():
        configure_logging()
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def configure_logging(environment: str | None = None, *, level: int = logging.INFO) -> None:
    """Configure structlog for `thea-db`, or for a service without a configuration of its own.

    Args:
        environment: The environment; if it is None, a terminal gets the console format, and everything else JSON.
        level: The lowest level that is logged.
    """
    import structlog  # noqa: PLC0415 - the same

    for_people = sys.stderr.isatty() if environment is None else environment in LOCAL_ENVIRONMENTS
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if for_people else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            mask_secrets,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # Looked up for each logger: the standard error output of this moment may be replaced, and closed.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


def mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask the values of secret-sounding names and the passwords inside URLs (a structlog processor)."""
    return {name: _MASK if _SECRET_NAME.search(name) and value else _mask(value) for name, value in event.items()}


def _mask(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {name: _MASK if _SECRET_NAME.search(str(name)) else _mask(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mask(item) for item in value]
    text = value if isinstance(value, str) else str(value)
    masked = _QUERY_PASSWORD.sub(rf"\g<before>{_MASK}", _URL_PASSWORD.sub(rf"\g<before>{_MASK}", text))
    return value if masked == text else masked
