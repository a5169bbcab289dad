"""verify for a database that is not at the newest revision."""

from __future__ import annotations

import psycopg

from src.config import Settings
from src.database.drift import load_snapshot, verify
from tests.database.drift.test_verify import OUTAGE


async def test_an_older_revision_is_the_only_difference(settings: Settings, superuser: psycopg.Connection) -> None:
    superuser.execute("UPDATE thea_alembic_version SET version_num = '0001'")
    superuser.execute(OUTAGE)

    report = await verify(settings)

    assert [(one.kind, one.remedy) for one in report.differences] == [("revision", ("thea-db upgrade",))]
    assert report.compared_with == "nothing"


async def test_an_older_revision_is_compared_in_a_scratch_database(
    with_scratch: Settings, superuser: psycopg.Connection
) -> None:
    superuser.execute("UPDATE thea_alembic_version SET version_num = '0001'")

    report = await verify(with_scratch, scratch=True)

    assert report.differences[0].kind == "revision"
    assert ("column", "conversations.turn_token", "extra") in {
        (one.kind, one.object, one.attribute) for one in report.differences
    }
    lost = [line for one in report.differences for line in one.remedy if line.startswith(("ALTER", "DROP"))]
    assert not lost, "the schema is newer than its recorded revision: no remedy may revert a later migration"


async def test_a_newer_database_gets_no_statement_as_remedy(settings: Settings, superuser: psycopg.Connection) -> None:
    superuser.execute("UPDATE thea_alembic_version SET version_num = '9999'; ALTER TABLE notes ADD COLUMN colour text")
    superuser.execute(OUTAGE)

    report = await verify(settings)

    assert {(one.kind, one.severity) for one in report.differences} == {
        ("revision", "warning"),
        ("column", "warning"),
        ("column", "error"),
    }
    assert all(line.startswith("--") for one in report.differences for line in one.remedy)


async def test_an_empty_database_has_one_difference(settings: Settings, superuser: psycopg.Connection) -> None:
    superuser.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO PUBLIC")

    (only,) = (await verify(settings)).differences

    assert (only.found, only.remedy) == (None, ("thea-db upgrade",))


async def test_a_schema_without_usage_is_distinguished_from_an_empty_database(
    settings: Settings, superuser: psycopg.Connection
) -> None:
    superuser.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")

    (only,) = (await verify(settings)).differences

    assert "GRANT USAGE ON SCHEMA" in only.remedy[0]


async def test_tables_without_a_revision_are_compared_before_they_are_stamped(
    settings: Settings, superuser: psycopg.Connection
) -> None:
    superuser.execute(f"DROP TABLE thea_alembic_version; {OUTAGE}")

    report = await verify(settings)

    head = load_snapshot().revisions or ()
    assert report.differences[0].remedy[-1] == f"thea-db stamp {head[0]}"
    assert str(report.differences[1]) == "column events.location is missing"
