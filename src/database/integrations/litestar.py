"""Exception handlers for Litestar: the errors of this package as problem documents (RFC 9457)."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, Response
from litestar.types import ExceptionHandlersMap

from src.database.integrations.problems import HANDLED, MEDIA_TYPE, problem_of

__all__ = ["EXCEPTION_HANDLERS"]


def _answer(_request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    problem = problem_of(error)
    return Response(problem.body, status_code=problem.status, headers=problem.headers, media_type=MEDIA_TYPE)


# If a request has several dependencies, Litestar ends them in a task group, which puts an error at commit into a group.
EXCEPTION_HANDLERS: Final[ExceptionHandlersMap] = dict.fromkeys((*HANDLED, ExceptionGroup), _answer)
"""The handlers for `Litestar(exception_handlers=EXCEPTION_HANDLERS)`.

Litestar answers a WebSocket itself: it closes the socket with code 4500 and without the text of the error.
"""
