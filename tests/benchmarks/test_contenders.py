"""The contenders perform the same operations: those that the tests have installed, on a tiny database."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import psycopg
import pytest

from benchmarks.contenders import CONTENDERS, Entry, NotInstalledError, contender
from benchmarks.contenders.base import Contender, Incoming, Place
from benchmarks.data import PEER_ROLE, Loaded, load
from benchmarks.measuring import WrongAnswerError, measure, try_out
from benchmarks.operations import OPERATIONS, PEERS
from benchmarks.results import Case
from benchmarks.run import Runner, measure_all
from benchmarks.sample import Rows, Sample
from src.config import Settings
from src.database.embedded import APP_ROLE, SUPERUSER
from tests.conftest import SERVER, SOCKETS, url_of

HERE = ("store", "repositories", "asyncpg", "floor", "sqlalchemy")
HOT = OPERATIONS["hot"]
TENANTS = 3
UNKNOWN_ID = UUID("01900000-0000-7000-8000-0000000000ff")
FIRST_PAGE = {
    "user_by_telegram_id", "append", "recent", "get_or_create_user", "get_or_start", "turn", "search", "pages",
    "stream", "append_many",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Databases:
    ours: psycopg.Connection
    plain: psycopg.Connection
    loaded: Loaded
    loaded_rows: list[list[int]]

    def place(self, *, is_plain: bool) -> Place:
        info = (self.plain if is_plain else self.ours).info
        return Place(info.host, info.dbname, PEER_ROLE if is_plain else APP_ROLE)

    def sample(self, entry: Entry) -> Sample:
        return Sample(self.place(is_plain=entry.is_plain), self.loaded.mixed, self.loaded.one)


@pytest.fixture(scope="module")
def databases() -> Iterator[Databases]:
    name = SERVER.clone()
    with _superuser(name) as ours:
        ours.execute("DELETE FROM tenants")  # those of the tests
        plain_name = f"plain_{name}"
        ours.execute(f"CREATE DATABASE {plain_name}")
        with _superuser(plain_name) as plain:
            sizes = {"messages": 1200, "long": 200, "exported": 200, "notes": 100, "searchers": 2, "bulk": 20}
            loaded = load(ours, plain, tenants=TENANTS, **sizes)
            yield Databases(ours, plain, loaded, [_counts(ours), _counts(plain)])
        ours.execute(f"DROP DATABASE {plain_name} WITH (FORCE)")
    SERVER.release(name)


def _counts(connection: psycopg.Connection) -> list[int]:
    tables = ("message_history", "users", "conversations", "notes", "events")
    counts = " UNION ALL ".join(f"SELECT count(*) FROM {table}" for table in tables)  # noqa: S608 - constants
    return [row[0] for row in connection.execute(counts).fetchall()]


def _superuser(database: str) -> psycopg.Connection:
    return psycopg.connect(host=SOCKETS, user=SUPERUSER, dbname=database, autocommit=True)


@pytest.mark.slow
async def test_the_contenders_perform_the_same_operations(
    databases: Databases, use_database: Callable[..., Settings]
) -> None:
    use_database(url_of(databases.ours.info.dbname))
    for name in HERE:
        kind = contender(name)
        one = kind()
        place = databases.place(is_plain=CONTENDERS[name].is_plain)
        await one.open(place)
        before = [_counts(databases.ours), _counts(databases.plain)]
        for operation in OPERATIONS.values():
            if operation.is_taken_by(kind):
                for rows in (databases.loaded.mixed, databases.loaded.one):
                    await try_out(one, operation, rows)
                if operation is HOT:
                    await measure(one, operation, databases.loaded.mixed, callers=4, seconds=0.01)
        await one.close()
        after = [_counts(databases.ours), _counts(databases.plain)]

        messages = [now[0] - then[0] for now, then in zip(after, before, strict=True)]
        least = 2 * (1 + 2 + databases.loaded.mixed.bulk)
        assert [count >= least for count in messages] == [place.user == APP_ROLE, place.user == PEER_ROLE]
        assert min(messages) == 0
    for connection in (databases.ours, databases.plain):
        assert connection.execute(
            "SELECT count(*) FROM conversations WHERE last_seq <>"
            " (SELECT count(*) FROM message_history WHERE tenant_id = conversations.tenant_id"
            " AND conversation_id = conversations.id)"
        ).fetchone() == (0,)


def test_both_schemas_hold_the_same_rows_and_only_ours_enforces(databases: Databases) -> None:
    enforced = (
        "SELECT count(*) FILTER (WHERE contype = 'c'), (SELECT count(*) FROM pg_policies) FROM pg_constraint"
        " JOIN pg_namespace ON pg_namespace.oid = connamespace WHERE nspname = 'public'"
    )

    assert databases.loaded_rows[0] == databases.loaded_rows[1]
    assert min(databases.loaded_rows[0]) > 0
    assert databases.plain.execute(enforced).fetchone() == (0, 0)
    assert min(databases.ours.execute(enforced).fetchone() or (0,)) > 0


async def test_row_level_security_applies_to_the_floor(databases: Databases) -> None:
    place = databases.place(is_plain=False)
    floor = contender("floor")()
    await floor.open(place)
    connection = await asyncpg.connect(host=place.host, user=place.user, database=place.database)
    without_a_tenant = await connection.fetchval("SELECT count(*) FROM users")
    await connection.close()

    tenant_id, telegram_id = databases.loaded.mixed.telegram_id()
    found = [await floor.user_by_telegram_id(of, telegram_id) for of in (tenant_id, UNKNOWN_ID, tenant_id)]
    await floor.close()

    assert [len(rows) for rows in found] == [1, 0, 1]
    assert without_a_tenant == 0


@pytest.mark.slow
def test_mixed_rows_are_of_all_tenants_in_equal_shares_and_as_many_as_of_one(databases: Databases) -> None:
    mixed, one = databases.loaded.mixed, databases.loaded.one

    for name in ("people", "conversations"):
        of_tenants = [row[0] for row in getattr(mixed, name)]
        assert {of_tenants.count(tenant_id) for tenant_id in of_tenants} == {len(of_tenants) // TENANTS}
        assert len(set(of_tenants)) == TENANTS
        assert len({row[0] for row in getattr(one, name)}) == 1
        assert 0 <= len(getattr(one, name)) - len(of_tenants) < TENANTS
    assert len({tenant_id for tenant_id, _ in mixed.long_conversations}) == TENANTS
    assert len({tenant_id for tenant_id, _ in mixed.searchers}) == TENANTS


class Forgetful(Contender):
    async def user_by_telegram_id(self, tenant_id: UUID, telegram_id: int) -> None:
        return None


async def test_a_contender_that_returns_too_little_is_not_measured() -> None:
    rows = Rows(
        [(UNKNOWN_ID, UNKNOWN_ID, 7, "chat")], [], [], [], (UNKNOWN_ID, UNKNOWN_ID), (UNKNOWN_ID, UNKNOWN_ID), 0, 0, 0
    )

    with pytest.raises(WrongAnswerError, match=r"Forgetful\.user_by_telegram_id returned 0 rows, not 1"):
        await try_out(Forgetful(), OPERATIONS["user_by_telegram_id"], rows)


@pytest.mark.slow
async def test_a_run_measures_mixed_tenants_and_one_and_reports_missing_contenders(databases: Databases) -> None:
    absent = Entry("absent", "Absent", "absent:Absent", "no_such_package")
    runners = [Runner(one.name, one, databases.sample(one), {}) for one in (CONTENDERS["floor"], absent)]
    times = iter([{1: 1000, 2: 0}, {1: 3000, 2: 4000, 3: 500}] * 10)

    results = await measure_all(
        runners, [OPERATIONS["recent"]], rounds=2, seconds=0.01, backend_times=lambda: next(times)
    )

    assert results.skipped == {"Absent": "no_such_package is not installed"}
    assert {case: list(by) for case, by in results.rounds.items()} == {
        Case("recent", callers, tenants): ["floor"] for callers in (1, 16) for tenants in ("mixed", "one")
    }
    [measured, _] = results.rounds[Case("recent", 16)]["floor"].values()
    assert measured.server_microseconds == pytest.approx(6.5 / len(measured.microseconds))


def test_a_missing_peer_is_reported_and_no_peer_is_imported_here() -> None:
    with pytest.raises(NotInstalledError, match="no_such_package is not installed"):
        Entry("absent", "Absent", "absent:Absent", "no_such_package").command()
    with pytest.raises(NotInstalledError, match="agents is not installed"):
        Entry("absent", "Absent", "absent:Absent", "agents", environment="no/such/folder").command()
    assert CONTENDERS["django"].is_extra
    assert "django" not in sys.modules


def test_no_two_messages_have_the_same_key() -> None:
    messages: list[Incoming] = [Rows.message() for _ in range(100)]

    assert len({one.message_id for one in messages}) == 100


def test_each_operation_of_the_first_page_has_a_bar_for_each_path_that_performs_it() -> None:
    missing = {
        (path, name)
        for path in set(PEERS) & set(HERE)
        for name in FIRST_PAGE
        for callers in OPERATIONS[name].callers
        if OPERATIONS[name].is_taken_by(contender(path)) and OPERATIONS[name].bar(path, callers) is None
    }

    assert missing == set()
