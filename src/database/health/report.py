"""The report of the health checks and its JSON. It contains no secret, no host, no user and no text of the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from src.database.check_result import CheckResult, CheckStatus
from src.database.connect import DRIVER_ERRORS
from src.database.errors import (
    AuthenticationFailed,
    ConfigurationError,
    ConnectionFailed,
    DatabaseError,
    DatabaseMissing,
    QueryTimeout,
    TlsFailed,
    TunnelFailed,
)
from src.database.translation import translate_connect

Status = Literal["healthy", "degraded", "unhealthy"]
NO_CONNECTION_FREE: Final = "53300"
"""The SQLSTATE too_many_connections."""
_DOCTOR: Final = "`thea-db doctor` reports the cause"
_TIMED_OUT: Final = "no answer in time", f"check the network, and the server, which can be overloaded: {_DOCTOR}"
_FULL: Final = (
    "the server has no free connection",
    "use fewer or smaller pools (`thea-db pool` suggests sizes), or PgBouncer",
)
# The first class of which the error is an instance. The error's own text is not reported: it names hosts and users.
_REASONS: Final[tuple[tuple[type[BaseException], str, str], ...]] = (
    (TimeoutError, *_TIMED_OUT),
    (QueryTimeout, *_TIMED_OUT),
    (AuthenticationFailed, "the server refused the user or the password", "`thea-db info` shows their sources"),
    (DatabaseMissing, "the database does not exist", "correct the name, or create the database: `thea-db bootstrap`"),
    (TlsFailed, "the TLS handshake failed, or the certificate is invalid", _DOCTOR),
    (TunnelFailed, "the SSH tunnel could not be opened", _DOCTOR),
    (ConnectionFailed, "no connection", _DOCTOR),
    (ConfigurationError, "the settings are invalid", _DOCTOR),
    (DatabaseError, "the server rejected a query of the check", _DOCTOR),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """The results of all health checks.

    Args:
        service: The application name of this process's connections.
        checks: The results by name.
    """

    service: str
    checks: Mapping[str, CheckResult]

    @property
    def status(self) -> Status:
        """The worst status of the checks."""
        statuses = {check.status for check in self.checks.values()}
        if "unhealthy" in statuses:
            return "unhealthy"
        return "degraded" if "degraded" in statuses else "healthy"

    @property
    def can_serve(self) -> bool:
        """True if this process can answer requests; a degraded process can."""
        return self.status != "unhealthy"

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON types: status, service, and the checks by name."""
        checks = {name: _as_json(check) for name, check in self.checks.items()}
        return {"status": self.status, "service": self.service, "checks": checks}


def _as_json(check: CheckResult) -> dict[str, Any]:
    document = {"status": check.status, "duration_ms": check.duration_ms, "found": check.found}
    return document if check.remedy is None else {**document, "remedy": check.remedy}


def result_of_error(error: Exception, status: CheckStatus) -> CheckResult:
    """Return the result of a check that raised, without the text of the error.

    The readers of a report may be less trusted than the readers of the log.
    """
    if getattr(error, "sqlstate", None) == NO_CONNECTION_FREE:
        return CheckResult(status, *_FULL)
    for kind, found, remedy in _REASONS:
        if isinstance(error, kind):
            return CheckResult(status, found, remedy)
    return CheckResult(status, f"the check itself failed: {type(error).__name__}", "the log has the reason")


def translated(error: Exception) -> Exception:
    """Return this package's error for an error of the driver; return any other error unchanged."""
    is_of_driver = isinstance(error, DRIVER_ERRORS) and not isinstance(error, TimeoutError)
    return translate_connect(error, where="the database") if is_of_driver else error
