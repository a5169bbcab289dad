"""Error handlers of FastAPI and Litestar: problem documents, headers, logs, and WebSockets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Response, WebSocket
from litestar import Litestar, get, post
from litestar.di import NamedDependency, Provide
from sqlalchemy import URL
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from src.config import Settings
from src.database import AsyncSession, get_db, get_read_db
from src.database.base import uuid7
from src.database.errors import CommitOutcomeUnknown, NotFoundError, PoolExhausted, SerializationError
from src.database.integrations.fastapi import install_error_handlers
from src.database.integrations.litestar import EXCEPTION_HANDLERS
from src.database.models import User
from src.database.repositories import UserRepository

Session = Annotated[AsyncSession, Depends(get_db, scope="function")]
TYPE = "urn:problem-type:thea-database:"


def fastapi_app() -> FastAPI:
    app = FastAPI()
    install_error_handlers(app)

    @app.post("/users")
    async def create(session: Session) -> None:
        session.add(User(telegram_id=1))

    @app.get("/missing")
    async def missing(session: Session) -> None:
        await UserRepository(session).get(uuid7())

    @app.get("/page")
    async def page(session: Session) -> None:
        await UserRepository(session).page(after="forged")

    @app.get("/busy")
    async def busy(session: Session) -> None:
        await UserRepository(session).count()

    @app.get("/unknown")
    async def unknown() -> None:
        raise CommitOutcomeUnknown("canary")

    @app.get("/fault")
    async def fault() -> None:
        raise ValueError("of the service")

    return app


def litestar_app() -> Litestar:
    dependencies = {"session": Provide(get_db), "reading": Provide(get_read_db)}

    @post("/users", dependencies=dependencies)
    async def create(session: NamedDependency[AsyncSession], reading: NamedDependency[AsyncSession]) -> None:
        await UserRepository(reading).count()
        session.add(User(telegram_id=1))

    @get("/missing", dependencies={"session": Provide(get_db)})
    async def missing(session: NamedDependency[AsyncSession]) -> None:
        await UserRepository(session).get(uuid7())

    @get("/page", dependencies={"session": Provide(get_db)})
    async def page(session: NamedDependency[AsyncSession]) -> None:
        await UserRepository(session).page(after="forged")

    @get("/busy", dependencies={"session": Provide(get_db)})
    async def busy(session: NamedDependency[AsyncSession]) -> None:
        await UserRepository(session).count()

    @get("/unknown")
    async def unknown() -> None:
        raise CommitOutcomeUnknown("canary")

    @get("/fault")
    async def fault() -> None:
        raise ValueError("of the service")

    return Litestar([create, missing, page, busy, unknown, fault], exception_handlers=EXCEPTION_HANDLERS)


@pytest.fixture(params=[fastapi_app, litestar_app])
def client(request: pytest.FixtureRequest) -> httpx.AsyncClient:
    """A client of the application, which gets 500 for an error that is not answered."""
    app: Any = request.param()
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest.mark.usefixtures("cloned_database")
@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [("/missing", 404, "not-found"), ("/page", 400, "invalid-cursor"), ("/unknown", 500, "commit-outcome-unknown")],
)
async def test_an_error_is_answered_with_a_problem_document(
    client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str], path: str, status: int, kind: str
) -> None:
    answer = await client.get(path)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json().items() >= {"type": TYPE + kind, "status": status}.items()
    assert "canary" not in answer.text
    assert capsys.readouterr().err.count("request_failed") == 1


@pytest.mark.usefixtures("cloned_database")
async def test_an_error_at_commit_is_answered(client: httpx.AsyncClient) -> None:
    """With two sessions, Litestar commits in a task group, which raises a group."""
    assert (await client.post("/users")).status_code in {200, 201}
    answer = await client.post("/users")

    assert (answer.status_code, answer.json()["type"]) == (409, f"{TYPE}duplicate-key")


@pytest.mark.usefixtures("cloned_database")
async def test_an_error_of_the_service_is_left_to_the_framework(client: httpx.AsyncClient) -> None:
    answer = await client.get("/fault")

    assert answer.status_code == 500
    assert answer.headers["content-type"] != "application/problem+json"


async def test_a_full_pool_is_answered_with_503_and_a_time_to_retry(
    cloned_database: URL, use_database: Callable[..., Settings], client: httpx.AsyncClient
) -> None:
    use_database(
        cloned_database.update_query_dict({"pool_max": "1"}),
        ENVIRONMENT="staging",
        DATABASE_POOL_TIMEOUT="0.1",
        DATABASE_DEFAULT_TENANT=str(uuid7()),
    )
    async with get_db() as session:
        await UserRepository(session).count()
        answer = await client.get("/busy")

    assert (answer.status_code, answer.json()["type"]) == (503, f"{TYPE}pool-exhausted")
    assert answer.headers["retry-after"] == "1"


async def test_a_handler_of_the_service_has_priority() -> None:
    app = fastapi_app()

    @app.exception_handler(NotFoundError)
    async def own(_request: Any, _error: Exception) -> Any:
        return Response(status_code=410)

    @app.get("/gone")
    async def gone() -> None:
        raise NotFoundError("there is no such row")

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/gone")).status_code == 410


@pytest.mark.parametrize("is_accepted", [True, False])
@pytest.mark.parametrize(
    ("error", "code"), [(NotFoundError, 1008), (SerializationError, 1013), (CommitOutcomeUnknown, 1011)]
)
def test_a_websocket_is_closed_with_a_code(error: type[Exception], code: int, is_accepted: bool) -> None:
    app = FastAPI()
    install_error_handlers(app)

    @app.websocket("/")
    async def fail(socket: WebSocket) -> None:
        if is_accepted:
            await socket.accept()
        raise error("canary")

    with pytest.raises(WebSocketDisconnect) as closed, TestClient(app).websocket_connect("/") as socket:
        socket.receive_text()

    assert (closed.value.code, closed.value.reason) == (code, "")


def test_an_error_after_the_websocket_was_closed_is_logged_and_no_second_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    app = FastAPI()
    install_error_handlers(app)

    @app.websocket("/")
    async def close(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close(1000)
        raise PoolExhausted("canary")

    with pytest.raises(WebSocketDisconnect) as closed, TestClient(app).websocket_connect("/") as socket:
        socket.receive_text()

    assert closed.value.code == 1000
    assert "PoolExhausted" in capsys.readouterr().err
