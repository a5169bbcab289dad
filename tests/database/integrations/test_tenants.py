"""TenantMiddleware: the tenant of a request, equal refusals, one query for many requests, and no tenant left behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database import current_tenant, get_db, get_read_db
from src.database.base import uuid7
from src.database.errors import ConnectionFailed, NoTenantError, TenantRefused
from src.database.integrations import tenants
from src.database.integrations.tenants import (
    Named,
    Receive,
    Scope,
    Send,
    TenantLookup,
    TenantMiddleware,
    TenantOf,
    from_header,
    from_path,
)
from src.database.models import Tenant
from src.database.repositories import TenantRepository
from src.database.session.scopes import read_engine

ACME, CLOSED = uuid7(), uuid7()
SLUGS = {ACME: "acme", CLOSED: "closed"}


@pytest.fixture
async def registry(cloned_database: URL, use_database: Callable[..., Settings]) -> URL:
    """A database without a default tenant, with an active tenant and a suspended one."""
    use_database(cloned_database, ENVIRONMENT="staging")
    async with get_db() as session:
        session.add_all([Tenant(id=each, slug=slug, name=slug) for each, slug in SLUGS.items()])
        await session.flush()
        await TenantRepository(session).suspend(CLOSED)
    return cloned_database


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The names that are looked up in the registry."""
    asked: list[object] = []
    original = tenants._active_tenant

    async def count(key: UUID | str) -> UUID | None:
        asked.append(key)
        return await original(key)

    monkeypatch.setattr(tenants, "_active_tenant", count)
    return asked


async def show_tenant(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer with the current tenant, in two pieces with a pause between them, as a stream does."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(current_tenant()).encode(), "more_body": True})
    await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": f" {current_tenant()}".encode()})


def scope_of(path: str = "/", *tenant: str, kind: str = "http", **more: Any) -> Scope:
    return {"type": kind, "path": path, "headers": [(b"x-tenant", each.encode()) for each in tenant], **more}


async def request(app: TenantMiddleware, scope: Scope) -> list[Any]:
    """Return the messages of the answer."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("the middleware reads no body")

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


async def answer(app: TenantMiddleware, scope: Scope) -> tuple[int, str]:
    sent = await request(app, scope)
    return sent[0]["status"], b"".join(message["body"] for message in sent[1:]).decode()


def by_header(**options: Any) -> TenantMiddleware:
    return TenantMiddleware(show_tenant, tenant_of=from_header("X-Tenant"), **options)


@pytest.mark.usefixtures("registry")
async def test_the_tenant_of_a_request_is_current_until_its_body_is_sent_and_no_longer() -> None:
    app = by_header()

    for name in (str(ACME), str(ACME).upper(), "acme"):
        assert await answer(app, scope_of("/", name)) == (200, f"{ACME} {ACME}")
        assert current_tenant() is None


@pytest.mark.usefixtures("registry")
async def test_each_refusal_looks_the_same() -> None:
    def refuse(_scope: Scope) -> Named:
        raise TenantRefused("the caller does not belong to the tenant")

    async def find_no_user(_scope: Scope) -> UUID:
        async with get_read_db() as session:
            return (await TenantRepository(session).get(uuid7())).id

    names = [str(uuid7()), "nothing", "closed", str(CLOSED), "Not a slug", "acme, closed", "", ACME.hex, f"{{{ACME}}}"]
    answers = {await answer(by_header(), scope_of("/", name)) for name in names}
    answers.add(await answer(by_header(), scope_of("/", "acme", "acme")))
    for tenant_of in (refuse, find_no_user):
        answers.add(await answer(TenantMiddleware(show_tenant, tenant_of=tenant_of), scope_of()))

    [(status, body)] = answers
    assert status == 403
    assert json.loads(body) == {
        "type": "urn:problem-type:thea-database:tenant-refused",
        "title": "The tenant cannot be used",
        "status": 403,
    }


@pytest.mark.usefixtures("registry")
async def test_a_slug_in_the_form_of_an_id_is_never_taken_for_the_tenant_with_this_id() -> None:
    async with get_db() as session:
        session.add(Tenant(slug=str(CLOSED), name="has the id of another tenant as its slug"))

    assert (await answer(by_header(), scope_of("/", str(CLOSED))))[0] == 403


async def test_a_request_without_a_tenant_is_answered_with_400() -> None:
    status, body = await answer(by_header(), scope_of())

    assert (status, json.loads(body)["type"]) == (400, "urn:problem-type:thea-database:no-tenant")


@pytest.mark.parametrize(
    ("path", "status"), [("/health", 200), ("/health/live", 200), ("/healthy", 400), ("//health", 400), ("/", 400)]
)
async def test_public_paths_are_served_without_a_tenant(path: str, status: int) -> None:
    assert (await answer(by_header(public=["/health/"]), scope_of(path)))[0] == status


@pytest.mark.parametrize("public", ["", "/", "health"])
def test_a_public_path_that_is_not_a_path_is_refused(public: str) -> None:
    with pytest.raises(ValueError, match="public must be paths like /health"):
        by_header(public=[public])


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_function_of_the_service_reads_a_claim(is_async: bool) -> None:
    def claim(scope: Scope) -> Named:
        return UUID(scope["state"]["claims"]["tenant"])

    async def claim_later(scope: Scope) -> UUID | str | None:
        return UUID(scope["state"]["claims"]["tenant"])

    app = TenantMiddleware(show_tenant, tenant_of=claim_later if is_async else claim)
    scope = scope_of(state={"claims": {"tenant": str(ACME)}})

    assert await answer(app, scope) == (200, f"{ACME} {ACME}")


@pytest.mark.parametrize(
    ("template", "path", "root_path", "found"),
    [
        ("/t/{tenant}", "/t/acme", "", "acme"),
        ("/t/{tenant}/", "/t/acme/users/1", "", "acme"),
        ("/{tenant}/users", "/acme/users", "/api/", "acme"),
        ("/t/{tenant}", "/api/t/acme", "/api", "acme"),
        ("/t/{tenant}", "/api/t/acme", "", None),
        ("/t/{tenant}", "/t/", "", None),
        ("/t/{tenant}", "/tt/acme", "", None),
        ("/t/{tenant}/x", "/t/acme/xy", "", None),
        ("/t.x/{tenant}", "/t-x/acme", "", None),
    ],
)
def test_the_path_names_the_tenant(template: str, path: str, root_path: str, found: str | None) -> None:
    assert from_path(template)(scope_of(path, root_path=root_path)) == found


@pytest.mark.parametrize("template", ["", "/", "t/{tenant}", "/t", "/t-{tenant}", "/{tenant}/{tenant}"])
def test_a_template_that_names_no_tenant_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"template must be a path with one segment \{tenant\}, got"):
        from_path(template)


@pytest.mark.parametrize("name", ["", "X-Ténant"])
def test_a_header_that_cannot_be_sent_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name must be the name of a header"):
        from_header(name)


async def test_a_tenant_of_another_type_is_an_error_that_names_the_type() -> None:
    with pytest.raises(TypeError, match="a tenant must be a UUID, or text with its id or slug, got int"):
        await TenantLookup().get(7)  # type: ignore[arg-type] # what is tested
    with pytest.raises(NoTenantError):
        await TenantLookup().resolve(None)


@pytest.mark.parametrize("option", ["seconds", "refused_seconds", "size"])
def test_a_limit_that_is_not_above_0_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be above 0, got 0"):
        TenantLookup(**{option: 0})


@pytest.mark.slow
@pytest.mark.usefixtures("registry")
async def test_many_requests_share_one_query_that_survives_the_first_one(queries: list[object]) -> None:
    lookup = TenantLookup()
    first, *others = [asyncio.create_task(lookup.get("acme")) for _ in range(50)]
    await asyncio.sleep(0)
    first.cancel()

    assert set(await asyncio.gather(*others)) == {ACME}
    assert await lookup.get("acme") == ACME
    assert first.cancelled()
    assert queries == ["acme"]


@pytest.mark.slow
@pytest.mark.usefixtures("registry")
async def test_a_refusal_is_shared_and_kept_too(queries: list[object]) -> None:
    lookup = TenantLookup()
    results = await asyncio.gather(*(lookup.get("nothing") for _ in range(50)), return_exceptions=True)
    with pytest.raises(TenantRefused):
        await lookup.get("nothing")

    assert {type(result) for result in results} == {TenantRefused}
    assert queries == ["nothing"]


@pytest.mark.slow
@pytest.mark.usefixtures("registry")
async def test_a_change_of_the_registry_is_noticed_when_the_answer_expires() -> None:
    lookup = TenantLookup(seconds=0.2, refused_seconds=0.2)
    assert await lookup.get("acme") == ACME
    with pytest.raises(TenantRefused):
        await lookup.get("closed")
    async with get_db() as session:
        await TenantRepository(session).suspend(ACME)
        await TenantRepository(session).activate(CLOSED)
    await asyncio.sleep(0.3)

    with pytest.raises(TenantRefused):
        await lookup.get("acme")
    assert await lookup.get("closed") == CLOSED


@pytest.mark.slow
@pytest.mark.usefixtures("registry")
async def test_many_unknown_names_displace_no_active_tenant_and_stay_few(queries: list[object]) -> None:
    lookup = TenantLookup(size=3)
    await lookup.get("acme")
    for number in range(9):
        with pytest.raises(TenantRefused):
            await lookup.get(f"tried-{number}")
    await lookup.get("acme")

    assert queries.count("acme") == 1
    [answers] = lookup._of_loop.values()
    assert len(answers.refused._values) == 3


def test_a_value_that_is_kept_again_is_the_newest() -> None:
    kept = tenants._Kept[int](60, 2)
    for name in ("a", "b", "a", "c"):
        kept.keep(name, 1)

    assert [kept.get(name) for name in ("a", "b", "c")] == [1, None, 1]


@pytest.mark.slow
@pytest.mark.usefixtures("registry")
async def test_requests_of_several_tenants_at_the_same_time_see_their_own() -> None:
    app, others = by_header(), [uuid7() for _ in range(10)]
    async with get_db() as session:
        session.add_all([Tenant(id=each, slug=f"t-{each}", name="T") for each in others])

    expected = [each for _ in range(5) for each in others]
    answers = await asyncio.gather(*(answer(app, scope_of("/", str(each))) for each in expected))

    assert answers == [(200, f"{each} {each}") for each in expected]
    assert current_tenant() is None


@pytest.mark.slow
@pytest.mark.usefixtures("registry")
def test_a_lookup_serves_one_event_loop_after_another(queries: list[object]) -> None:
    """A loop that ends during a query leaves it behind."""
    lookup = TenantLookup()

    async def abandon() -> None:
        waiting = asyncio.create_task(lookup.get("acme"))
        await asyncio.sleep(0)
        waiting.cancel()

    async def look_up() -> UUID:
        found = await lookup.get("acme")
        await read_engine.dispose()
        return found

    asyncio.run(abandon())

    assert [asyncio.run(look_up()) for _ in range(2)] == [ACME, ACME]
    assert queries == ["acme"] * 3


@pytest.mark.slow
@pytest.mark.usefixtures("registry")
async def test_clear_forgets_all_answers(queries: list[object]) -> None:
    lookup = TenantLookup()
    for _ in range(2):
        await lookup.get("acme")
        lookup.clear()

    assert queries == ["acme"] * 2


@pytest.mark.slow
async def test_a_failed_lookup_is_answered_with_its_status_and_not_kept(
    registry: URL, use_database: Callable[..., Settings]
) -> None:
    app = by_header()
    use_database(URL.create("postgresql", "u", "canary-secret", "127.0.0.1", 1, "d"), ENVIRONMENT="test")
    status, body = await answer(app, scope_of("/", "acme"))
    with pytest.raises(ConnectionFailed):
        await app._lookup.get("acme")
    use_database(registry)

    assert (status, json.loads(body)["type"]) == (503, "urn:problem-type:thea-database:connection-failed")
    assert "canary" not in body
    assert (await answer(app, scope_of("/", "acme")))[0] == 200


@pytest.mark.parametrize(
    ("tenant_of", "extensions", "sent"),
    [
        (from_header("x-tenant"), {}, [{"type": "websocket.close", "code": 1008}]),
        (from_header("x-tenant"), None, [{"type": "websocket.close", "code": 1008}]),
        (from_header("x-tenant"), {"websocket.http.response": {}}, None),
    ],
)
async def test_a_websocket_is_refused_before_it_is_accepted(
    tenant_of: TenantOf, extensions: dict[str, Any] | None, sent: list[Any] | None
) -> None:
    app = TenantMiddleware(show_tenant, tenant_of=tenant_of)
    messages = await request(app, scope_of("/", "No Slug", kind="websocket", extensions=extensions))

    if sent is None:
        start, body = messages
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 403)
        assert body["type"] == "websocket.http.response.body"
    else:
        assert messages == sent


@pytest.mark.slow
@pytest.mark.usefixtures("registry")
async def test_a_session_of_the_request_has_its_tenant() -> None:
    seen: list[UUID | None] = []

    async def read(_scope: Scope, _receive: Receive, _send: Send) -> None:
        async with get_read_db() as session:
            seen.append(session.tenant_id)

    await request(TenantMiddleware(read, tenant_of=from_header("x-tenant")), scope_of("/", "acme", kind="websocket"))

    assert seen == [ACME]


async def test_the_lifespan_needs_no_tenant() -> None:
    served: list[str] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        served.append(scope["type"])

    await request(TenantMiddleware(app, tenant_of=from_header("x-tenant")), {"type": "lifespan"})

    assert served == ["lifespan"]
