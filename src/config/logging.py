"""Logging with structlog: text in development, JSON elsewhere; secrets are masked in every event."""

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
# Greedy up to the last @: a password that is not percent-encoded may contain one.
_URL_PASSWORD: Final = re.compile(r"(?P<before>\w+://[^\s:/@]*:).+(?=@)")
_QUERY_PASSWORD: Final = re.compile(r"(?P<before>(?:^|[?&;\s])(?:password|pwd)=)[^&;\s]+", re.IGNORECASE)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module. If the service has not configured structlog, logs go to standard error."""
    import structlog  # noqa: PLC0415 - it also imports rich: a service that logs nothing never imports the two

    if not structlog.is_configured():
        configure_logging()
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def configure_logging(environment: str | None = None, *, level: int = logging.INFO) -> None:
    """Configure structlog for `thea-db`, or for a service that has not configured it.

    Args:
        environment: The environment: text in development and test, JSON in staging and production. None: text on a
            terminal, JSON elsewhere.
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
        # sys.stderr is read for each logger: pytest and others replace it, and close the one that was here before.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


def mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask values whose names suggest a secret, and passwords inside URLs (a structlog processor)."""
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
