"""With PgBouncer in transaction mode: no error, no row of another tenant, and no setting that stays on a connection."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import URL, text

from src.config import Settings
from src.database import AsyncSession, engine, get_db, get_engine, get_read_db, tenant_context
from src.database.base import uuid7
from src.database.errors import ConnectionFailed, DatabaseError, LockNotAvailable, QueryTimeout
from src.database.models import Tenant, User
from src.database.repositories import ConversationRepository, MessageHistoryRepository, NewMessage, UserRepository
from src.database.session import SessionScope
from src.database.session.scopes import read_engine
from src.database.store import get_store
from tests.acceptance.command import database, run
from tests.acceptance.pgbouncer import PgBouncer, needs_pgbouncer, pgbouncer
from tests.conftest import SOCKETS, url_of

pytestmark = needs_pgbouncer

CALLS, QUICK_CALLS = 2000, 600
SERVER_CONNECTIONS = 4
CONVERSATIONS_EACH = 4
# Without a predicate: a wrong binding would return rows of another tenant.
TENANTS_SEEN = text("SELECT DISTINCT tenant_id FROM message_history UNION SELECT DISTINCT tenant_id FROM users")
SETTINGS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "app.tenant_id")
SHOW = ", ".join(f"current_setting('{name}', true)" for name in (*SETTINGS, "transaction_read_only"))


@pytest.fixture
def behind(cloned_database: URL) -> Iterator[PgBouncer]:
    """A PgBouncer in front of the suite's server."""
    with pgbouncer(SOCKETS, pool_size=SERVER_CONNECTIONS) as started:
        yield started


@pytest.fixture
async def database_behind(
    behind: PgBouncer, cloned_database: URL, use_database: Callable[..., Settings]
) -> AsyncIterator[URL]:
    """The test's database; `get_db` and `get_read_db` connect through PgBouncer."""
    url = behind.url(str(cloned_database.database), pool_max="16")
    use_database(url, DATABASE_PGBOUNCER="true")
    yield url
    await engine.dispose()
    await read_engine.dispose()


class Service:
    """The calls of a service of one tenant; each checks the tenants of its rows."""

    def __init__(self) -> None:
        self.tenant = uuid7()
        self.conversations: list[UUID] = []
        self.appended = 0

    async def begin(self) -> None:
        async with get_db() as session:
            session.add(Tenant(id=self.tenant, slug=str(self.tenant), name="t"))
        with tenant_context(self.tenant):
            async with get_db() as session:
                user, _ = await UserRepository(session).get_or_create_by_telegram_id(1)
                for chat in range(CONVERSATIONS_EACH):
                    found, _ = await ConversationRepository(session).get_or_start(user.id, "telegram", str(chat))
                    self.conversations.append(found.id)

    async def call(self, number: int) -> None:
        conversation = self.conversations[number % CONVERSATIONS_EACH]
        with tenant_context(self.tenant):
            if number % 5 == 0:
                async with get_db() as session:
                    message = NewMessage(message_id=str(number), role="user", content=str(self.tenant))
                    done = await MessageHistoryRepository(session).append(conversation, message)
                    assert done.message.tenant_id == self.tenant
                self.appended += 1
            elif number % 5 == 1:
                async with get_db() as session:
                    user, _ = await UserRepository(session).get_or_create_by_telegram_id(1 + number % 7)
                    assert user.tenant_id == self.tenant
            elif number % 5 == 2:
                async with get_db() as session:
                    assert set(await session.scalars(TENANTS_SEEN)) == {self.tenant}
            elif number % 5 == 3:
                async with get_read_db() as session:
                    messages = await MessageHistoryRepository(session).recent(conversation)
                    assert {message.content for message in messages} <= {str(self.tenant)}
            else:
                async with get_read_db() as session:
                    assert set(await session.scalars(TENANTS_SEEN)) == {self.tenant}


async def test_concurrent_calls_of_4_tenants_over_4_server_connections_have_no_error_and_no_foreign_row(
    database_behind: URL, superuser: psycopg.Connection, *, is_long: bool
) -> None:
    """600 calls; with `--long` 2,000."""
    number = CALLS if is_long else QUICK_CALLS
    services = [Service() for _ in range(4)]
    for service in services:
        await service.begin()

    calls = [services[n % 4].call(n // 4) for n in range(number)]
    results = await asyncio.gather(*calls, return_exceptions=True)

    assert [one for one in results if one is not None] == []
    for service in services:
        stored = superuser.execute("SELECT count(*) FROM message_history WHERE tenant_id = %s", [service.tenant])
        assert stored.fetchall() == [(service.appended,)] == [(number // 4 // 5,)]
    opened = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    assert superuser.execute(opened).fetchall() == [(SERVER_CONNECTIONS,)]


@pytest.mark.slow
async def test_cancelled_calls_do_not_affect_others(database_behind: URL) -> None:
    dice = random.Random(1)  # noqa: S311 - repeatable, not for security
    services = [Service() for _ in range(4)]
    for service in services:
        await service.begin()

    async def call(number: int) -> None:
        async with asyncio.timeout(dice.uniform(0, 0.3) if number % 2 else None):
            await services[number % 4].call(number // 4)

    results = await asyncio.gather(*(call(n) for n in range(400)), return_exceptions=True)
    later = await asyncio.gather(*(services[n % 4].call(1000 + n) for n in range(100)), return_exceptions=True)

    assert [one for one in results if not isinstance(one, TimeoutError | None)] == []
    assert sum(isinstance(one, TimeoutError) for one in results) > 10
    assert [one for one in results[::2] if one is not None] == [], "only cancelled calls have an error"
    assert [one for one in later if one is not None] == []


async def plain(url: URL) -> tuple[str | None, ...] | None:
    """Return the settings of a client that sets none, on the only server connection."""
    connection = await psycopg.AsyncConnection.connect(
        host=str(url.query["host"]), user=url.username, dbname=url.database, prepare_threshold=None
    )
    async with connection:
        cursor = await connection.execute(f"SELECT {SHOW}")
        return await cursor.fetchone()


@pytest.mark.parametrize("scope", [get_db, get_read_db])
async def test_the_limits_apply_in_a_transaction_and_end_with_it(
    scope: Callable[[], SessionScope[AsyncSession]], cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    with pgbouncer(SOCKETS, pool_size=1) as one:
        url = one.url(str(cloned_database.database), statement_timeout="1500", lock_timeout="700")
        use_database(url, DATABASE_PGBOUNCER="true", DATABASE_IDLE_TRANSACTION_TIMEOUT="9000")
        before = await plain(url)
        async with scope() as session:
            inside = (await session.execute(text(f"SELECT {SHOW}"))).one()
            tenant = str(session.tenant_id)
        after = await plain(url)

    assert before == ("0", "0", "0", None, "off")
    assert tuple(inside) == ("1500ms", "700ms", "9s", tenant, "on" if scope is get_read_db else "off")
    assert after == ("0", "0", "0", "", "off")


async def test_a_statement_and_a_lock_that_take_too_long_are_cancelled(
    behind: PgBouncer, cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    parameters = {"statement_timeout": "400", "lock_timeout": "100"}
    use_database(behind.url(str(cloned_database.database), **parameters), DATABASE_PGBOUNCER="true")
    lock = text("SELECT pg_advisory_xact_lock(1)")

    with pytest.raises(QueryTimeout):
        async with get_db() as session:
            await session.execute(text("SELECT pg_sleep(5)"))
    async with get_db() as holder:
        await holder.execute(lock)
        with pytest.raises(LockNotAvailable):
            async with get_db() as session:
                await session.execute(lock)


async def test_a_read_session_rejects_writes_and_takes_snapshots_behind_pgbouncer(database_behind: URL) -> None:
    service = Service()
    await service.begin()
    with tenant_context(service.tenant):
        with pytest.raises(DatabaseError, match="the transaction is read-only"):
            async with get_read_db() as session:
                await UserRepository(session).get_or_create_by_telegram_id(99)
        async with get_read_db() as session:
            await session.snapshot()
            before = await MessageHistoryRepository(session).count()
            await service.call(0)
            during = await MessageHistoryRepository(session).count()
        async with get_read_db() as session:
            streamed = [row async for row in await session.stream(TENANTS_SEEN)]

    assert (before, during) == (0, 0)
    assert streamed == [(service.tenant,)]


async def test_without_the_setting_the_error_names_it(
    behind: PgBouncer, cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    use_database(behind.url(str(cloned_database.database)))

    with pytest.raises(ConnectionFailed, match="DATABASE_PGBOUNCER=true") as raised:
        async with get_db() as session:
            await session.execute(text("SELECT 1"))

    assert "PgBouncer" in str(raised.value)


async def test_the_first_host_that_answers_is_used(
    behind: PgBouncer, cloned_database: URL, use_database: Callable[..., Settings], tmp_path: Path
) -> None:
    url = behind.url(str(cloned_database.database), target_session_attrs="read-write")
    use_database(url.update_query_dict({"host": f"{tmp_path},{behind.sockets}"}), DATABASE_PGBOUNCER="true")

    async with get_db() as session:
        assert await session.scalar(text("SELECT 1")) == 1


@pytest.mark.slow
def test_migrations_need_their_own_url_to_the_server(
    behind: PgBouncer, cloned_database: URL, superuser: psycopg.Connection, tmp_path: Path
) -> None:
    superuser.execute("DROP SCHEMA public CASCADE")
    superuser.execute("CREATE SCHEMA public AUTHORIZATION thea_owner")
    variables = {"DATABASE_URL": database(behind.url(str(cloned_database.database))), "DATABASE_PGBOUNCER": "true"}
    direct = database(url_of(str(cloned_database.database), "thea_owner"))

    refused = run("upgrade", folder=tmp_path, **variables)
    done = run("upgrade", folder=tmp_path, **variables, DATABASE_MIGRATION_URL=direct)

    assert refused.returncode == 2
    assert "DATABASE_MIGRATION_URL must be set if DATABASE_PGBOUNCER=true" in refused.stderr
    assert "set DATABASE_MIGRATION_URL to a URL of the server itself" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert done.returncode == 0, done.stderr
    assert superuser.execute("SELECT count(*) FROM thea_alembic_version").fetchall() == [(1,)]


async def test_temporary_tables_of_another_client_get_no_row(
    cloned_database: URL, use_database: Callable[..., Settings], superuser: psycopg.Connection
) -> None:
    """Both clients share the only server connection of PgBouncer."""
    with pgbouncer(SOCKETS, pool_size=1) as shared:
        use_database(shared.url(str(cloned_database.database), pool_max="1"), DATABASE_PGBOUNCER="true")
        async with get_db() as session:
            for table in ("users", "conversations", "message_history"):
                await session.execute(text(f"CREATE TEMPORARY TABLE {table} (LIKE public.{table} INCLUDING ALL)"))
        async with get_db() as session:
            session.add(User(telegram_id=1))
        store = get_store()
        await store.turn(2, "telegram", "2", [NewMessage(message_id="1", role="user", content="x")])
        async with get_read_db() as reading:
            count = await UserRepository(reading).count()
        await engine.dispose()
        await read_engine.dispose()
        await get_engine("store").dispose()

    assert count == 2
    assert superuser.execute("SELECT count(*) FROM public.users").fetchone() == (2,)
    assert superuser.execute("SELECT content FROM public.message_history").fetchall() == [("x",)]
