"""One minute of the soak; `make soak` takes thirty."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.soak_report import Minute, Report

ROOT = Path(__file__).parents[2]


def report(**changes: object) -> Report:
    sound = {
        "minutes": [Minute(calls=1, rss=[100 * 2**20], backends=[3]) for _ in range(10)],
        "warm_up": 1,
        "acknowledged": 2,
        "stored": 2,
        "found": {"rows that are another tenant's": 0},
        "left": (3, 0, 0),
        "in_use": 0,
        "wrongly_bound": [],
        "unexpected": [],
    }
    return Report(**{**sound, **changes})  # type: ignore[arg-type] # a keyword each


def test_a_passed_soak_reports_its_counts_and_no_complaint() -> None:
    assert report().complaints == []
    assert "| 10 | 1 | 0 | none | none | 100.0 | 3 |" in report().as_markdown()


def test_each_broken_guarantee_is_reported() -> None:
    growing = [Minute(rss=[size * 2**20]) for size in (50, *range(100, 109))]

    assert report(minutes=growing).complaints == ["memory grew by 5.9%"]
    assert report(found={"rows that are another tenant's": 2}).complaints == ["2 rows that are another tenant's"]
    assert report(left=(3, 1, 0)).complaints == ["1 backends after dispose, 0 before"]
    assert report(in_use=1).complaints == ["1 connections are checked out"]
    assert report(acknowledged=0).complaints == ["nothing was acknowledged"]
    assert report(wrongly_bound=["a"], unexpected=["b"]).complaints == ["a", "b"]


def test_a_minute_of_load_kills_cancels_and_restarts_leaves_nothing_and_loses_nothing(
    tmp_path: Path, *, is_long: bool
) -> None:
    if not is_long:
        pytest.skip("takes a minute: --long")
    written = tmp_path / "soak.md"

    command = [sys.executable, "-m", "tests.faults.soak", "--minutes", "1", "--report", str(written)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "- Result: passed" in written.read_text()
