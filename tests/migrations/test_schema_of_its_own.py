"""DATABASE_SCHEMA: the tables in a schema of their own, beside another installation in the same database."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import func, select

from src.config import Settings
from src.database import engine, get_db, get_read_db, tenant_context
from src.database.base import uuid7
from src.database.drift import verify
from src.database.embedded import APP_ROLE, OWNER_ROLE
from src.database.embedded.process import programs as find_programs
from src.database.errors import ConfigurationError, DatabaseError, LockNotAvailable
from src.database.migrate import Patience, current, downgrade, heads, migration_connection, sql, upgrade
from src.database.models import Tenant, User
from src.database.repositories import NewMessage, UserRepository
from src.database.store import get_store
from tests.acceptance.pgbouncer import PROGRAM, pgbouncer
from tests.conftest import SOCKETS, url_of

Use = Callable[..., Settings]
SCHEMA = "order"
"""A reserved word, which has to be quoted everywhere."""


@pytest.fixture
def owned(superuser: psycopg.Connection, clone_name: str) -> str:
    """The name of a database that the role of migrations owns, with an installation in `public`."""
    superuser.execute(f"ALTER DATABASE {clone_name} OWNER TO {OWNER_ROLE}")
    return clone_name


@pytest.fixture
def in_schema(owned: str, use_database: Use) -> Callable[..., Settings]:
    """A function that sets DATABASE_SCHEMA for `get_db` and for commands."""

    def use(schema: str = SCHEMA, **variables: str) -> Settings:
        owner = url_of(owned, OWNER_ROLE).render_as_string(hide_password=False)
        return use_database(url_of(owned), DATABASE_MIGRATION_URL=owner, DATABASE_SCHEMA=schema, **variables)

    return use


@pytest.mark.slow
async def test_upgrade_creates_the_schema_and_leaves_the_other_installation_alone(
    in_schema: Use, superuser: psycopg.Connection
) -> None:
    settings = in_schema()
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = %s"
    before = superuser.execute(tables, ["public"]).fetchone()
    assert await current(settings) == ()

    migrated = await upgrade(settings)

    assert (migrated.before, migrated.after) == ((), heads())
    assert superuser.execute(tables, [SCHEMA]).fetchone() == before == superuser.execute(tables, ["public"]).fetchone()
    report = await verify(settings)
    assert (report.schema, report.differences) == ('"order"', ())
    await downgrade(settings, "base")
    assert superuser.execute(tables, ["public"]).fetchone() == before


@pytest.mark.slow
async def test_repositories_and_the_store_use_the_schema(
    in_schema: Use, superuser: psycopg.Connection, fast_path: str
) -> None:
    await upgrade(in_schema(DATABASE_FAST_PATH=fast_path))
    tenant = await register()

    with tenant_context(tenant):
        async with get_db() as session:
            user = await UserRepository(session).add(User(telegram_id=7, display_name="Ada"))
        turn = await get_store().turn(7, "telegram", "c", [NewMessage(message_id="m", role="user", content="hi")])
        async with get_read_db() as reading:
            names = [each.display_name for each in await reading.scalars(select(User))]

    assert (turn.user.id, names) == (user.id, ["Ada"])
    rows = "SELECT (SELECT count(*) FROM {0}.users), (SELECT count(*) FROM {0}.conversations)"
    assert superuser.execute(rows.format('"order"').encode()).fetchone() == (1, 1)
    assert superuser.execute(rows.format("public").encode()).fetchone() == (0, 0)


@pytest.mark.slow
async def test_two_installations_do_not_see_each_other(in_schema: Use, superuser: psycopg.Connection) -> None:
    await upgrade(in_schema("one"))
    await upgrade(in_schema("two"), "0005")
    tenant = await register()

    assert await current(in_schema("one")) == heads()
    assert (await verify(in_schema("one"))).is_sound
    async with get_db() as session:
        assert await session.get(Tenant, tenant) is None
    assert await current(in_schema("two")) == ("0005",)
    assert not (await verify(in_schema("two"))).is_sound


async def test_migrations_of_two_schemas_do_not_wait_for_each_other(in_schema: Use) -> None:
    impatient = Patience(migrator_seconds=0)
    async with migration_connection(in_schema("one")):
        async with migration_connection(in_schema("two"), patience=impatient):
            pass
        with pytest.raises(LockNotAvailable, match="another migration has held the lock"):
            async with migration_connection(in_schema("one"), patience=impatient):
                pass


async def test_a_missing_schema_that_the_owner_may_not_create_is_reported(
    in_schema: Use, superuser: psycopg.Connection, owned: str
) -> None:
    superuser.execute(f"ALTER DATABASE {owned} OWNER TO postgres")

    with pytest.raises(ConfigurationError, match="the schema of DATABASE_SCHEMA, order, does not exist") as caught:
        await upgrade(in_schema())
    assert 'CREATE SCHEMA "order" AUTHORIZATION' in str(caught.value.hint)

    superuser.execute('CREATE SCHEMA "order"')
    superuser.execute(f'GRANT USAGE ON SCHEMA "order" TO {OWNER_ROLE}')
    with pytest.raises(DatabaseError, match="permission denied") as refused:
        await upgrade(in_schema())
    assert "`thea-db bootstrap`" in str(refused.value.hint)


async def test_a_path_with_the_tables_of_another_installation_is_refused(in_schema: Use, owned: str) -> None:
    settings = in_schema()
    for path in ("order,public", '"order",public'):
        url = url_of(owned).update_query_dict({"options": f"-csearch_path={path}"})
        with pytest.raises(ConfigurationError, match="the search_path has public too, with the tables of another"):
            await upgrade(settings.model_copy(update={"DATABASE_URL": url, "DATABASE_MIGRATION_URL": url}))


@pytest.mark.slow
async def test_a_schema_of_extensions_can_follow(in_schema: Use, superuser: psycopg.Connection, owned: str) -> None:
    superuser.execute("CREATE SCHEMA extensions CREATE TABLE extra (id int)")
    superuser.execute(f"GRANT USAGE ON SCHEMA extensions TO {APP_ROLE}, {OWNER_ROLE}")
    urls = {
        name: url_of(owned, role).update_query_dict({"options": "-csearch_path=order,extensions"})
        for name, role in (("DATABASE_URL", APP_ROLE), ("DATABASE_MIGRATION_URL", OWNER_ROLE))
    }
    settings = in_schema().model_copy(update=urls)

    await upgrade(settings)

    assert (await verify(settings)).is_sound
    assert superuser.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'extensions'").fetchone() == (1,)


@pytest.mark.slow
async def test_printed_sql_builds_the_schema(in_schema: Use, superuser: psycopg.Connection, owned: str) -> None:
    settings = in_schema()
    script = await sql(settings=settings)
    programs = find_programs() / "psql"

    command = [str(programs), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", SOCKETS, "-U", OWNER_ROLE, "-d", owned]
    done = await asyncio.to_thread(
        lambda: subprocess.run(command, input=script.encode(), capture_output=True, check=False)
    )

    assert done.returncode == 0, done.stderr
    superuser.execute(f'GRANT USAGE ON SCHEMA "order" TO {APP_ROLE}')
    assert (await verify(settings)).differences == ()


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed: apt install pgbouncer")
async def test_behind_pgbouncer_the_role_needs_the_schema(
    in_schema: Use, superuser: psycopg.Connection, owned: str
) -> None:
    await upgrade(in_schema())
    with pgbouncer(SOCKETS) as behind:
        url = behind.url(owned).render_as_string(hide_password=False)
        in_schema(DATABASE_URL=url, DATABASE_PGBOUNCER="true")
        with pytest.raises(ConfigurationError, match="must begin with DATABASE_SCHEMA, order, got") as caught:
            await register()
        assert caught.value.hint is not None
        superuser.execute(caught.value.hint.partition(": ")[2].encode())
    with pgbouncer(SOCKETS) as behind:
        url = behind.url(owned).render_as_string(hide_password=False)
        settings = in_schema(DATABASE_URL=url, DATABASE_PGBOUNCER="true")
        tenant = await register()
        with tenant_context(tenant):
            await get_store().get_or_create_user(7)
            async with get_read_db() as reading:
                assert await reading.scalar(select(func.count()).select_from(User)) == 1
        assert (await verify(settings)).is_sound
    assert superuser.execute('SELECT count(*) FROM "order".users').fetchone() == (1,)
    superuser.execute(f"ALTER ROLE {APP_ROLE} IN DATABASE {owned} RESET search_path")


async def register() -> UUID:
    """Register a tenant by `get_db`."""
    tenant = uuid7()
    async with get_db() as session:
        session.add(Tenant(id=tenant, slug=str(tenant), name="t"))
    await engine.dispose()
    return tenant


@pytest.fixture(params=["true", "false"])
def fast_path(request: pytest.FixtureRequest) -> str:
    """DATABASE_FAST_PATH."""
    return str(request.param)
