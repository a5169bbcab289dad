"""The history of a service beside the package's: run together, named apart, and recorded in a table of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database.drift import verify
from src.database.embedded import APP_ROLE, OWNER_ROLE
from src.database.errors import ConfigurationError, DatabaseError
from src.database.health import gauges, readiness
from src.database.migrate import current, downgrade, heads, history, sql, stamp, upgrade
from tests.acceptance.command import run_forked
from tests.conftest import url_of

(HEAD,) = heads()
REVISION = '''"""{revision}."""

from alembic import op

from src.database.migrate.row_level_security import protect

revision = {revision!r}
down_revision = {follows!r}
{more}


def upgrade():
    op.execute({up!r})
    {protect}


def downgrade():
    op.execute({down!r})
'''
CREATE = """
CREATE TABLE orders (tenant_id uuid NOT NULL REFERENCES tenants, id uuid NOT NULL, PRIMARY KEY (tenant_id, id))
"""
ENVIRONMENT = """
from src.config import get_settings
from src.database.migrate import run_environment

run_environment(get_settings, history="service")
"""


class Service:
    """The folder of a service's migrations."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "versions").mkdir(parents=True)

    def add(self, revision: str, follows: str | None, up: str, down: str = "SELECT", *, more: str = "") -> None:
        protect = 'protect("orders")' if "CREATE TABLE orders" in up else ""
        text = REVISION.format(revision=revision, follows=follows, up=up, down=down, more=more, protect=protect)
        (self.folder / "versions" / f"{revision}.py").write_text(text)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    service = Service(tmp_path / "migrations")
    service.add("first", None, CREATE, "DROP TABLE orders")
    return service


@pytest.fixture
def settings(
    cloned_database: URL, superuser: psycopg.Connection, use_database: Callable[..., Settings], service: Service
) -> Settings:
    """The settings of the service, with the owner of the tables."""
    assert cloned_database.database is not None
    superuser.execute(f"ALTER DATABASE {cloned_database.database} OWNER TO {OWNER_ROLE}")
    return use_database(
        url_of(cloned_database.database, OWNER_ROLE),
        DATABASE_SERVICE_MODELS="orders.models",
        DATABASE_SERVICE_MIGRATIONS=str(service.folder),
    )


def without_tables(superuser: psycopg.Connection) -> None:
    """Remove everything from the database."""
    superuser.execute(
        f"DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION {OWNER_ROLE};"
        f" GRANT USAGE ON SCHEMA public TO {APP_ROLE}"
    )


async def test_an_upgrade_runs_both_histories_and_reports_both(
    settings: Settings, superuser: psycopg.Connection
) -> None:
    without_tables(superuser)

    done = await upgrade(settings)

    assert done.after == (HEAD,)
    assert done.service is not None
    assert (done.service.after, [step.name for step in done.service.steps]) == (("first",), ["upgrade  -> first"])
    assert (await current(settings), await current(settings, of="service")) == ((HEAD,), ("first",))
    assert superuser.execute("TABLE alembic_version").fetchall() == [("first",)]
    writes = f"SELECT has_table_privilege('{APP_ROLE}', 'alembic_version', 'INSERT, UPDATE, DELETE')"
    assert superuser.execute(writes).fetchone() == (False,)


async def test_the_history_of_a_revision_must_be_named(settings: Settings, superuser: psycopg.Connection) -> None:
    await upgrade(settings)

    for asked in (
        upgrade(settings, HEAD),
        downgrade(settings, "-1"),
        stamp(settings, "head"),
        sql("-1", settings=settings),
    ):
        with pytest.raises(ConfigurationError, match="--history service"):
            await asked

    assert (await downgrade(settings, "base", of="service")).after == ()
    assert superuser.execute("SELECT to_regclass('orders'), to_regclass('users')").fetchone() == (None, "users")
    assert (await stamp(settings, "first", of="service")).after == ("first",)
    assert await current(settings) == (HEAD,)


@pytest.mark.slow
async def test_tables_of_the_service_keep_the_package_from_dropping_what_they_refer_to(settings: Settings) -> None:
    await upgrade(settings)

    with pytest.raises(DatabaseError, match="--history service"):
        await downgrade(settings, "base", of="package")

    assert await current(settings, of="service") == ("first",)


async def test_each_history_is_listed(settings: Settings) -> None:
    (entry,) = await history(settings, of="service")
    package = await history(settings, queries=False)

    assert (entry.revision, entry.is_head, entry.is_applied) == ("first", True, False)
    assert package[0].revision == HEAD
    assert "first" not in {entry.revision for entry in package}


async def test_the_sql_of_both_histories_is_in_the_order_in_which_they_run(settings: Settings) -> None:
    written = await sql(settings=settings)

    assert written.index("CREATE TABLE users") < written.index("CREATE TABLE orders")
    assert "INSERT INTO alembic_version (version_num) VALUES ('first')" in written


@pytest.mark.parametrize("required", ["9999", pytest.param(HEAD, marks=pytest.mark.slow)])
async def test_a_missing_revision_of_the_package_is_reported_before_anything_is_changed(
    settings: Settings, service: Service, superuser: psycopg.Connection, required: str
) -> None:
    service.add("second", "first", "CREATE TABLE invoices (id int)", more=f"requires_thea = {required!r}")
    if required == HEAD:
        await downgrade(settings, "-1", of="package")

    with pytest.raises(
        ConfigurationError, match=f"second of the service requires the revision {required} of"
    ) as caught:
        await upgrade(settings, of="service")

    assert "thea-db upgrade --history package" in str(caught.value.hint)
    assert superuser.execute("SELECT to_regclass('orders'), to_regclass('invoices')").fetchone() == (None, None)
    if required == HEAD:
        assert (await upgrade(settings)).service is not None, "the package's migrations run first"


class TestAnExistingHistory:
    """A service whose database had tables and an `alembic_version` before the package was installed."""

    @pytest.fixture(autouse=True)
    def _existing(self, service: Service, superuser: psycopg.Connection) -> None:
        without_tables(superuser)
        superuser.execute(f"SET ROLE {OWNER_ROLE}; CREATE TABLE customers (id int)")
        superuser.execute("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
        superuser.execute("INSERT INTO alembic_version VALUES ('0001'); RESET ROLE")
        (service.folder / "versions" / "first.py").unlink()
        service.add("0001", None, "CREATE TABLE customers (id int)")
        service.add("0002", "0001", CREATE)

    @pytest.mark.slow
    async def test_gets_the_tables_of_the_package_beside_its_own(
        self, settings: Settings, superuser: psycopg.Connection
    ) -> None:
        done = await upgrade(settings)

        assert done.before == ()
        assert done.service is not None
        assert (done.service.before, done.service.after) == (("0001",), ("0002",))
        assert superuser.execute("TABLE thea_alembic_version").fetchall() == [(HEAD,)]
        assert superuser.execute("SELECT to_regclass('customers')").fetchone() == ("customers",)

    @pytest.mark.parametrize(
        "change", ["UPDATE alembic_version SET version_num = 'theirs'", "CREATE TABLE notes (id int)"]
    )
    async def test_is_foreign_with_another_revision_or_a_table_of_the_packages_names(
        self, settings: Settings, superuser: psycopg.Connection, change: str
    ) -> None:
        superuser.execute(change.encode())

        with pytest.raises(ConfigurationError, match="other migrations than thea-database's made this database"):
            await upgrade(settings)

        assert superuser.execute("SELECT to_regclass('tenants')").fetchone() == (None,)

    async def test_is_foreign_if_the_settings_do_not_name_it(
        self, cloned_database: URL, use_database: Callable[..., Settings], settings: Settings
    ) -> None:
        with pytest.raises(ConfigurationError, match="If the migrations are those of your service, name their folder"):
            await upgrade(settings.model_copy(update={"DATABASE_SERVICE_MIGRATIONS": None}))


async def test_the_packages_old_version_table_is_renamed_before_the_service_uses_the_name(
    settings: Settings, superuser: psycopg.Connection
) -> None:
    superuser.execute("ALTER TABLE thea_alembic_version RENAME TO alembic_version")
    assert await current(settings, of="service") == ()

    await upgrade(settings, of="service")

    assert superuser.execute("TABLE alembic_version").fetchall() == [("first",)]
    assert superuser.execute("TABLE thea_alembic_version").fetchall() == [(HEAD,)]


async def test_health_and_the_gauge_report_the_revision_of_the_service(
    settings: Settings, service: Service, superuser: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[bool] = []
    monkeypatch.setattr(gauges, "report_revision", lambda *, is_behind: reported.append(is_behind))

    async def found() -> tuple[str, str]:
        await gauges.measure()
        result = (await readiness(isolation=False)).checks["service revision"]
        return result.status, result.found

    before = await found()
    await upgrade(settings)
    after = await found()
    service.add("second", "first", "SELECT")
    behind = await found()
    superuser.execute("UPDATE alembic_version SET version_num = 'later'")
    newer = await found()

    assert before == ("unhealthy", "alembic_version has no revision; the newest is first")
    assert after == ("healthy", "first")
    assert behind == ("unhealthy", "first is behind second")
    assert newer == ("degraded", "later is not in DATABASE_SERVICE_MIGRATIONS, whose newest revision is second")
    assert reported == [True, False, True, False]


async def test_verify_reports_the_revision_of_the_service_and_a_missing_snapshot(settings: Settings) -> None:
    before = await verify(settings)
    await upgrade(settings)
    after = await verify(settings)

    assert [(one.kind, one.object, one.expected) for one in before.differences] == [
        ("revision", "alembic_version", "first")
    ]
    assert [(one.kind, one.found, one.severity) for one in after.differences] == [("snapshot", "missing", "warning")]


@pytest.mark.slow
def test_plain_alembic_checks_the_requirement_and_needs_no_models_to_upgrade(
    settings: Settings, service: Service, superuser: psycopg.Connection
) -> None:
    (service.folder / "env.py").write_text(ENVIRONMENT)
    (service.folder.parent / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s/migrations\n")
    upgraded = run_forked("alembic", ["upgrade", "head"], service.folder.parent, os.environ)
    service.add("second", "first", "SELECT", more="requires_thea = '9999'")

    rejected = run_forked("alembic", ["upgrade", "head"], service.folder.parent, os.environ)

    assert upgraded.returncode == 0, upgraded.stderr
    assert "second of the service requires the revision 9999 of thea-database" in rejected.stdout + rejected.stderr
    assert "Traceback" not in rejected.stderr
    assert superuser.execute("TABLE alembic_version").fetchall() == [("first",)]


@pytest.mark.parametrize(
    ("models", "fault"),
    [
        ("nowhere.models", "must name modules that can be imported, got 'nowhere.models'"),
        ("json", "must declare tables"),
    ],
)
def test_models_that_cannot_be_compared_are_reported(
    settings: Settings, service: Service, models: str, fault: str
) -> None:
    environment = {**os.environ, "DATABASE_SERVICE_MODELS": models}
    arguments = ["revision", "--autogenerate", "-m", "x"]
    done = run_forked("thea-db", arguments, service.folder.parent, environment)

    assert (done.returncode, fault in done.stderr) == (2, True), done.stderr
    assert [file.name for file in (service.folder / "versions").iterdir()] == ["first.py"]


async def test_a_folder_or_setting_that_is_missing_is_reported(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"DATABASE_SERVICE_MIGRATIONS must be a folder, got '.*nowhere'"):
        await upgrade(settings.model_copy(update={"DATABASE_SERVICE_MIGRATIONS": tmp_path / "nowhere"}))
    with pytest.raises(ConfigurationError, match="must be the folder of the service that contains `versions`"):
        await upgrade(settings.model_copy(update={"DATABASE_SERVICE_MIGRATIONS": tmp_path / "migrations" / "versions"}))
    with pytest.raises(ConfigurationError, match="must be set for the history of a service"):
        await current(settings.model_copy(update={"DATABASE_SERVICE_MIGRATIONS": None}), of="service")


async def test_a_table_without_row_level_security_is_reported_without_a_snapshot_too(
    settings: Settings, superuser: psycopg.Connection
) -> None:
    await upgrade(settings)
    superuser.execute("CREATE TABLE bills (tenant_id uuid REFERENCES tenants, id uuid, PRIMARY KEY (tenant_id, id))")

    found = (await readiness()).checks["isolation"]

    assert found.status == "unhealthy"
    assert "row-level security is off on bills" in found.found
