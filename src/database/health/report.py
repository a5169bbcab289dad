"""The report of all health checks and its JSON, without any secret, host, user or text of the server."""

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
"""The SQLSTATE of a server whose connections are all in use."""
_DOCTOR: Final = "`thea-db doctor` says why"
_TIMED_OUT: Final = "no answer in time", f"the network, or a server that does too much or nothing: {_DOCTOR}"
_FULL: Final = "the server has no connection free", "fewer or smaller pools: `thea-db pool` says how far; or PgBouncer"
# The first class that the error is of. The error itself is not shown: it names hosts and users.
_REASONS: Final[tuple[tuple[type[BaseException], str, str], ...]] = (
    (TimeoutError, *_TIMED_OUT),
    (QueryTimeout, *_TIMED_OUT),
    (AuthenticationFailed, "the server refused the user or the password", "`thea-db info` says where they come from"),
    (DatabaseMissing, "the server has no such database", "check its name, or create it: `thea-db bootstrap`"),
    (TlsFailed, "TLS could not be had, or the certificate does not hold", _DOCTOR),
    (TunnelFailed, "the SSH tunnel is not to be had", _DOCTOR),
    (ConnectionFailed, "no connection", _DOCTOR),
    (ConfigurationError, "the settings cannot work as they are", _DOCTOR),
    (DatabaseError, "the server refused to answer", _DOCTOR),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """The results of all health checks.

    Args:
        service: The application name under which the server knows the connections of this process.
        checks: The results by name.
    """

    service: str
    checks: Mapping[str, CheckResult]

    @property
    def status(self) -> Status:
        """The worst status of the checks."""
        found = {check.status for check in self.checks.values()}
        if "unhealthy" in found:
            return "unhealthy"
        return "degraded" if "degraded" in found else "healthy"

    @property
    def can_serve(self) -> bool:
        """Whether this process can answer requests; true for a degraded process."""
        return self.status != "unhealthy"

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON types: status, service, and the checks by name."""
        checks = {name: _as_json(check) for name, check in self.checks.items()}
        return {"status": self.status, "service": self.service, "checks": checks}


def _as_json(check: CheckResult) -> dict[str, Any]:
    document = {"status": check.status, "duration_ms": check.duration_ms, "found": check.found}
    return document if check.remedy is None else {**document, "remedy": check.remedy}


def translated(error: Exception) -> Exception:
    """Return our error for one that the driver raised; return any other error as it is."""
    is_of_driver = isinstance(error, DRIVER_ERRORS) and not isinstance(error, TimeoutError)
    return translate_connect(error, where="the database") if is_of_driver else error


def failed(error: Exception, status: CheckStatus) -> CheckResult:
    """Return the result of a check that raised: readers of a report may not be allowed to read the log."""
    if getattr(error, "sqlstate", None) == NO_CONNECTION_FREE:
        return CheckResult(status, *_FULL)
    for kind, found, remedy in _REASONS:
        if isinstance(error, kind):
            return CheckResult(status, found, remedy)
    return CheckResult(status, f"the check itself failed: {type(error).__name__}", "the log has more")
