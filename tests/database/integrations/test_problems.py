"""The problem documents of errors: a status for each class, inheritance, and no text of the error in the answer."""

from __future__ import annotations

import json

import pytest
from structlog.testing import capture_logs

from src.database import errors
from src.database.integrations.problems import Problem, problem_of
from src.database.statements import InvalidCursorError

STATUSES: dict[type[BaseException], tuple[int, str, str | None]] = {
    InvalidCursorError: (400, "invalid-cursor", None),
    errors.NoTenantError: (400, "no-tenant", None),
    errors.TenantRefused: (403, "tenant-refused", None),
    errors.NotFoundError: (404, "not-found", None),
    errors.DuplicateKeyError: (409, "duplicate-key", None),
    errors.IdempotencyConflictError: (409, "duplicate-key", None),
    errors.StaleDataError: (409, "stale-data", None),
    errors.ForeignKeyError: (409, "integrity", None),
    errors.CheckViolation: (422, "check-violation", None),
    errors.CommitOutcomeUnknown: (500, "commit-outcome-unknown", None),
    errors.PoolExhausted: (503, "pool-exhausted", "1"),
    errors.ConnectionFailed: (503, "connection-failed", None),
    errors.TlsFailed: (503, "connection-failed", None),
    errors.SerializationError: (503, "serialization", "1"),
    errors.DeadlockError: (503, "deadlock", "1"),
    errors.LockNotAvailable: (503, "lock-not-available", "1"),
    errors.SchemaChangedError: (503, "schema-changed", "1"),
    errors.QueryTimeout: (504, "query-timeout", None),
}
UNEXPECTED = [errors.DatabaseError, errors.MultipleResultsFoundError, errors.SchemaDriftError, errors.LazyLoadError]


@pytest.mark.parametrize("kind", STATUSES, ids=lambda kind: kind.__name__)
def test_an_error_has_the_status_of_its_class_and_the_answer_has_no_text_of_it(kind: type[BaseException]) -> None:
    problem = problem_of(kind("canary"))
    document = json.loads(problem.body)

    assert (problem.status, document.pop("type"), problem.headers.get("retry-after")) == (
        STATUSES[kind][0],
        f"urn:problem-type:thea-database:{STATUSES[kind][1]}",
        STATUSES[kind][2],
    )
    assert document.keys() == {"title", "status"}
    assert "canary" not in problem.body.decode()


@pytest.mark.parametrize("kind", [*UNEXPECTED, ValueError], ids=lambda kind: kind.__name__)
def test_any_other_error_is_an_internal_one(kind: type[Exception]) -> None:
    assert problem_of(kind("canary")) == Problem(500, "Internal Server Error")


def test_a_group_of_one_error_is_answered_as_the_error() -> None:
    error = errors.NotFoundError("there is no such row")

    assert problem_of(ExceptionGroup("cleanup", [ExceptionGroup("tasks", [error])])).status == 404
    assert problem_of(ExceptionGroup("cleanup", [error, ValueError()])).status == 500


def test_an_expected_error_is_logged_without_a_traceback() -> None:
    with capture_logs() as logs:
        problem_of(errors.DuplicateKeyError("a row with this key already exists", constraint="uq_users"))

    assert logs == [
        {
            "event": "request_failed",
            "log_level": "info",
            "status": 409,
            "error": "DuplicateKeyError",
            "reason": "a row with this key already exists",
        }
    ]


def test_an_unexpected_error_is_logged_with_its_traceback() -> None:
    with pytest.raises(errors.LazyLoadError) as raised:
        raise errors.LazyLoadError("User.events is not loaded")
    with capture_logs() as logs:
        problem_of(raised.value)

    [log] = logs
    assert (log["log_level"], log["exc_info"]) == ("error", raised.value)


@pytest.mark.parametrize(("status", "code"), [(403, 1008), (500, 1011), (503, 1013), (504, 1011)])
def test_a_websocket_is_closed_with_the_code_of_the_problem(status: int, code: int) -> None:
    assert Problem(status, "").close_code == code
