"""The code for web frameworks in README.md, docs/ and examples/."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final
from uuid import UUID

import httpx
import pytest
from aiogram.dispatcher.event.bases import UNHANDLED
from fastapi import Depends, FastAPI
from faststream.redis import TestRedisBroker
from sqlalchemy import URL

from src.config import Settings
from src.database import current_tenant, get_read_db, tenant_context
from src.database.base import uuid7
from src.database.errors import TenantRefused
from src.database.integrations import problems
from src.database.repositories import UserRepository
from tests.acceptance.command import CANARY
from tests.acceptance.documented import ROOT, blocks
from tests.acceptance.test_documented_tenants import code_of
from tests.frameworks.mocked_bot import MockedBot, update_of

A = uuid7()
PAGE: Final = (ROOT / "docs" / "frameworks.md").read_text()


@pytest.fixture
def module_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A function that runs the code of a section of docs/frameworks.md as a module, and returns the module."""

    def run(section: str) -> Any:
        [code] = blocks(PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0])
        module = ModuleType("service")
        monkeypatch.setitem(sys.modules, "service", module)  # frameworks look annotations up in it
        exec(compile(code, f"docs/frameworks.md, {section}", "exec"), vars(module))  # noqa: S102 - the page's own code
        return module

    return run


async def telegram_ids(tenant_id: UUID) -> list[int | None]:
    with tenant_context(tenant_id):
        async with get_read_db() as session:
            return [user.telegram_id async for user in UserRepository(session).stream()]


@pytest.mark.parametrize("framework", ["FastAPI", "Litestar"])
async def test_a_web_service_of_two_tenants(
    framework: str, module_of: Callable[[str], Any], tenants: dict[str, UUID]
) -> None:
    app = module_of(framework).app
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        acme, globex = ({"X-Tenant": slug} for slug in tenants)
        created = await client.post("/users", params={"telegram_id": 7}, headers=acme)
        again = await client.post("/users", params={"telegram_id": 7}, headers=acme)
        path = f"/users/{created.json()}"
        answers = [await client.get(path, headers=headers) for headers in (acme, globex, {"X-Tenant": "nothing"}, {})]

    assert (created.status_code, again.status_code) == (201, 409)
    assert answers[0].json() == 7
    assert [answer.status_code for answer in answers] == [200, 404, 403, 400]


async def test_the_job_of_taskiq_has_its_tenant(module_of: Callable[[str], Any], tenants: dict[str, UUID]) -> None:
    service = module_of("taskiq")
    await service.broker.startup()
    job = await service.register.kiq(tenants["acme"], 7)
    (await job.wait_result()).raise_for_error()
    await service.broker.shutdown()

    assert (await telegram_ids(tenants["acme"]), await telegram_ids(tenants["globex"])) == ([7], [])


async def test_the_subscriber_of_faststream_has_its_tenant(
    module_of: Callable[[str], Any], tenants: dict[str, UUID]
) -> None:
    service = module_of("FastStream")
    async with TestRedisBroker(service.broker) as broker:
        await broker.publish({"tenant_id": str(tenants["acme"]), "telegram_id": 7}, "registrations")

    assert (await telegram_ids(tenants["acme"]), await telegram_ids(tenants["globex"])) == ([7], [])


async def test_the_bot_of_aiogram_answers_after_the_commit(
    module_of: Callable[[str], Any], tenants: dict[str, UUID]
) -> None:
    service, bot = module_of("aiogram"), MockedBot(42)
    for _ in range(2):
        await service.dispatcher._process_update(bot, update_of(7))

    assert bot.texts == ["Welcome!", "Welcome back!"]
    assert await telegram_ids(tenants["acme"]) == [7]
    assert await service.dispatcher.feed_update(MockedBot(43), update_of(8)) is UNHANDLED


async def test_the_function_that_reads_a_claim(module_of: Callable[[str], Any]) -> None:
    tenant_of = module_of("The tenant of a request").tenant_of

    assert tenant_of({"state": {}}) is None
    assert tenant_of({"state": {"claims": {"scopes": ["assistant"], "tenant": "acme"}}}) == "acme"
    with pytest.raises(TenantRefused):
        tenant_of({"state": {"claims": {"scopes": [], "tenant": "acme"}}})


def test_the_page_lists_the_status_of_each_error() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d{3}(?:, `Retry-After: 1`)?) \|", PAGE, re.MULTILINE))
    table = {
        kind.__name__: f"{each.status}" + (f", `Retry-After: {each.retry_after_seconds}`" if each.headers else "")
        for kind, each in problems._PROBLEMS.items()
    }

    assert rows == table


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
