"""Ratios, spreads and verdicts of a run, and where they are written."""

from __future__ import annotations

import math
from pathlib import Path

import psycopg
import pytest
import typer
from typer.testing import CliRunner

import benchmarks.__main__ as command
from benchmarks.__main__ import FULL
from benchmarks.measuring import Measured
from benchmarks.report import sheets
from benchmarks.results import MET, NOISE, NOT_MET, Case, Results, Spread
from benchmarks.server import CONFIG, BenchmarkServer

CASE = Case("user_by_telegram_id", 1)


def results_of(**calls_a_second: list[float]) -> Results:
    """Return the rounds of contenders for one case; a call takes 1 ms, and 5 ms at the 99th percentile."""
    results = Results()
    for name, rounds in calls_a_second.items():
        contender, _, tenants = name.partition("_in_")
        for number, speed in enumerate(rounds):
            measured = Measured(speed, [1000] * 98 + [5000] * 2, 90, 40)
            results.rounds[CASE._replace(tenants=tenants or "mixed")][contender][number] = measured
    return results


@pytest.mark.parametrize(
    ("rounds", "verdict"),
    [
        ([2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 1.0], MET),  # one round below the bar is no failure
        ([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 9.0], NOT_MET),  # and one above it no success
        ([1.8, 1.9, 2.1, 2.2, 2.3, 2.4, 2.5], NOISE),
        ([2.1, 1.9, 2.2], NOISE),  # of few rounds none is left out
    ],
)
def test_a_bar_inside_the_spread_is_within_noise(rounds: list[float], verdict: str) -> None:
    spread = Spread.of(rounds)

    assert spread
    assert spread.verdict(2.0) == verdict


def test_a_missing_measurement_has_no_spread() -> None:
    assert Spread.of([]) is None
    assert Spread.of([math.nan]) is None
    assert results_of(store=[1]).ratio(CASE, "store", "asyncpg") is None


def test_ratios_are_taken_inside_each_round() -> None:
    results = results_of(store=[100, 30, 500], asyncpg=[50, 10, 100])

    assert results.ratio(CASE, "store", "asyncpg") == (2.0, 3.0, 5.0)


def test_the_tables_show_bars_spreads_one_tenant_and_the_server() -> None:
    results = results_of(
        store=[300, 300], asyncpg=[100, 100], floor=[600, 600], store_in_one=[400, 310], asyncpg_in_one=[100, 100]
    )
    results.mebibytes = {"store": 7.0, "floor": math.nan}

    tables = {sheet.title.split(":")[0]: sheet for sheet in sheets(results)}

    assert tables["The bars"].rows == [
        [
            "user by telegram_id", "1", "store", "asyncpg, its pool", "3.00", "3.00..3.00", "2", MET,
            "3.55", "0.50", "5.00 / 5.00", MET,
        ]
    ]  # fmt: skip
    assert tables["The store's one-statement calls"].rows[0][2:] == ["0.86", "0.75..0.97", "0.95", NOISE]
    assert tables["Throughput, 20 tenants mixed"].rows[0][2:] == [
        "3.00 3.00..3.00 (300)", "6.00 6.00..6.00 (600)", "1 (100)"
    ]  # fmt: skip
    assert tables["Server"].rows[0][2:] == ["40.0", "40.0", "40.0"]
    assert ["store", "7.0", "5", NOT_MET] in tables["Memory"].rows


def test_commits_are_durable() -> None:
    assert (CONFIG["fsync"], CONFIG["synchronous_commit"]) == ("on", "on")
    assert "full_page_writes" not in CONFIG


def test_settings_are_read_from_the_server(superuser: psycopg.Connection) -> None:
    server = BenchmarkServer(superuser.info.host)
    settings = server.settings_in_force()
    times = server.backend_times()
    server.close()

    assert settings["fsync"] == "off"  # the tests' server has it off
    assert settings["shared_buffers"] == "32MB"
    assert times[superuser.info.backend_pid] > 0


@pytest.mark.parametrize("option", ["--quick", "--rounds=3", "--only=append", "--with=store", "--messages=5000"])
def test_only_a_complete_run_can_be_published(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(command, "running_server")  # a run that is not refused fails immediately

    ran = CliRunner().invoke(_app(), ["--publish", option])

    assert ran.exit_code == 2
    assert "complete run" in " ".join(ran.output.replace("│", " ").split())


@pytest.mark.parametrize("is_published", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_run_writes_to_the_cache_unless_it_is_published(
    is_published: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)

    command.write(results_of(store=[1], asyncpg=[1]), None, FULL, {"fsync": "on"}, publish=is_published)

    written = {str(path.parent) for path in Path().rglob("results.md")}
    assert written == {"docs/benchmarks" if is_published else ".cache/benchmarks"}
    [page] = Path().rglob("results.md")
    assert "fsync = on" in page.read_text()
    assert "row-level security" in page.read_text().partition("## The bars")[0]


def _app() -> typer.Typer:
    app = typer.Typer()
    app.command()(command.main)
    return app
