"""get_db in FastAPI: both scopes, overrides, and the commit before the response.

CI also runs it with the oldest supported release, 0.121.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

import fastapi
import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy import text

from src.database import get_db, get_read_db, tenant_context
from src.database.base import uuid7
from src.database.errors import DuplicateKeyError, SessionClosed
from src.database.models import Tenant, User
from src.database.repositories import UserRepository
from src.database.session import AsyncSession

pytestmark = pytest.mark.usefixtures("cloned_database")

FunctionScoped = Annotated[AsyncSession, Depends(get_db, scope="function")]
RequestScoped = Annotated[AsyncSession, Depends(get_db)]


def create_app() -> FastAPI:
    app = FastAPI()

    @app.exception_handler(DuplicateKeyError)
    async def conflict(_request: Any, error: Exception) -> JSONResponse:
        return JSONResponse({"error": type(error).__name__}, status_code=409)

    @app.post("/function/{telegram_id}", status_code=201)
    async def create_in_function(telegram_id: int, session: FunctionScoped) -> dict[str, Any]:
        session.add(User(telegram_id=telegram_id))
        return {"created": telegram_id}

    @app.post("/request/{telegram_id}", status_code=201)
    async def create_in_request(telegram_id: int, session: RequestScoped) -> dict[str, Any]:
        await UserRepository(session).add(User(telegram_id=telegram_id))
        return {"created": telegram_id}

    @app.get("/fails")
    async def fails(session: FunctionScoped) -> None:
        await UserRepository(session).add(User(telegram_id=99))
        raise fastapi.HTTPException(status_code=418)

    @app.get("/count")
    async def count(session: FunctionScoped) -> int:
        return await UserRepository(session).count()

    return app


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = create_app()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        client.app = app  # type: ignore[attr-defined] # for the overrides
        yield client


@pytest.mark.parametrize("scope", ["function", "request"])
async def test_commits_after_a_request(client: httpx.AsyncClient, scope: str) -> None:
    assert (await client.post(f"/{scope}/1")).status_code == 201
    assert (await client.get("/count")).json() == 1


async def test_in_function_scope_an_error_at_commit_reaches_the_client(client: httpx.AsyncClient) -> None:
    """The insert is sent at commit, after the endpoint and before the response."""
    assert (await client.post("/function/1")).status_code == 201
    assert (await client.post("/function/1")).status_code == 409


@pytest.mark.parametrize("scope", ["function", "request"])
async def test_an_error_in_the_endpoint_is_answered(client: httpx.AsyncClient, scope: str) -> None:
    await client.post("/request/1")

    assert (await client.post(f"/{scope}/1")).status_code == 409


async def test_rolls_back_a_failed_request(client: httpx.AsyncClient) -> None:
    assert (await client.get("/fails")).status_code == 418
    assert (await client.get("/count")).json() == 0


async def test_can_be_overridden(client: httpx.AsyncClient) -> None:
    async def other() -> AsyncIterator[AsyncSession]:
        with tenant_context(uuid7()):
            async with get_db() as session:
                await session.execute(text("SELECT 1"))
                yield session

    await client.post("/function/1")
    client.app.dependency_overrides[get_db] = other  # type: ignore[attr-defined] # set above

    assert (await client.get("/count")).json() == 0


async def test_an_asynchronous_dependency_sets_the_tenant() -> None:
    """A synchronous dependency would run in a thread and lose the context."""
    tenant_id = uuid7()
    async with get_db() as session:
        session.add(Tenant(id=tenant_id, slug="acme", name="Acme"))

    async def request_tenant(tenant: UUID) -> AsyncIterator[UUID]:
        with tenant_context(tenant) as current:
            yield current

    app = FastAPI(dependencies=[Depends(request_tenant)])

    @app.post("/users")
    async def create(session: FunctionScoped) -> str:
        return str((await UserRepository(session).add(User())).tenant_id)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.post("/users", params={"tenant": str(tenant_id)})).json() == str(tenant_id)


async def test_the_openapi_schema_does_not_mention_the_session(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]

    assert "parameters" not in paths["/count"]["get"]


async def test_the_tenant_may_be_a_later_dependency_than_the_session() -> None:
    """FastAPI resolves dependencies in their order, and ends the tenant's before the session's commit."""
    tenant_id = uuid7()
    async with get_db() as session:
        session.add(Tenant(id=tenant_id, slug="acme", name="Acme"))

    async def set_tenant() -> AsyncIterator[None]:
        with tenant_context(tenant_id):
            yield

    app = FastAPI()

    @app.post("/users")
    async def create(
        session: FunctionScoped,
        _tenant: None = Depends(set_tenant, scope="function"),
    ) -> None:
        session.add(User())

    @app.get("/users")
    async def count(
        session: Annotated[AsyncSession, Depends(get_read_db, scope="function")],
        _tenant: None = Depends(set_tenant, scope="function"),
    ) -> list[UUID]:
        return [user.tenant_id async for user in UserRepository(session).stream()]

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.post("/users")).status_code == 200
        assert (await client.get("/users")).json() == [str(tenant_id)]


async def test_a_read_session_takes_no_parameters_of_the_request() -> None:
    app = FastAPI()

    @app.get("/users")
    async def users(session: Annotated[AsyncSession, Depends(get_read_db, scope="function")]) -> int:
        return await UserRepository(session).count()

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/users", params={"read_your_writes": "1"})).json() == 0
    assert "parameters" not in app.openapi()["paths"]["/users"]["get"]


@pytest.mark.parametrize("path", ["/streamed", "/background"])
async def test_code_after_a_response_needs_a_session_of_its_own(path: str) -> None:
    app = FastAPI()

    async def write(session: AsyncSession) -> None:
        await UserRepository(session).add(User())

    @app.get("/streamed")
    async def streamed(session: FunctionScoped) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            await write(session)
            yield "done"

        return StreamingResponse(body())

    @app.get("/background")
    async def background(tasks: BackgroundTasks, session: FunctionScoped) -> None:
        tasks.add_task(write, session)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        with pytest.raises(SessionClosed):
            await client.get(path)
