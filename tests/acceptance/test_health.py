"""readiness: the report of each problem, within its time limits, and what the report does not contain."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import URL, text
from structlog.testing import capture_logs

from src.config import Settings
from src.database import get_db, get_engine
from src.database.embedded import APP_ROLE
from src.database.health import HealthReport, checks, liveness, readiness
from src.database.session import forget_settings
from src.database.store import get_store
from tests.acceptance.command import CANARY
from tests.database.drift.test_verify import OUTAGE
from tests.database.engine.test_silence import relayed
from tests.database.mute_relay import relaying

Use = Callable[..., Settings]
ONE = text("SELECT 1")
OURS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename <> current_user"


async def get_report(**options: Any) -> HealthReport:
    """Return a report, with time limits for a busy machine."""
    return await readiness(**{"timeout_seconds": 20, **options})


def problems(report: HealthReport) -> dict[str, str]:
    return {name: check.status for name, check in report.checks.items() if check.status in {"degraded", "unhealthy"}}


def count(superuser: psycopg.Connection) -> int:
    row = superuser.execute(OURS).fetchone()
    assert row is not None
    return int(row[0])


async def until_gone(superuser: psycopg.Connection) -> None:
    async with asyncio.timeout(10):
        while count(superuser):  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.02)


async def test_a_working_service_is_healthy_without_reading_rows(
    cloned_database: URL, superuser: psycopg.Connection
) -> None:
    superuser.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {APP_ROLE}")
    superuser.execute(f"GRANT SELECT ON thea_alembic_version TO {APP_ROLE}")

    document = (await get_report()).as_json()

    assert (document["status"], document["service"]) == ("healthy", "thea-database")
    assert {name: check["status"] for name, check in document["checks"].items()} == {
        "connect": "healthy",
        "revision": "healthy",
        "isolation": "healthy",
        "replica": "skipped",
        "pool": "skipped",
    }
    assert all(check["duration_ms"] >= 0 for check in document["checks"].values())
    await until_gone(superuser)


async def test_liveness_does_not_use_the_database(cloned_database: URL, use_database: Use) -> None:
    with relaying() as relay:
        use_database(relayed(relay, str(cloned_database.database)).update_query_dict({"application_name": "agent"}))
        report = await liveness()
        assert relay.connections == 0

    assert (report.status, report.service, list(report.checks)) == ("healthy", "agent", ["event_loop"])


async def test_a_dead_server_is_unhealthy_and_neither_host_nor_user_is_reported(use_database: Use) -> None:
    use_database(URL.create("postgresql", "somebody", CANARY, "127.0.0.1", 1, "secret_name"))

    with capture_logs() as logs:
        report = await get_report()

    assert problems(report) == {"connect": "unhealthy"}
    assert report.checks["revision"].status == "skipped"
    assert report.checks["connect"].found == "no connection"
    assert "thea-db doctor" in str(report.checks["connect"].remedy)
    assert not any(word in json.dumps(report.as_json()) for word in (CANARY, "somebody", "secret_name", "127.0.0.1"))
    assert "nothing listens there" in logs[0]["reason"], "the log has the details"
    assert CANARY not in repr(logs)


async def test_a_rejected_role_is_reported(cloned_database: URL, use_database: Use) -> None:
    use_database(cloned_database.set(username="stranger", password=CANARY))

    report = await get_report()

    assert report.checks["connect"].found == "the server refused the user or the password"
    assert not any(word in repr(report) for word in (CANARY, "stranger"))


@pytest.mark.parametrize("after_login", [False, True], ids=["before the login", "after the login"])
async def test_a_silent_server_is_unhealthy_within_the_limit(
    cloned_database: URL, use_database: Use, after_login: bool
) -> None:
    with relaying() as relay:
        use_database(relayed(relay, str(cloned_database.database)))
        if after_login:
            relay.is_silent_after_login = True
        else:
            relay.fall_silent()
        began = time.monotonic()
        report = await readiness(timeout_seconds=0.3, drift=True)
        took = time.monotonic() - began

    assert took < 5, "the limit is not the ten seconds of connecting"
    assert problems(report) == {"connect": "unhealthy"}
    assert report.checks["connect"].found == "no answer in time"
    assert report.checks["revision"].found == report.checks["drift"].found == "see the check `connect`"


async def test_a_full_pool_is_degraded_and_the_server_is_still_checked(cloned_database: URL, use_database: Use) -> None:
    use_database(cloned_database.update_query_dict({"pool_max": "1"}))
    async with get_db() as session:
        await session.execute(ONE)
        full = await get_report()
    free = await get_report()

    assert problems(full) == {"pool": "degraded"}
    assert full.can_serve
    assert full.checks["pool"].found == "a pool is full; in use: default 1 of 1"
    assert (free.status, free.checks["pool"].found) == ("healthy", "in use: default 0 of 1")


async def test_the_stores_pool_is_counted_as_the_store_uses_it(cloned_database: URL, use_database: Use) -> None:
    use_database(cloned_database.update_query_dict({"pool_max": "2"}))
    pool = get_store().pool
    slots = [await pool.take() for _ in range(2)]
    full = await get_report()
    for slot in slots:
        pool.release(slot)
    free = await get_report()
    await get_engine("store").dispose()

    assert (full.status, full.checks["pool"].found) == (
        "degraded",
        "a pool is full; in use: store 2 of 2, default 0 of 2",
    )
    assert free.status == "healthy"


async def test_a_full_server_is_degraded_for_processes_with_connections_and_unhealthy_for_others(
    cloned_database: URL, use_database: Use, superuser: psycopg.Connection
) -> None:
    """Otherwise a full server would take out the processes that still serve."""

    def limit(connections: int) -> None:
        name = sql.Identifier(superuser.info.dbname)
        superuser.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(name, connections))

    use_database(cloned_database.update_query_dict({"pool_max": "1"}))
    limit(1)  # of the superuser
    without = await get_report()
    limit(2)
    async with get_db() as session:
        await session.execute(ONE)
        having = await get_report()
        limit(5)
        nearly = await get_report()

    assert problems(without) == {"connect": "unhealthy"}
    assert without.checks["connect"].found == "the server has no free connection"
    assert problems(having) == {"connect": "degraded", "pool": "degraded"}
    assert (nearly.checks["connect"].status, nearly.checks["connect"].found) == (
        "degraded",
        "the server has 2 of 5 connections free",
    )


@pytest.mark.parametrize(
    ("statement", "status", "found"),
    [
        ("UPDATE thea_alembic_version SET version_num = '0001'", "unhealthy", "0001 is behind "),
        ("UPDATE thea_alembic_version SET version_num = '9999'", "degraded", "9999 is newer than this release's "),
        ("DROP TABLE thea_alembic_version", "unhealthy", "the tables exist, and no revision is recorded"),
        (
            f"REVOKE ALL ON thea_alembic_version FROM {APP_ROLE}, PUBLIC",
            "degraded",
            "the role may not read thea_alembic_version",
        ),
    ],
)
async def test_the_revision_of_the_schema_is_checked(
    cloned_database: URL, superuser: psycopg.Connection, statement: str, status: str, found: str
) -> None:
    superuser.execute(statement)

    report = await get_report()

    assert problems(report) == {"revision": status}
    assert report.checks["revision"].found.startswith(found)
    assert report.can_serve is (status == "degraded")


async def test_the_remedy_of_an_unreadable_revision_works(cloned_database: URL, superuser: psycopg.Connection) -> None:
    superuser.execute(f"REVOKE ALL ON thea_alembic_version FROM {APP_ROLE}, PUBLIC")

    remedy = str((await get_report()).checks["revision"].remedy)
    superuser.execute(remedy.removeprefix("as the owner: ").encode())

    assert problems(await get_report()) == {}


async def test_the_remedy_of_a_read_only_default_does_not_lock_the_service_out(
    cloned_database: URL, superuser: psycopg.Connection
) -> None:
    """With target_session_attrs=read-write no connection would be accepted."""
    superuser.execute(f"ALTER DATABASE {cloned_database.database} SET default_transaction_read_only = on".encode())

    remedy = str((await get_report()).checks["connect"].remedy)

    assert remedy.startswith("for a standby, name all hosts in DATABASE_URL")
    assert "otherwise `thea-db doctor`" in remedy


async def test_a_hanging_check_fails_alone(cloned_database: URL, superuser: psycopg.Connection) -> None:
    with superuser.transaction():
        superuser.execute("LOCK TABLE thea_alembic_version")
        for seconds in (0.5, 2, 8):
            report = await readiness(timeout_seconds=seconds)
            if report.checks["connect"].status == "healthy":  # otherwise the machine is too busy for this limit
                break

    assert problems(report) == {"revision": "unhealthy"}
    assert report.checks["revision"].found == "no answer in time"
    await until_gone(superuser)


async def test_drift_is_checked_on_request(cloned_database: URL, superuser: psycopg.Connection) -> None:
    superuser.execute("ALTER TABLE notes ADD COLUMN colour text")
    harmless = await get_report(drift=True)
    superuser.execute(OUTAGE)
    harmful, unasked = await get_report(drift=True), await get_report()

    assert problems(harmless) == {"drift": "degraded"}
    assert problems(harmful) == {"drift": "unhealthy"}
    assert harmful.checks["drift"].found == "2 difference(s), 1 of which can make statements fail"
    assert "drift" not in unasked.checks


async def test_a_server_that_rejects_writes_is_degraded(cloned_database: URL, superuser: psycopg.Connection) -> None:
    superuser.execute(
        sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(
            sql.Identifier(superuser.info.dbname)
        )
    )

    assert problems(await get_report()) == {"connect": "degraded"}


async def test_settings_that_cannot_be_read_are_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_POOL_SIZE", CANARY)
    forget_settings()
    report, live_report = await get_report(), await liveness()
    monkeypatch.undo()
    forget_settings()

    assert problems(report) == {"settings": "unhealthy"}
    assert CANARY not in repr(report)
    assert live_report.status == "healthy"


async def test_an_error_inside_a_check_reveals_nothing(cloned_database: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_context: object) -> Any:
        raise RuntimeError(CANARY)

    monkeypatch.setattr(checks, "check_pools", fail)
    with capture_logs() as logs:
        report = await get_report()

    assert report.checks["pool"].found == "the check itself failed: RuntimeError"
    assert CANARY not in repr((report, logs))


async def test_concurrent_probes_share_one_report(cloned_database: URL, use_database: Use) -> None:
    with relaying() as relay:
        use_database(relayed(relay, str(cloned_database.database)))
        asked = [asyncio.create_task(get_report()) for _ in range(50)]
        await asyncio.sleep(0)
        asked[0].cancel()
        reports = await asyncio.gather(*asked, return_exceptions=True)
        assert relay.connections == 1
        await get_report()
        assert relay.connections == 2, "the next probe gets a new report"

    assert isinstance(reports[0], asyncio.CancelledError)
    assert all(isinstance(report, HealthReport) and report.can_serve for report in reports[1:])


async def test_cancelled_reports_leave_no_connection(
    cloned_database: URL, superuser: psycopg.Connection, is_long: bool
) -> None:
    for number in range(500 if is_long else 20):
        asking = asyncio.create_task(readiness(timeout_seconds=5 + number))
        await asyncio.sleep(number % 20 / 1000)
        asking.cancel()
        await asyncio.wait([asking])
    await until_gone(superuser)


def test_successive_event_loops_get_their_own_reports(cloned_database: URL) -> None:
    assert [asyncio.run(get_report()).status for _ in range(2)] == ["healthy", "healthy"]


@pytest.mark.parametrize("name", ["timeout_seconds", "max_replica_lag_seconds"])
@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
async def test_a_limit_is_above_0(name: str, seconds: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be above 0 seconds, got"):
        await readiness(**{name: seconds})  # type: ignore[arg-type] # either of them
