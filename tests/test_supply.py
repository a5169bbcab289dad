"""What CI asks of what is installed and of what is committed: known vulnerabilities, and secrets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.audit import judge
from scripts.check_secrets import ROOT, look

SOUND = {"name": "sound", "version": "1", "vulns": []}
BROKEN = {"name": "broken", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}
UNKNOWN = {"name": "unknown", "skip_reason": "not found on PyPI"}


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([SOUND, UNKNOWN], 0, "no known vulnerability in 1 packages; not known there: unknown"),
        ([SOUND, BROKEN], 1, "broken 1: PYSEC-1, mended in 2"),
        ([UNKNOWN, UNKNOWN], 0, "COULD NOT BE ASKED: it knows none of 2 packages"),
    ],
)
def test_an_answer_of_the_advisory_service_is_told_from_none(
    packages: list[dict[str, object]], code: int, said: str
) -> None:
    judged = judge(json.dumps({"dependencies": packages, "fixes": []}))

    assert judged[0] == code
    assert said in judged[1]


@pytest.mark.parametrize("answer", ["", "Traceback", "{}", "[]"])
def test_an_advisory_service_that_cannot_be_reached_is_said_and_stops_nobody(answer: str) -> None:
    code, said = judge(answer)

    assert code == 0
    assert "COULD NOT BE ASKED" in said


def test_a_planted_secret_is_found(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text("KEY = '" + "AKIA" + "QWERTYUIOPASDFGH" + "'\n")  # in parts, so that it is none here

    assert look([str(planted)], baseline=ROOT / ".secrets.baseline") == 1
    assert "AWS Access Key" in capfd.readouterr().out


@pytest.mark.slow
def test_a_search_for_secrets_leaves_the_baseline_as_it_is(tmp_path: Path) -> None:
    """The hook rewrites a baseline whose lines have moved, with the machine's absolute path in it."""
    baseline = tmp_path / "baseline"
    known = json.loads((ROOT / ".secrets.baseline").read_text())
    for secrets in known["results"].values():
        for secret in secrets:
            secret["line_number"] += 1
    baseline.write_text(json.dumps(known))
    before = baseline.read_bytes()

    assert look(sorted(known["results"]), baseline=baseline) == 0
    assert baseline.read_bytes() == before
