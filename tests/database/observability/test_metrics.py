from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import text

from src.database import create_engine, engine, get_db, get_read_db, observability
from src.database.errors import CheckViolation, DatabaseError, DuplicateKeyError, PoolExhausted
from src.database.health.gauges import measure
from src.database.models import Tenant, User
from src.database.observability.metrics import metrics_of
from src.database.repositories import NewMessage, UserRepository
from src.database.statements.personal_data import erase_user
from src.database.store import get_store
from tests.database.observability.conftest import Use, value

ROOT = Path(__file__).parents[3]
CANARY = "the-canary-said-this"


async def test_a_statement_is_timed_by_the_name_of_the_method_that_the_service_called(
    use: Use, registry: CollectorRegistry
) -> None:
    use()
    async with get_db() as session:
        await UserRepository(session).get_or_create_by_telegram_id(1)
        found = await UserRepository(session).get_by_telegram_id(1)
        assert found is not None
        await UserRepository(session).get(found.id)
        await session.execute(text("SELECT 1"))

    def count(operation: str) -> float:
        return value(registry, "statement_seconds_count", pool="default", operation=operation)

    assert count("TenantBinding.bind") == 0, "it goes with BEGIN"
    assert count("UserRepository.get_by_telegram_id") == 1
    assert count("service") == 1
    assert value(registry, "statement_seconds_sum", pool="default", operation="UserRepository.get_by_telegram_id") > 0


async def test_a_function_of_the_service_names_its_statements_if_it_is_registered(
    use: Use, registry: CollectorRegistry
) -> None:
    @observability.names_statements
    async def daily() -> None:
        async with get_db() as session:
            await session.execute(text("SELECT 1"))
            await UserRepository(session).get_by_telegram_id(1)

    use()
    await daily()

    for operation in (daily.__qualname__, "UserRepository.get_by_telegram_id"):
        assert value(registry, "statement_seconds_count", pool="default", operation=operation) == 1


async def test_a_function_of_the_package_names_its_statements(use: Use, registry: CollectorRegistry) -> None:
    use()
    async with get_db() as session:
        user, _ = await UserRepository(session).get_or_create_by_telegram_id(1)
        await erase_user(session, user.id)

    assert value(registry, "statement_seconds_count", pool="default", operation="erase_user") > 0


async def test_the_stores_calls_are_counted_by_their_names(use: Use, registry: CollectorRegistry) -> None:
    use()
    await get_store().turn(1, "telegram", None, [NewMessage(message_id="1", role="user", content=CANARY)])
    await get_store().user_by_telegram_id(1)

    for operation, sent in (("Store.turn", 1), ("Store.user_by_telegram_id", 1)):
        assert value(registry, "statement_seconds_count", pool="store", operation=operation) == sent
    assert value(registry, "transaction_seconds_count", pool="store", outcome="committed") == 2
    assert value(registry, "connections_opened_total", pool="store") == 1
    assert value(registry, "checkout_seconds_count", pool="store") == 2


async def test_a_stream_of_a_repository_counts_once_also_beside_other_statements_and_if_it_is_left(
    use: Use, registry: CollectorRegistry
) -> None:
    use()
    async with get_db() as session:
        users = UserRepository(session)
        await users.add_many([User() for _ in range(600)])
        async for user in users.stream():
            await users.get(user.id)
            break
        async for _ in users.stream():
            pass

    assert value(registry, "statement_seconds_count", pool="default", operation="UserRepository.stream") == 2


async def test_a_stream_of_the_store_counts_once_also_if_its_reader_stops_early(
    use: Use, registry: CollectorRegistry
) -> None:
    use()
    store = get_store()
    turn = await store.turn(1, "telegram", None, [NewMessage(message_id="1", role="user", content="one")])
    batches = store.stream_messages(turn.user.id)
    async for _ in batches:
        break
    await batches.aclose()

    assert value(registry, "statement_seconds_count", pool="store", operation="Store.stream_messages") == 1
    assert errors(registry) == 0


async def test_units_of_work_are_counted_by_how_they_ended(use: Use, registry: CollectorRegistry) -> None:
    use()
    async with get_db() as session:
        await session.execute(text("SELECT 1"))
        async with session.begin_nested():
            await session.execute(text("SELECT 1"))
    with pytest.raises(LookupError):
        await _break_off()
    async with get_db():
        pass  # a session that sends nothing is not counted

    assert value(registry, "transaction_seconds_count", pool="default", outcome="committed") == 1
    assert value(registry, "transaction_seconds_count", pool="default", outcome="rolled back") == 1


async def _break_off() -> None:
    async with get_db() as session:
        async with session.begin_nested():
            await session.execute(text("SELECT 1"))
        raise LookupError


async def test_the_oldest_open_unit_of_work_has_an_age_until_it_ends(use: Use, registry: CollectorRegistry) -> None:
    use()
    async with get_db() as session:
        await session.execute(text("SELECT pg_sleep(0.05)"))
        age = value(registry, "oldest_transaction_seconds", pool="default")

    assert age >= 0.05
    assert value(registry, "oldest_transaction_seconds", pool="default") == 0


async def test_errors_are_counted_by_our_class_wherever_they_occur(use: Use, registry: CollectorRegistry) -> None:
    use(DATABASE_POOL_TIMEOUT="0.05")
    with pytest.raises(DuplicateKeyError):
        async with get_db() as session:
            session.add_all([User(telegram_id=1), User(telegram_id=1)])
    async with engine.connect(), engine.connect():
        with pytest.raises(PoolExhausted):
            await _use_one()

    assert value(registry, "errors_total", pool="default", error="DuplicateKeyError") == 1
    assert value(registry, "errors_total", pool="default", error="PoolExhausted") == 1
    assert value(registry, "transaction_seconds_count", pool="default", outcome="rolled back") == 1


async def test_a_commit_that_fails_is_an_error_too(use: Use, registry: CollectorRegistry) -> None:
    use()
    with pytest.raises(DatabaseError):
        await _commit_what_is_lost()

    assert errors(registry) >= 1
    assert value(registry, "transaction_seconds_count", pool="default", outcome="rolled back") == 1


def errors(registry: CollectorRegistry) -> float:
    """Return the number of errors of all classes."""
    samples = (sample for family in registry.collect() for sample in family.samples)
    return sum(sample.value for sample in samples if sample.name == "thea_db_errors_total")


async def _commit_what_is_lost() -> None:
    async with get_db() as session:
        pid = await session.scalar(text("SELECT pg_backend_pid()"))
        async with engine.connect() as other:
            await other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})


async def test_a_connection_that_the_store_loses_is_an_error_and_dropped(use: Use, registry: CollectorRegistry) -> None:
    use()
    await get_store().get_or_create_user(1)
    async with get_db() as session:
        await session.execute(text("LOCK TABLE users IN ACCESS EXCLUSIVE MODE"))
        reading = asyncio.create_task(get_store().user_by_telegram_id(1))
        while not await session.scalar(_TERMINATE_WHO_WAITS):  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)
    found = await reading

    assert found is not None
    assert value(registry, "errors_total", pool="store", error="ConnectionFailed") == 1
    assert value(registry, "connections_dropped_total", pool="store", reason="lost") == 1
    assert value(registry, "connections_opened_total", pool="store") == 2


_TERMINATE_WHO_WAITS = text("""
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()
""")


async def _use_one() -> None:
    async with engine.connect():
        pass


async def test_retries_and_results_of_checks_are_exported(use: Use, registry: CollectorRegistry) -> None:
    settings = use()
    assert settings.DATABASE_URL is not None
    use(DATABASE_REPLICA_URL=settings.DATABASE_URL.render_as_string(hide_password=False))
    await _use_one()
    observability.count_retry("SerializationError")
    await measure()

    assert value(registry, "retries_total", reason="SerializationError") == 1
    assert value(registry, "replica_up") == 1
    assert registry.get_sample_value("thea_db_replica_lag_seconds") == 0
    assert registry.get_sample_value("thea_db_revision_behind") == 0


async def test_a_value_without_a_check_is_absent(use: Use, registry: CollectorRegistry) -> None:
    """A 0 would mean that the replica is down, and that the schema is up to date."""
    seen = ("replica_up", "replica_lag_seconds", "revision_behind")
    use()
    await _use_one()
    before = [registry.get_sample_value(f"thea_db_{name}") for name in seen]
    await measure()
    without_replica = [registry.get_sample_value(f"thea_db_{name}") for name in seen]
    observability.report_replica(3.0)
    observability.report_replica(None)

    assert before == [None, None, None]
    assert without_replica == [None, None, 0]
    assert [registry.get_sample_value(f"thea_db_{name}") for name in seen] == [0, None, 0]


async def test_the_counters_of_a_pool_start_at_zero(use: Use, registry: CollectorRegistry) -> None:
    use()
    await _use_one()

    for error in ("PoolExhausted", "ConnectionFailed", "TunnelFailed"):
        assert registry.get_sample_value("thea_db_errors_total", {"pool": "default", "error": error}) == 0
    assert registry.get_sample_value("thea_db_connections_dropped_total", {"pool": "default", "reason": "lost"}) == 0
    assert registry.get_sample_value("thea_db_retries_total", {"reason": "DeadlockError"}) == 0


async def test_a_database_without_the_newest_migration_is_behind(
    cloned_database: Any, superuser: Any, use: Use, registry: CollectorRegistry
) -> None:
    use(cloned_database)
    await measure()
    superuser.execute("UPDATE thea_alembic_version SET version_num = '0001'")
    await measure()
    behind = value(registry, "revision_behind")
    superuser.execute("UPDATE thea_alembic_version SET version_num = 'of_a_later_release'")
    await measure()

    assert behind == 1
    assert value(registry, "revision_behind") == 0


async def test_no_label_contains_data(use: Use, registry: CollectorRegistry) -> None:
    use()
    async with get_db() as session:
        session.add(User(display_name=CANARY))
        await session.execute(text(f"SELECT '{CANARY}'"))
        await session.execute(text("SELECT :said"), {"said": CANARY})
    await get_store().turn(1, "telegram", CANARY, [NewMessage(message_id="1", role="user", content=CANARY)])
    with pytest.raises(CheckViolation):
        async with get_db() as session:
            session.add(Tenant(slug=CANARY.upper(), name=CANARY))

    assert CANARY not in generate_latest(registry).decode().lower()


async def test_an_engine_of_the_service_is_observed_after_watch(use: Use, registry: CollectorRegistry) -> None:
    settings = use()
    made = observability.watch(create_engine(settings, name="mine"), settings, name="mine")
    async with made.connect() as connection:
        await connection.execute(text("SELECT 1"))
    await made.dispose()

    assert value(registry, "checkout_seconds_count", pool="mine") == 1


def test_a_registry_has_its_metrics_once(registry: CollectorRegistry) -> None:
    assert metrics_of(registry) is metrics_of(registry)


async def test_read_sessions_have_a_pool_of_their_own(use: Use, registry: CollectorRegistry) -> None:
    use()
    async with get_read_db() as session:
        await session.execute(text("SELECT 1"))

    assert value(registry, "transaction_seconds_count", pool="read", outcome="committed") == 1
