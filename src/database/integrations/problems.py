"""The errors of this package as problem documents (RFC 9457): one table from the class of an error to its status."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from src.config import get_logger
from src.database.errors import (
    CheckViolation,
    CommitOutcomeUnknown,
    ConnectionFailed,
    DatabaseError,
    DeadlockError,
    DuplicateKeyError,
    IntegrityError,
    LockNotAvailable,
    NoTenantError,
    NotFoundError,
    PoolExhausted,
    QueryTimeout,
    SchemaChangedError,
    SerializationError,
    StaleDataError,
    TenantRefused,
)
from src.database.statements import InvalidCursorError

MEDIA_TYPE: Final = "application/problem+json"
HANDLED: Final[tuple[type[Exception], ...]] = (DatabaseError, InvalidCursorError)
"""The errors that the integrations answer: those of this package. The integration for Litestar also answers groups of
errors. Any other error is left to the framework."""
_TYPE: Final = "urn:problem-type:thea-database:"
# Close codes of WebSockets: https://www.iana.org/assignments/websocket/websocket.xhtml#close-code-number
_POLICY_VIOLATION: Final = 1008
_INTERNAL_ERROR: Final = 1011
_TRY_AGAIN_LATER: Final = 1013


@dataclass(frozen=True, slots=True)
class Problem:
    """The answer to a request that failed. Its texts are constants: no data, no SQL and no name of the schema.

    Attributes:
        status: The HTTP status.
        title: The summary for people.
        type: The URI that names the kind of problem for programs.
        retry_after_seconds: The time after which the same request can succeed, where repeating the request is safe.
    """

    status: int
    title: str
    type: str = "about:blank"
    retry_after_seconds: int | None = None

    @property
    def body(self) -> bytes:
        """The problem document, as JSON."""
        return json.dumps({"type": self.type, "title": self.title, "status": self.status}).encode()

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer, besides those of its content."""
        return {} if self.retry_after_seconds is None else {"retry-after": str(self.retry_after_seconds)}

    @property
    def close_code(self) -> int:
        """The code with which a WebSocket is closed."""
        if self.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return _POLICY_VIOLATION
        return _TRY_AGAIN_LATER if self.status == HTTPStatus.SERVICE_UNAVAILABLE else _INTERNAL_ERROR


_UNEXPECTED: Final = Problem(500, HTTPStatus.INTERNAL_SERVER_ERROR.phrase)
_BUSY: Final = "The change conflicts with another one; repeat the request"
# A subclass without an entry has the problem of its nearest base class; DatabaseError itself is unexpected.
_PROBLEMS: Final[dict[type[BaseException], Problem]] = {
    kind: Problem(
        status, title, _TYPE + re.sub(r"(?<=.)(?=[A-Z])", "-", kind.__name__.removesuffix("Error")).lower(), wait
    )
    for kind, status, title, wait in (
        (InvalidCursorError, 400, "The cursor is not valid for this query; begin again without a cursor", None),
        (NoTenantError, 400, "The request names no tenant", None),
        (TenantRefused, 403, "The tenant cannot be used", None),
        (NotFoundError, 404, "The resource does not exist", None),
        (DuplicateKeyError, 409, "The resource exists already", None),
        (StaleDataError, 409, "The resource was changed meanwhile; read it again", None),
        (IntegrityError, 409, "The change conflicts with other resources", None),
        (CheckViolation, 422, "A value is not allowed", None),
        (
            CommitOutcomeUnknown,
            500,
            "It is not known whether the change was stored; read the resource before you repeat the change",
            None,
        ),
        (ConnectionFailed, 503, "The database cannot be reached", None),
        (PoolExhausted, 503, "The service is busy", 1),
        (SerializationError, 503, _BUSY, 1),
        (DeadlockError, 503, _BUSY, 1),
        (LockNotAvailable, 503, _BUSY, 1),
        (SchemaChangedError, 503, _BUSY, 1),
        (QueryTimeout, 504, "The database did not answer in time", None),
    )
}


def problem_of(error: BaseException) -> Problem:
    """Return the problem for an error, and log the error: as an error with its traceback if it is unexpected.

    The framework does not log an error that is answered. The message of an error of this package has no data of rows.
    """
    error = _single(error)
    problem = next((_PROBLEMS[kind] for kind in type(error).__mro__ if kind in _PROBLEMS), _UNEXPECTED)
    logger = get_logger(__name__)
    if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("request_failed", status=problem.status, error=type(error).__name__, exc_info=error)
    else:
        log = logger.info if problem.status < HTTPStatus.INTERNAL_SERVER_ERROR else logger.warning
        log("request_failed", status=problem.status, error=type(error).__name__, reason=str(error))
    return problem


def _single(error: BaseException) -> BaseException:
    """Return the error in a group of one error, as task groups raise it; return any other argument unchanged."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        [error] = error.exceptions
    return error
