"""A missing isolation layer is reported: by readiness, by the doctor, and with its remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database.check_result import CheckResult
from src.database.doctor.examination import examine
from src.database.embedded import APP_ROLE, OWNER_ROLE, SUPERUSER
from src.database.health import HealthReport, readiness
from src.database.health import checks as isolation
from tests.conftest import url_of

Use = Callable[..., Settings]


@pytest.fixture
def without_kept_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each report checks the server again."""
    monkeypatch.setattr(isolation, "KEPT_SECONDS", 0.0)


async def report(**options: Any) -> HealthReport:
    return await readiness(timeout_seconds=20, **options)


async def check() -> CheckResult:
    return (await report()).checks["isolation"]


async def doctor(url: URL, **settings: Any) -> dict[str, CheckResult]:
    chosen = Settings(**{"ENVIRONMENT": "test", "DATABASE_URL": url, **settings})
    findings = await examine(chosen)
    return {name: finding for name, finding in findings.items() if finding.status in {"warning", "failed"}}


BREACHES = {
    "ALTER TABLE notes DISABLE ROW LEVEL SECURITY": "row-level security is off on notes",
    "ALTER TABLE notes NO FORCE ROW LEVEL SECURITY": "row-level security is not forced on notes",
    "DROP POLICY tenant_isolation ON notes": "notes has no policy",
    "ALTER POLICY tenant_isolation ON notes USING (true)": "the policies of notes are not this release's",
    "ALTER POLICY tenant_isolation ON notes WITH CHECK (true)": "the policies of notes are not this release's",
    "CREATE POLICY open ON notes USING (true)": "the policies of notes are not this release's",
    "ALTER TABLE tenants DISABLE ROW LEVEL SECURITY": "row-level security is off on tenants",
}


@pytest.mark.usefixtures("without_kept_results")
async def test_each_missing_layer_makes_readiness_unhealthy_and_the_doctor_fail(
    cloned_database: URL, superuser: psycopg.Connection
) -> None:
    superuser.execute(f"REVOKE TEMPORARY ON DATABASE {cloned_database.database} FROM PUBLIC".encode())
    assert (await check()).status == "healthy"
    for breach, found in BREACHES.items():
        superuser.execute(breach.encode())
        reported, ill = await report(), await doctor(cloned_database)
        _repair(superuser)

        assert not reported.can_serve, breach
        assert reported.checks["isolation"].found == found
        assert "thea-db verify" in str(reported.checks["isolation"].remedy)
        assert {name: finding.status for name, finding in ill.items()} == {"schema": "failed"}, breach
    assert (await check()).status == "healthy", "and after the repair, again"


def _repair(superuser: psycopg.Connection) -> None:
    rule = "tenant_id = NULLIF(current_setting('app.tenant_id', true), '')::uuid"
    superuser.execute(
        "DROP POLICY IF EXISTS open ON notes; DROP POLICY IF EXISTS tenant_isolation ON notes;"
        f"CREATE POLICY tenant_isolation ON notes USING ({rule}) WITH CHECK ({rule});"
        "ALTER TABLE notes ENABLE ROW LEVEL SECURITY; ALTER TABLE notes FORCE ROW LEVEL SECURITY;"
        "ALTER TABLE tenants ENABLE ROW LEVEL SECURITY".encode()
    )


@pytest.mark.parametrize(
    ("user", "found"),
    [(SUPERUSER, "the role is a superuser"), (OWNER_ROLE, "the role owns conversations, events, message_history")],
)
async def test_a_role_without_row_level_security_is_unhealthy_outside_development(
    clone_name: str, use_database: Use, user: str, found: str
) -> None:
    use_database(url_of(clone_name, user))
    local = await check()
    use_database(url_of(clone_name, user), ENVIRONMENT="staging")
    staging = await check()

    assert (local.status, staging.status) == ("degraded", "unhealthy")
    assert local.found == staging.found
    assert staging.found.startswith(found)
    assert "thea-db bootstrap" in str(staging.remedy)


async def test_only_a_healthy_result_is_kept(cloned_database: URL, superuser: psycopg.Connection) -> None:
    superuser.execute("ALTER TABLE notes DISABLE ROW LEVEL SECURITY")
    assert (await check()).status == "unhealthy"
    superuser.execute("ALTER TABLE notes ENABLE ROW LEVEL SECURITY")
    assert (await check()).status == "healthy"

    superuser.execute("ALTER TABLE notes DISABLE ROW LEVEL SECURITY")
    assert (await check()).status == "healthy", "the healthy result is kept"


@pytest.mark.usefixtures("without_kept_results")
async def test_differences_that_the_revision_explains_are_not_reported_twice(
    cloned_database: URL, superuser: psycopg.Connection
) -> None:
    superuser.execute("ALTER POLICY tenant_isolation ON notes USING (true)")
    superuser.execute("UPDATE thea_alembic_version SET version_num = '9999'")
    newer = await check()
    superuser.execute("UPDATE thea_alembic_version SET version_num = '0001'")
    behind = await check()
    superuser.execute("UPDATE thea_alembic_version SET version_num = '9999'; DROP TABLE notes")
    foreign = await check()
    unasked = await report(isolation=False)

    assert newer.status == "degraded", "a newer release's migration may have changed it"
    assert (behind.status, behind.found) == (foreign.status, foreign.found) == ("skipped", "see the check `revision`")
    assert "isolation" not in unasked.checks


async def test_the_doctor_reports_what_verify_finds(cloned_database: URL, superuser: psycopg.Connection) -> None:
    superuser.execute("ALTER TABLE users DROP COLUMN preferences")
    missing = await doctor(cloned_database)
    superuser.execute("ALTER TABLE users ADD COLUMN preferences jsonb DEFAULT '{}' NOT NULL")
    superuser.execute(f"GRANT UPDATE ON thea_alembic_version TO {APP_ROLE}")
    writes = await doctor(cloned_database)

    assert missing["schema"].status == "failed"
    assert "column users.preferences is missing" in missing["schema"].found
    assert "thea-db verify" in str(missing["schema"].remedy)
    assert "TABLE thea_alembic_version" in writes["schema"].found


@pytest.mark.parametrize(
    ("setting", "status"),
    [
        ("ALTER ROLE {role} IN DATABASE {database} SET row_security = off", "failed"),
        ("ALTER DATABASE {database} SET row_security = off", "failed"),
        ("ALTER DATABASE {database} SET default_transaction_isolation = 'repeatable read'", "warning"),
        ("ALTER ROLE {role} IN DATABASE {database} SET default_transaction_isolation = 'serializable'", "warning"),
    ],
)
async def test_the_doctor_reports_session_defaults_and_its_remedy_resets_them(
    cloned_database: URL, superuser: psycopg.Connection, setting: str, status: str
) -> None:
    superuser.execute(setting.format(role=APP_ROLE, database=cloned_database.database).encode())

    ill = await doctor(cloned_database)
    remedy = str(ill["session defaults"].remedy)
    superuser.execute(remedy.encode())

    assert ill["session defaults"].status == status
    assert remedy.startswith(f"ALTER ROLE {APP_ROLE} IN DATABASE"), "other roles and databases keep their defaults"
    assert "session defaults" not in await doctor(cloned_database)
