"""verify: the expected schema, the differences, and their remedies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database.drift import Catalog, compare, read_live, verify
from src.database.embedded import OWNER_ROLE
from src.database.errors import ConfigurationError
from src.database.migrate import upgrade
from tests.conftest import url_of
from tests.database.drift.conftest import connect
from tests.database.drift.test_mutations import repair

OUTAGE = "ALTER TABLE events DROP COLUMN location"
OUTAGE_REMEDY = ("ALTER TABLE events ADD COLUMN location text",)


async def test_a_missing_column_is_reported_with_its_remedy(settings: Settings, superuser: psycopg.Connection) -> None:
    assert (await verify(settings)).is_sound
    superuser.execute(OUTAGE)

    report = await verify(settings)

    assert [str(one) for one in report.differences] == ["column events.location is missing"]
    assert report.differences[0].remedy == OUTAGE_REMEDY
    assert report.compared_with == "snapshot"
    repair(superuser, report.differences)
    assert (await verify(settings)).is_sound


async def test_verify_writes_nothing_and_runs_as_the_application(
    settings: Settings, superuser: psycopg.Connection
) -> None:
    superuser.execute(f"ALTER DATABASE {superuser.info.dbname} SET default_transaction_read_only = on".encode())

    assert (await verify(settings)).is_sound


async def test_objects_of_other_applications_are_ignored(settings: Settings, superuser: psycopg.Connection) -> None:
    superuser.execute(
        "CREATE TABLE theirs (id int PRIMARY KEY, note text CHECK (note > '')); CREATE INDEX ON theirs (note);"
        "CREATE SEQUENCE their_numbers; CREATE VIEW their_view AS SELECT 1 AS one; CREATE TYPE theirs_too AS ENUM ();"
        "CREATE FUNCTION theirs() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE SCHEMA elsewhere;"
        "CREATE TABLE elsewhere.notes (id int); CREATE EXTENSION hstore; GRANT SELECT ON theirs TO PUBLIC"
    )

    assert (await verify(settings)).is_sound


async def test_harmless_extra_objects_are_warnings(settings: Settings, superuser: psycopg.Connection) -> None:
    superuser.execute("ALTER TABLE notes ADD COLUMN colour text; CREATE INDEX by_colour ON notes (colour)")

    report = await verify(settings)

    assert {one.severity for one in report.differences} == {"warning"}
    assert len(report.differences) == 2
    assert report.errors == ()


async def test_a_missing_table_is_created_again_with_its_objects(expected: Catalog, drifting: str) -> None:
    lost = Settings(ENVIRONMENT="test", DATABASE_URL=url_of(drifting))
    with connect(drifting, OWNER_ROLE) as owner:
        owner.execute("DROP TABLE notes CASCADE")
        found = compare(expected, await read_live(lost))
        assert {(one.object, one.attribute) for one in found if one.kind == "table"} == {("notes", "missing")}
        assert "-- notes is created without rows: restore its rows from a backup" in found[0].remedy

        repair(owner, found)

        assert compare(expected, await read_live(lost)) == ()


async def test_a_renamed_table_is_named_in_the_remedy(settings: Settings, superuser: psycopg.Connection) -> None:
    superuser.execute("ALTER TABLE notes RENAME TO notes_old")

    missing = next(one for one in (await verify(settings)).differences if one.kind == "table")

    assert "ALTER TABLE notes_old RENAME TO notes" in missing.remedy[0]


async def test_the_remedy_of_a_foreign_key_fails_if_rows_violate_it(
    settings: Settings, superuser: psycopg.Connection
) -> None:
    superuser.execute("ALTER TABLE notes DROP CONSTRAINT fk_notes_tenant_id_user_id")
    superuser.execute(
        "INSERT INTO notes (tenant_id, id, user_id, content)"
        " VALUES (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'x')"
    )
    differences = (await verify(settings)).differences

    with connect(superuser.info.dbname, OWNER_ROLE) as owner, pytest.raises(psycopg.errors.ForeignKeyViolation):
        repair(owner, differences)


async def test_a_scratch_database_gives_the_same_differences_and_is_dropped(
    with_scratch: Settings, superuser: psycopg.Connection, scratches: Callable[[], list[Any]]
) -> None:
    superuser.execute(OUTAGE)

    report = await verify(with_scratch, scratch=True)

    assert report.compared_with == "scratch database"
    assert [one.remedy for one in report.differences] == [OUTAGE_REMEDY]
    assert scratches() == []


async def test_scratch_needs_the_right_to_create_databases(
    cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    assert cloned_database.database is not None
    owner = url_of(cloned_database.database, OWNER_ROLE).render_as_string()

    with pytest.raises(ConfigurationError, match="CREATEDB"):
        await verify(use_database(cloned_database, DATABASE_MIGRATION_URL=owner), scratch=True)


async def test_another_schema_of_the_search_path_is_read(
    settings: Settings, superuser: psycopg.Connection, clone_name: str
) -> None:
    superuser.execute(
        "DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE TABLE public.other (id int); CREATE SCHEMA thea;"
        f"GRANT USAGE ON SCHEMA public, thea TO PUBLIC; GRANT CREATE ON SCHEMA thea TO {OWNER_ROLE};"
        f"ALTER DATABASE {clone_name} SET search_path = public, thea"
    )
    owner = url_of(clone_name, OWNER_ROLE).update_query_dict({"options": "-csearch_path=thea"})
    await upgrade(settings.model_copy(update={"DATABASE_MIGRATION_URL": owner}))

    report = await verify(settings)

    assert (report.schema, report.differences) == ("thea", ())


async def test_functions_that_name_another_schema_are_drift(settings: Settings, superuser: psycopg.Connection) -> None:
    """RENAME does not change the bodies of functions, which would use tables of the old name."""
    superuser.execute(f"ALTER SCHEMA public RENAME TO a; ALTER DATABASE {superuser.info.dbname} SET search_path = a")

    report = await verify(settings)

    assert {(one.kind, one.attribute, one.severity) for one in report.differences} == {("function", "body", "error")}
