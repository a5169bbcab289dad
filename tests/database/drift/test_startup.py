"""The verification at the start of a service, in each mode of DATABASE_VERIFY_SCHEMA."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy import URL
from structlog.testing import capture_logs

from src.config import Settings
from src.database.drift import verify_at_startup
from src.database.errors import SchemaDriftError
from tests.database.drift.test_verify import OUTAGE, OUTAGE_REMEDY


@pytest.fixture
def start(cloned_database: URL, use_database: Callable[..., Settings]) -> Callable[[str], Settings]:
    return lambda mode: use_database(cloned_database, DATABASE_VERIFY_SCHEMA=mode)


async def test_error_raises_and_names_the_remedy(
    start: Callable[[str], Settings], superuser: psycopg.Connection
) -> None:
    superuser.execute(OUTAGE)

    with pytest.raises(SchemaDriftError, match=r"events\.location is missing \(ALTER TABLE events ADD COLUMN"):
        await verify_at_startup(start("error"))


async def test_error_starts_with_a_newer_schema(
    start: Callable[[str], Settings], superuser: psycopg.Connection
) -> None:
    superuser.execute("UPDATE thea_alembic_version SET version_num = '9999'; ALTER TABLE notes ADD COLUMN colour text")

    report = await verify_at_startup(start("error"))

    assert report is not None
    assert len(report.differences) == 2


async def test_warn_logs_each_difference_and_starts(
    start: Callable[[str], Settings], superuser: psycopg.Connection
) -> None:
    superuser.execute(OUTAGE)

    with capture_logs() as logs:
        await verify_at_startup(start("warn"))

    assert [(one["event"], one["difference"], one["remedy"]) for one in logs] == [
        ("schema_drift", "column events.location is missing", OUTAGE_REMEDY[0])
    ]


async def test_warn_starts_if_the_verification_fails(use_database: Callable[..., Settings]) -> None:
    nowhere = URL.create("postgresql", username="nobody", host="127.0.0.1", port=1, database="none")

    assert await verify_at_startup(use_database(nowhere)) is None


async def test_off_does_not_connect(use_database: Callable[..., Settings]) -> None:
    nowhere = URL.create("postgresql", username="nobody", host="127.0.0.1", port=1, database="none")

    assert await verify_at_startup(use_database(nowhere, DATABASE_VERIFY_SCHEMA="off")) is None


@pytest.mark.parametrize(
    "change",
    [
        "DROP INDEX ix_notes_user_id",
        "DROP INDEX ix_notes_user_id; CREATE INDEX ix_notes_user_id ON notes (user_id)",
        "ALTER INDEX ix_notes_user_id RENAME TO by_user",
        "ALTER TABLE notes DROP CONSTRAINT ck_notes_tags",
        "ALTER TABLE events ALTER all_day DROP NOT NULL",
    ],
)
async def test_error_starts_if_no_statement_can_fail(
    start: Callable[[str], Settings], superuser: psycopg.Connection, change: str
) -> None:
    superuser.execute(change.encode())

    with capture_logs() as logs:
        report = await verify_at_startup(start("error"))

    assert report is not None
    assert [one.severity for one in report.differences] == ["warning"]
    assert [one["event"] for one in logs] == ["schema_drift"]


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE tenants DROP CONSTRAINT uq_tenants_slug",
        "DROP INDEX ix_notes_user_id; CREATE UNIQUE INDEX ix_notes_user_id ON notes (tenant_id, user_id)",
        "ALTER TABLE events ALTER location SET NOT NULL",
        "ALTER TABLE notes DISABLE ROW LEVEL SECURITY",
    ],
)
async def test_error_raises_if_a_statement_can_fail_or_an_isolation_layer_is_open(
    start: Callable[[str], Settings], superuser: psycopg.Connection, change: str
) -> None:
    superuser.execute(change.encode())

    with pytest.raises(SchemaDriftError):
        await verify_at_startup(start("error"))
