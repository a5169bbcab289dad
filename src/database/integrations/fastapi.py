"""Error handlers for FastAPI and Starlette: the errors of this package as problem documents (RFC 9457)."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketState

from src.database.integrations.problems import HANDLED, MEDIA_TYPE, problem_of

__all__ = ["install_error_handlers"]


def install_error_handlers(app: Starlette) -> None:
    """Answer each error of this package with a problem document, or by closing the WebSocket.

    A handler of the service for one class, such as NotFoundError, has priority for this class. An error at commit is
    answered only if the session is a dependency with `scope="function"`: with FastAPI's default scope the commit runs
    after the response.

    Args:
        app: The application, of FastAPI or Starlette.
    """
    for kind in HANDLED:
        # Starlette passes requests and WebSockets to one handler, which its type does not allow.
        app.add_exception_handler(kind, _answer)  # type: ignore[arg-type]


async def _answer(connection: Request | WebSocket, error: Exception) -> Response | None:
    problem = problem_of(error)
    if isinstance(connection, WebSocket):
        if connection.application_state != WebSocketState.DISCONNECTED:
            await connection.close(problem.close_code)
        return None
    return Response(problem.body, problem.status, problem.headers, MEDIA_TYPE)
