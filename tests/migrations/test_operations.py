"""The operations for migrations: beside traffic, repeated after a failure, rejected if they would block."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psycopg
import pytest

from src.config import Settings
from src.database.base import uuid7
from src.database.errors import DatabaseError, DuplicateKeyError, ForeignKeyError, LockNotAvailable
from src.database.migrate import Patience, current, downgrade, operations, sql, upgrade
from tests.migrations.conftest import catalogue, fill
from tests.migrations.drafts import Drafts, expand_and_contract

IS_VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('ix_users_name')"
INDEX = "create_index_concurrently('ix_users_name', 'users', ['tenant_id', 'username'], unique=True)"
BACKFILL = """
backfill(\"\"\"
    UPDATE users SET locale = 'es' WHERE tenant_id = :tenant_id AND id IN (
           SELECT id FROM users WHERE tenant_id = :tenant_id AND locale IS NULL LIMIT :batch)
\"\"\", batch={batch})
"""


async def test_every_operation_is_applied_and_reverted(
    owner_settings: Settings, superuser: psycopg.Connection, drafts: Drafts
) -> None:
    fill(superuser)
    before = catalogue(superuser)
    expand_and_contract(drafts)

    done = await upgrade(owner_settings, folder=drafts.folder)
    valid = superuser.execute("SELECT bool_and(convalidated) FROM pg_constraint").fetchone()
    await downgrade(owner_settings, done.before[0], folder=drafts.folder)

    assert [step.name[-2:] for step in done.steps] == [f"e{number}" for number in range(1, 10)]
    assert valid == (True,)
    assert catalogue(superuser) == before


async def test_an_invalid_index_of_an_interrupted_run_is_built_again(
    owner_settings: Settings, superuser: psycopg.Connection, drafts: Drafts
) -> None:
    fill(superuser)
    superuser.execute("UPDATE users SET username = 'user-1' WHERE username = 'user-2'")
    drafts.add("index", INDEX)

    with pytest.raises(DuplicateKeyError):
        await upgrade(owner_settings, folder=drafts.folder)
    left = superuser.execute(IS_VALID).fetchone()
    superuser.execute("UPDATE users SET username = id::text")
    await upgrade(owner_settings, folder=drafts.folder)

    assert left == (False,)
    assert superuser.execute(IS_VALID).fetchone() == (True,)


async def test_a_valid_index_is_kept_and_one_of_another_table_is_an_error(
    owner_settings: Settings, superuser: psycopg.Connection, drafts: Drafts
) -> None:
    drafts.add("index", INDEX)
    superuser.execute("CREATE UNIQUE INDEX ix_users_name ON users (tenant_id, username)")
    node = superuser.execute("SELECT 'ix_users_name'::regclass::oid").fetchone()

    await upgrade(owner_settings, folder=drafts.folder)
    assert superuser.execute("SELECT 'ix_users_name'::regclass::oid").fetchone() == node

    drafts.add("other", INDEX.replace("'users'", "'notes'"))
    with pytest.raises(DatabaseError, match="another table has an index of this name"):
        await upgrade(owner_settings, folder=drafts.folder)


@pytest.mark.parametrize("call", [INDEX, "drop_index_concurrently('ix_tenants_active')", BACKFILL.format(batch=2)])
async def test_autocommit_operations_must_come_first(
    owner_settings: Settings, superuser: psycopg.Connection, drafts: Drafts, call: str
) -> None:
    before = catalogue(superuser)
    drafts.add("mixed", f"op.create_table('half', sa.Column('id', sa.Integer()))\n{call}")

    with pytest.raises(DatabaseError, match="must come first in its revision"):
        await upgrade(owner_settings, folder=drafts.folder)

    assert catalogue(superuser) == before


async def test_later_statements_are_in_one_transaction_with_the_revision(
    owner_settings: Settings, superuser: psycopg.Connection, drafts: Drafts
) -> None:
    drafts.add("mixed", f"{INDEX}\nop.create_table('half', sa.Column('id', sa.Integer()))\nop.execute('SELECT 1 / 0')")
    before = await current(owner_settings)

    with pytest.raises(DatabaseError, match="22012"):
        await upgrade(owner_settings, folder=drafts.folder)

    assert await current(owner_settings) == before
    assert superuser.execute(IS_VALID).fetchone() == (True,)
    assert superuser.execute("SELECT to_regclass('half')").fetchone() == (None,)


@pytest.mark.slow
async def test_a_concurrent_index_waits_for_old_transactions_longer_than_others_wait_for_locks(
    owner_settings: Settings, drafts: Drafts, another_session: Callable[..., int]
) -> None:
    drafts.add("index", f"{INDEX}\nop.execute(\"SELECT 1 / (current_setting('lock_timeout') = '100ms')::int\")")

    another_session(0.5, writes=True)
    await upgrade(owner_settings, folder=drafts.folder, patience=Patience(lock_seconds=0.1, attempts=1))


async def test_a_constraint_is_not_validated_under_the_lock_that_added_it(
    owner_settings: Settings, drafts: Drafts
) -> None:
    drafts.add("both", "add_check('ck_users_x', 'users', 'username IS NOT NULL')\nvalidate('users', 'ck_users_x')")

    with pytest.raises(DatabaseError, match="must be validated in a later revision"):
        await upgrade(owner_settings, folder=drafts.folder)


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the registry in pages of two tenants: the five tenants need several."""
    monkeypatch.setattr(operations, "TENANTS_PER_QUERY", 2)


@pytest.mark.usefixtures("small_pages")
async def test_a_violated_foreign_key_is_not_validated_under_row_level_security(
    owner_settings: Settings, drafts: Drafts, superuser: psycopg.Connection
) -> None:
    fill(superuser)
    columns = "['tenant_id', 'series_id'], 'events', ['tenant_id', 'id']"
    drafts.add(
        "k1",
        "op.drop_constraint('fk_events_tenant_id_series_id', 'events')\n"
        f"add_foreign_key('fk_events_tenant_id_series_id', 'events', {columns})",
    )
    drafts.add("k2", "validate('events', 'fk_events_tenant_id_series_id')")
    await upgrade(owner_settings, "k1", folder=drafts.folder)
    tenant, user = uuid7(), uuid7()
    superuser.execute("INSERT INTO tenants (id, slug, name) VALUES (%s, 'k', 'k')", [tenant])
    superuser.execute("INSERT INTO users (tenant_id, id) VALUES (%s, %s)", [tenant, user])
    superuser.execute("SET session_replication_role = replica")
    superuser.execute(
        "INSERT INTO events (tenant_id, id, user_id, title, start_datetime, series_id, recurrence_id)"
        " VALUES (%s, %s, %s, 'x', now(), %s, now())",
        [tenant, uuid7(), user, uuid7()],
    )
    superuser.execute("RESET session_replication_role")

    with pytest.raises(ForeignKeyError, match="rows of events refer to missing rows of events"):
        await upgrade(owner_settings, folder=drafts.folder)
    superuser.execute("UPDATE events SET series_id = NULL, recurrence_id = NULL")
    await upgrade(owner_settings, folder=drafts.folder)

    invalid = superuser.execute("SELECT conname FROM pg_constraint WHERE NOT convalidated").fetchall()
    assert invalid == []


@pytest.mark.parametrize(
    "setup",
    [
        "SELECT 1",
        "ALTER TABLE users ADD CONSTRAINT ck_x CHECK (username IS NOT NULL) NOT VALID",
        "ALTER TABLE users ADD CONSTRAINT ck_x CHECK (locale IS NOT NULL)",
    ],
)
async def test_set_not_null_needs_a_validated_check(
    owner_settings: Settings, superuser: psycopg.Connection, drafts: Drafts, setup: str
) -> None:
    superuser.execute(setup)
    drafts.add("not_null", "set_not_null('users', 'username', check='ck_x')")

    with pytest.raises(DatabaseError, match="ck_x must be a validated CHECK"):
        await upgrade(owner_settings, folder=drafts.folder)


@pytest.mark.usefixtures("small_pages")
async def test_a_backfill_reaches_every_tenant_and_resumes(
    owner_settings: Settings, superuser: psycopg.Connection, drafts: Drafts
) -> None:
    fill(superuser)
    superuser.execute("CREATE TABLE statements (rows bigint)")
    superuser.execute("GRANT ALL ON statements TO PUBLIC")
    superuser.execute("""
        CREATE FUNCTION note_statement() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO statements SELECT count(*) FROM changed; RETURN NULL; END $$;
    """)
    superuser.execute("""
        CREATE TRIGGER note AFTER UPDATE ON users REFERENCING NEW TABLE AS changed
           FOR EACH STATEMENT EXECUTE FUNCTION note_statement()
    """)
    # The last row of the last tenant is refused: all but its batch is committed.
    superuser.execute(
        "ALTER TABLE users ADD CONSTRAINT ck CHECK (locale IS NULL OR username <> 'user-7'"
        " OR tenant_id <> '00000000-0000-7000-8000-000000000105')"
    )
    drafts.add("backfill", BACKFILL.format(batch=3))

    with pytest.raises(DatabaseError):
        await upgrade(owner_settings, folder=drafts.folder)
    left = superuser.execute("SELECT count(*) FROM users WHERE locale IS NULL").fetchone()
    superuser.execute("ALTER TABLE users DROP CONSTRAINT ck")
    await upgrade(owner_settings, folder=drafts.folder)

    assert left is not None
    assert 1 <= left[0] <= 7
    assert superuser.execute("SELECT count(*) FROM users WHERE locale IS NULL").fetchone() == (0,)
    assert superuser.execute("SELECT sum(rows), max(rows) FROM statements").fetchone() == (35, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("backfill('UPDATE users SET locale = 1 LIMIT :batch')", "must have :tenant_id"),
        ("backfill('UPDATE users SET locale = 1 WHERE tenant_id = :tenant_id')", "must have :batch"),
        (BACKFILL.format(batch=0), "batch must be 1 row or more, got 0"),
    ],
)
async def test_a_backfill_without_its_parameters_is_rejected(
    owner_settings: Settings, drafts: Drafts, call: str, message: str
) -> None:
    drafts.add("backfill", call)

    with pytest.raises(ValueError, match=message):
        await upgrade(owner_settings, folder=drafts.folder)


async def test_the_operations_are_written_as_sql(drafts: Drafts) -> None:
    head = drafts.newest
    drafts.add("index", INDEX, "drop_index_concurrently('ix_users_name')")

    up = await sql(f"{head}:index", folder=drafts.folder)
    down = await sql(f"index:{head}", down=True, folder=drafts.folder)

    assert up.startswith("-- Stop at the first error")
    assert "SET lock_timeout = '5s';" in up
    between = up[up.index("COMMIT;") : up.rindex("BEGIN;")]
    assert "DROP INDEX CONCURRENTLY IF EXISTS ix_users_name;" in between
    assert "CREATE UNIQUE INDEX CONCURRENTLY ix_users_name ON users (tenant_id, username);" in between
    assert up.rindex("SET lock_timeout = '5s';") > up.rindex("SET lock_timeout = '600s';")
    assert "DROP INDEX CONCURRENTLY IF EXISTS ix_users_name;" in down


async def test_a_backfill_cannot_be_written_as_sql(drafts: Drafts) -> None:
    drafts.add("backfill", BACKFILL.format(batch=2))

    with pytest.raises(DatabaseError, match="backfill cannot be written as SQL"):
        await sql(folder=drafts.folder)


async def test_a_backfill_retries_after_a_locked_row(
    owner_settings: Settings, superuser: psycopg.Connection, drafts: Drafts
) -> None:
    fill(superuser)
    drafts.add("backfill", BACKFILL.format(batch=3))
    with superuser.transaction():
        superuser.execute("SELECT FROM users FOR UPDATE")
        with pytest.raises(LockNotAvailable, match=f"held by pid {superuser.info.backend_pid} "):
            await upgrade(
                owner_settings,
                folder=drafts.folder,
                patience=Patience(lock_seconds=0.2, attempts=2, pause_seconds=0.01),
            )

    await upgrade(owner_settings, folder=drafts.folder)
    assert superuser.execute("SELECT count(*) FROM users WHERE locale IS NULL").fetchone() == (0,)


async def test_transactions_are_kept_after_a_retry(
    owner_settings: Settings, superuser: psycopg.Connection, drafts: Drafts
) -> None:
    fill(superuser)
    drafts.add("backfill", BACKFILL.format(batch=50))
    drafts.add("broken", "op.execute('CREATE TABLE half (i int)')\nop.execute('SELECT 1 / 0')")
    patience = Patience(lock_seconds=0.1, attempts=50, pause_seconds=0.05)
    with superuser.transaction():
        superuser.execute("SELECT FROM users FOR UPDATE")
        migrating = asyncio.create_task(upgrade(owner_settings, folder=drafts.folder, patience=patience))
        await asyncio.sleep(0.6)

    with pytest.raises(DatabaseError, match="22012"):
        await migrating

    assert await current(owner_settings) == ("backfill",)
    assert superuser.execute("SELECT to_regclass('half')").fetchone() == (None,)
