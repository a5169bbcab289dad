"""TenantMiddleware in FastAPI and Litestar: bodies, streams, background tasks and WebSockets have the tenant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import litestar
import pytest
from fastapi import BackgroundTasks, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from litestar.background_tasks import BackgroundTask
from litestar.exceptions import WebSocketDisconnect as LitestarDisconnect
from litestar.middleware import DefineMiddleware
from litestar.response import Response, Stream
from litestar.testing import TestClient as LitestarClient
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from src.database import current_tenant
from src.database.integrations.tenants import TenantMiddleware, from_header, from_path

IN_BACKGROUND: list[UUID | None] = []


async def pieces() -> AsyncIterator[str]:
    for _ in range(3):
        await asyncio.sleep(0.01)
        yield f"{current_tenant()} "


async def record() -> None:
    await asyncio.sleep(0.01)
    IN_BACKGROUND.append(current_tenant())


def fastapi_app() -> FastAPI:
    app = FastAPI()
    app.add_middleware(TenantMiddleware, tenant_of=from_header("X-Tenant"), public=["/public"])

    @app.get("/plain")
    async def plain() -> str:
        return str(current_tenant())

    @app.get("/thread")
    def thread() -> str:
        return str(current_tenant())

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(pieces())

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> None:
        tasks.add_task(record)

    @app.get("/public")
    async def public() -> str:
        return str(current_tenant())

    @app.websocket("/socket")
    async def socket(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(str(current_tenant()))
        await socket.close()

    return app


def litestar_app() -> litestar.Litestar:
    @litestar.get("/plain")
    async def plain() -> str:
        return str(current_tenant())

    @litestar.get("/thread", sync_to_thread=True)
    def thread() -> str:
        return str(current_tenant())

    @litestar.get("/stream")
    async def stream() -> Stream:
        return Stream(pieces())

    @litestar.get("/background")
    async def background() -> Response[None]:
        return Response(None, background=BackgroundTask(record))

    @litestar.get("/public")
    async def public() -> str:
        return str(current_tenant())

    @litestar.websocket("/socket")
    async def socket(socket: litestar.WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await socket.send_text(str(current_tenant()))
        await socket.close()

    middleware = DefineMiddleware(TenantMiddleware, tenant_of=from_header("X-Tenant"), public=["/public"])
    return litestar.Litestar([plain, thread, stream, background, public, socket], middleware=[middleware])


APPS = pytest.mark.parametrize("create_app", [fastapi_app, litestar_app])


@APPS
async def test_each_part_of_a_request_has_its_tenant(create_app: Any, tenants: dict[str, UUID]) -> None:
    IN_BACKGROUND.clear()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app()), base_url="http://test") as client:

        async def texts(slug: str) -> list[str]:
            return [
                (await client.get(path, headers={"X-Tenant": slug})).text.strip('"')
                for path in ("/plain", "/thread", "/stream", "/background")
            ]

        answers = await asyncio.gather(*(texts(slug) for slug in [*tenants] * 5))

    for (plain, thread, stream, _), tenant_id in zip(answers, [*tenants.values()] * 5, strict=True):
        assert {plain, thread, *stream.split()} == {str(tenant_id)}
    assert sorted(IN_BACKGROUND, key=str) == sorted([*tenants.values()] * 5, key=str)
    assert current_tenant() is None


@APPS
async def test_the_next_request_of_the_same_task_has_no_tenant(create_app: Any, tenants: dict[str, UUID]) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app()), base_url="http://test") as client:
        await client.get("/plain", headers={"X-Tenant": "acme"})
        public = await client.get("/public", headers={"X-Tenant": "acme"})
        nothing = await client.get("/plain")
        refused = await client.get("/plain", headers={"X-Tenant": "nothing"})

    assert (public.status_code, public.text.strip('"')) == (200, "None")
    assert (nothing.status_code, refused.status_code) == (400, 403)
    assert refused.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("create_app", "client_of", "disconnect"),
    [(fastapi_app, TestClient, WebSocketDisconnect), (litestar_app, LitestarClient, LitestarDisconnect)],
)
def test_a_websocket_has_the_tenant_and_is_refused_without_one(
    create_app: Any, client_of: Any, disconnect: type[Exception], tenants: dict[str, UUID]
) -> None:
    with client_of(create_app()) as client:
        with client.websocket_connect("/socket", headers={"X-Tenant": "acme"}) as socket:
            assert socket.receive_text() == str(tenants["acme"])
        with pytest.raises(disconnect), client.websocket_connect("/socket"):
            pass


async def test_the_path_names_the_tenant_of_a_mounted_application(tenants: dict[str, UUID]) -> None:
    inner, outer = FastAPI(), FastAPI()
    inner.add_middleware(TenantMiddleware, tenant_of=from_path("/{tenant}"))
    outer.mount("/api", inner)

    @inner.get("/{tenant}/users")
    async def show(tenant: str) -> str:
        return f"{tenant} {current_tenant()}"

    async with httpx.AsyncClient(transport=httpx.ASGITransport(outer), base_url="http://test") as client:
        assert (await client.get("/api/acme/users")).json() == f"acme {tenants['acme']}"
