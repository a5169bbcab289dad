"""The code for web frameworks in README.md, docs/ and examples/."""

from __future__ import annotations

import runpy
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from sqlalchemy import URL

from src import database
from src.config import Settings
from src.database import current_tenant
from src.database.base import uuid7
from tests.acceptance.command import CANARY
from tests.acceptance.documented import ROOT, blocks, run
from tests.acceptance.test_documented_tenants import code_of

A = uuid7()


async def test_the_dependency_of_the_readme_sets_the_tenant_of_a_request() -> None:
    _, dependency = blocks((ROOT / "README.md").read_text())
    tenant_id = uuid7()
    names: dict[str, Any] = {
        "AsyncIterator": AsyncIterator,
        "Depends": Depends,
        "FastAPI": FastAPI,
        "Request": Request,
        "UUID": UUID,
        "tenant_context": database.tenant_context,
        "tenant_of": lambda request: UUID(request.headers["tenant"]),
    }
    await run(dependency, "README.md", names)
    names["app"].get("/")(current_tenant)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(names["app"]), base_url="http://test") as client:
        answer = await client.get("/", headers={"tenant": str(tenant_id)})

    assert answer.json() == str(tenant_id)


@pytest.mark.parametrize(("form", "expected"), [(0, None), (1, A)], ids=["wrong", "right"])
async def test_a_synchronous_dependency(form: int, expected: UUID | None) -> None:
    app = FastAPI(dependencies=[Depends(code_of("A synchronous dependency", form)["request_tenant"])])

    @app.get("/")
    async def show() -> UUID | None:
        return current_tenant()

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.get("/", params={"tenant_id": str(A)})

    assert answer.status_code == 200
    assert answer.json() == (expected and str(expected))
    assert current_tenant() is None


@pytest.mark.parametrize("is_sound", [True, False])
async def test_the_endpoints_of_the_health_example_return_200_and_503(
    cloned_database: URL, use_database: Callable[..., Settings], is_sound: bool
) -> None:
    if not is_sound:
        use_database(URL.create("postgresql", "u", CANARY, "127.0.0.1", 1, "d"))
    app: Any = runpy.run_path(str(ROOT / "examples" / "health_router.py"))["app"]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        live, ready = await client.get("/health/live"), await client.get("/health/ready")
        for _ in range(20 if is_sound else 0):
            if ready.status_code == 200:
                break
            ready = await client.get("/health/ready")  # the machine was too busy for this limit

    assert (live.status_code, live.json()["status"]) == (200, "healthy")
    assert (ready.status_code, ready.json()["status"]) == ((200, "healthy") if is_sound else (503, "unhealthy"))
    assert ready.json()["service"] == "thea-database"
    assert CANARY not in ready.text
