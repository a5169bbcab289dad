"""What a failed check says: our words for each kind of error, since the error's own name hosts and users."""

from __future__ import annotations

from typing import Final

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

__all__ = ["IN_TIME", "NO_CONNECTION_FREE", "failed", "ours"]

NO_CONNECTION_FREE: Final = "53300"
"""The server's code where it is full."""
_LOOK: Final = "`thea-db doctor` says why"
IN_TIME: Final = "no answer in time", f"the network, or a server that does too much or nothing: {_LOOK}"
_FULL: Final = "the server has no connection free", "fewer or smaller pools: `thea-db pool` says how far; or PgBouncer"
# The first that the error is one of.
_SAID: Final[tuple[tuple[type[BaseException], str, str], ...]] = (
    (TimeoutError, *IN_TIME),
    (QueryTimeout, *IN_TIME),
    (AuthenticationFailed, "the server refused the user or the password", "`thea-db info` says where they come from"),
    (DatabaseMissing, "the server has no such database", "check its name, or create it: `thea-db bootstrap`"),
    (TlsFailed, "TLS could not be had, or the certificate does not hold", _LOOK),
    (TunnelFailed, "the SSH tunnel is not to be had", _LOOK),
    (ConnectionFailed, "no connection", _LOOK),
    (ConfigurationError, "the settings cannot work as they are", _LOOK),
    (DatabaseError, "the server refused to answer", _LOOK),
)


def ours(error: Exception) -> Exception:
    """Turn what the driver raised into an error of ours; whatever else there is stays what it is."""
    is_drivers = isinstance(error, DRIVER_ERRORS) and not isinstance(error, TimeoutError)
    return translate_connect(error, where="the database") if is_drivers else error


def failed(error: Exception, status: CheckStatus) -> CheckResult:
    """Say what an error means for whoever may read it: also those whom the log is not for."""
    if getattr(error, "sqlstate", None) == NO_CONNECTION_FREE:
        return CheckResult(status, *_FULL)
    for kind, found, remedy in _SAID:
        if isinstance(error, kind):
            return CheckResult(status, found, remedy)
    return CheckResult(status, f"the check itself failed: {type(error).__name__}", "the log has more")
