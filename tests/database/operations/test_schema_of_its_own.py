"""DATABASE_SCHEMA: bootstrap, backup and restore of a schema in a database that others use too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from src.config import Settings
from src.database import get_db, tenant_context
from src.database.base import uuid7
from src.database.doctor.examination import examine
from src.database.drift import verify
from src.database.errors import ConfigurationError
from src.database.migrate import upgrade
from src.database.models import Tenant, User
from src.database.operations import Bootstrapped, back_up, bootstrap, restore, verify_backup
from src.database.session import forget_settings
from tests.database.operations.conftest import Cluster

pytestmark = pytest.mark.slow

SCHEMA = "order"
"""A reserved word, which has to be quoted everywhere."""


def share(cluster: Cluster, name: str) -> None:
    """Create a database of another service, to which every role may connect."""
    cluster.sql(f"CREATE ROLE {name}_other LOGIN PASSWORD 'x'")
    cluster.sql(f"CREATE DATABASE {name} OWNER {name}_other")
    cluster.sql("CREATE TABLE users (id int); CREATE TABLE alembic_version (version_num text)", database=name)
    cluster.sql("INSERT INTO alembic_version VALUES ('theirs')", database=name)
    cluster.sql(f"ALTER TABLE users OWNER TO {name}_other", database=name)


def state(cluster: Cluster, name: str) -> list[tuple[object, ...]]:
    """Return the owner and the privileges of the database, of `public` and of the other service's tables."""
    return cluster.sql(
        "SELECT datdba, datacl::text FROM pg_database WHERE datname = current_database()"
        " UNION ALL SELECT nspowner, nspacl::text FROM pg_namespace WHERE nspname = 'public'"
        " UNION ALL SELECT relowner, relacl::text FROM pg_class WHERE relnamespace = 'public'::regnamespace",
        database=name,
    )


async def serve(cluster: Cluster, name: str, use_database: Callable[..., Settings]) -> None:
    """Write a user as the service."""
    use_database(cluster.url(f"{name}_app", name), DATABASE_SCHEMA=SCHEMA)
    tenant = uuid7()
    async with get_db() as session:
        session.add(Tenant(id=tenant, slug=str(tenant), name="t"))
    with tenant_context(tenant):
        async with get_db() as session:
            session.add(User(display_name="Ada"))
    forget_settings()


async def test_bootstrap_makes_a_schema_in_a_database_of_another_service(
    cluster: Cluster, use_database: Callable[..., Settings]
) -> None:
    share(cluster, "shared")
    before = [row for row in state(cluster, "shared") if row[1] != ""]
    settings = cluster.settings("shared", DATABASE_SCHEMA=SCHEMA)

    first = await bootstrap(settings)
    await upgrade(settings)
    second = await bootstrap(settings)

    assert (first.refused, second) == ([], Bootstrapped())
    after = [row for row in state(cluster, "shared") if row[1] != ""]
    assert [owner for owner, _ in after] == [owner for owner, _ in before]
    assert before[1:] == after[1:], "nothing outside of the schema is changed"
    assert (await verify(settings)).differences == ()
    await serve(cluster, "shared", use_database)
    assert cluster.sql('SELECT count(*) FROM "order".users', user="shared_backup", database="shared") == [(1,)]
    with pytest.raises(Exception, match="permission denied for schema"):
        cluster.sql('CREATE TABLE "order".mine (n int)', user="shared_app", database="shared")
    checks = await examine(settings)
    assert {name for name, check in checks.items() if check.status == "failed"} == set()
    assert cluster.sql("SHOW search_path", user="shared_app", database="shared") == [('"order"',)]


async def test_bootstrap_refuses_a_schema_of_another_service(cluster: Cluster) -> None:
    share(cluster, "taken")
    cluster.sql('CREATE SCHEMA "order" AUTHORIZATION taken_other; CREATE TABLE "order".t (n int)', database="taken")

    with pytest.raises(ConfigurationError, match="the schema order belongs to taken_other, and not to taken_owner"):
        await bootstrap(cluster.settings("taken", DATABASE_SCHEMA=SCHEMA))


async def test_a_schema_is_backed_up_and_restored_alone(
    cluster: Cluster, use_database: Callable[..., Settings], tmp_path: Path
) -> None:
    share(cluster, "kept")
    share(cluster, "again")
    settings, elsewhere = (cluster.settings(name, DATABASE_SCHEMA=SCHEMA) for name in ("kept", "again"))
    await bootstrap(settings)
    with pytest.raises(ConfigurationError, match="the schema of DATABASE_SCHEMA, order, must have tables to back up"):
        await back_up(settings, tmp_path / "a.dump")
    await upgrade(settings)
    await serve(cluster, "kept", use_database)

    manifest = await back_up(settings, tmp_path / "a.dump")

    assert (manifest.schema, manifest.revision) == (SCHEMA, (await verify(settings)).revision)
    assert {name.partition(".")[0] for name in manifest.tables} == {'"order"'}
    assert manifest.tables['"order".users'].rows == 1
    assert await verify_backup(settings, tmp_path / "a.dump", manifest) == []
    with pytest.raises(ConfigurationError, match="must be that of the backup, which is of the schema order, got none"):
        await restore(cluster.settings("again", DATABASE_SCHEMA=None), tmp_path / "a.dump")
    with pytest.raises(ConfigurationError, match="may not create tables in the schema order of again, or there is no"):
        await bootstrap_roles_only(cluster, elsewhere, tmp_path)
    await bootstrap(elsewhere)
    restored = await restore(elsewhere, tmp_path / "a.dump")
    assert (restored.differences, restored.application_lacks_rights) == ([], False)
    assert (await verify(elsewhere)).differences == ()
    assert cluster.sql('SELECT display_name FROM "order".users', database="again") == [("Ada",)]
    with pytest.raises(ConfigurationError, match="the schema order must be empty, and has app_append_message"):
        await restore(elsewhere, tmp_path / "a.dump")
    cluster.sql('DROP SCHEMA "order" CASCADE; GRANT CREATE ON DATABASE again TO again_owner', database="again")
    assert (await restore(elsewhere, tmp_path / "a.dump")).differences == [], "an owner that may create the schema"


async def bootstrap_roles_only(cluster: Cluster, settings: Settings, folder: Path) -> None:
    """Restore as an owner whose schema is missing."""
    await bootstrap(settings)
    cluster.sql('DROP SCHEMA "order"', database="again")
    await restore(settings, folder / "a.dump")
