"""What is compared answers the same questions: each contender that the tests have, with a tiny database."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy import URL

from benchmarks.contenders import CONTENDERS, Entry, NotInstalledError, contender
from benchmarks.contenders.base import Contender, Said
from benchmarks.data import load
from benchmarks.measuring import Measured, WrongAnswerError, measure, try_out
from benchmarks.operations import OPERATIONS
from benchmarks.report import sheets
from benchmarks.results import Case, Results
from benchmarks.run import Runner, measure_all
from benchmarks.sample import Sample
from src.config import Settings

HERE = ("store", "repositories", "asyncpg", "floor", "sqlalchemy")
HOT = OPERATIONS["hot"]


@pytest.fixture
def sample(cloned_database: URL, superuser: psycopg.Connection, use_database: Callable[..., Settings]) -> Sample:
    loaded = load(superuser, messages=2000, tenants=2, long=200, exported=200, notes=150, searchers=2, bulk=20)
    use_database(cloned_database, DATABASE_DEFAULT_TENANT=loaded.tenant_id)
    return loaded


async def test_the_contenders_do_the_same(sample: Sample, superuser: psycopg.Connection) -> None:
    added = {}
    for name in HERE:
        kind = contender(name)
        one = kind()
        await one.open(sample.place)
        before = _counts(superuser)
        for operation in OPERATIONS.values():
            if operation.is_taken_by(kind):
                await try_out(one, operation, sample)
                if operation is HOT:
                    await measure(one, operation, sample, callers=4, seconds=0.01)
        await one.close()
        added[name] = [now - then for now, then in zip(_counts(superuser), before, strict=True)]
        assert added[name][0] >= 1 + 2 + sample.bulk

    assert superuser.execute(
        "SELECT count(*) FROM conversations WHERE last_seq <>"
        " (SELECT count(*) FROM message_history WHERE tenant_id = conversations.tenant_id"
        " AND conversation_id = conversations.id)"
    ).fetchone() == (0,)
    assert [added[name][1] for name in HERE] == [0, 1, 0, 0, 1]  # who has a note to add


def _counts(superuser: psycopg.Connection) -> tuple[int, ...]:
    row = superuser.execute("SELECT (SELECT count(*) FROM message_history), (SELECT count(*) FROM notes)").fetchone()
    assert row
    return row


class Forgetful(Contender):
    async def user_by_telegram_id(self, telegram_id: int) -> None:
        return None


async def test_whoever_returns_too_little_is_not_measured() -> None:
    person = ("01900001-0000-7000-8000-000000000001", 7, "chat")
    sample = Sample("", "", "", "", [person], [], [], "", 0, "", 0, [], 0)

    with pytest.raises(WrongAnswerError, match=r"Forgetful\.user_by_telegram_id returned 0 rows, not 1"):
        await try_out(Forgetful(), OPERATIONS["user_by_telegram_id"], sample)


async def test_a_run_leaves_out_who_is_not_there_and_says_why(sample: Sample) -> None:
    absent = Entry("absent", "Absent", "absent:Absent", "no_such_package")
    runners = [Runner(one.name, one, sample, {}) for one in (CONTENDERS["floor"], absent)]

    results = await measure_all(
        runners, [OPERATIONS["recent"]], rounds=2, seconds=0.01, callers=[16], advance=lambda: None
    )

    assert results.skipped == {"Absent": "no_such_package is not installed"}
    assert {case: list(by) for case, by in results.rounds.items()} == {Case("recent", 16): ["floor"]}
    assert list(results.rounds[Case("recent", 16)]["floor"]) == [0, 1]


def test_ratios_are_taken_inside_a_round_and_the_bar_stands_beside_them() -> None:
    results = Results()
    case = Case("user_by_telegram_id", 1)
    for number, (ours, theirs) in enumerate([(100.0, 50.0), (30.0, 10.0), (500.0, 100.0)]):
        results.rounds[case]["store"][number] = Measured(ours, [1000] * 99 + [5000], 90)
        results.rounds[case]["asyncpg"][number] = Measured(theirs, [2000] * 100, 300)
        results.rounds[case]["floor"][number] = Measured(ours * 2, [500] * 100, 60)
    results.mebibytes = {"store": 7.0, "floor": math.nan}

    bar, ratios, _, _, work, memory = sheets(results)

    assert results.ratio(case, "store", "asyncpg") == 3.0
    assert bar.rows == [
        [
            "user by telegram_id", "1", "store", "asyncpg, its pool",
            "3.00", "2.0", "met", "0.50", "NOT MET", "5.00 / 2.00",
        ]
    ]  # fmt: skip
    assert ratios.rows[0][2:] == ["3.00 (100)", "1.00 (50.0)", "6.00 (200)"]
    assert work.rows[0][2:] == ["90.0", "300", "60.0"]
    assert ["store", "7.0", "5", "NOT MET"] in memory.rows


def test_nothing_of_the_peers_is_imported_before_it_takes_part() -> None:
    with pytest.raises(NotInstalledError, match="no_such_package is not installed"):
        Entry("absent", "Absent", "absent:Absent", "no_such_package").command()
    assert CONTENDERS["django"].is_extra
    assert "django" not in sys.modules


def test_what_is_said_is_never_said_twice() -> None:
    said: list[Said] = [Sample.said() for _ in range(100)]

    assert len({one.message_id for one in said}) == 100
