"""The checks of CI for known vulnerabilities of installed packages and for committed secrets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.audit import judge
from scripts.check_secrets import ROOT, search

SOUND = {"name": "sound", "version": "1", "vulns": []}
BROKEN = {"name": "broken", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}
UNKNOWN = {"name": "unknown", "skip_reason": "not found on PyPI"}


@pytest.mark.parametrize(
    ("packages", "code", "text"),
    [
        ([SOUND, UNKNOWN], 0, "no known vulnerability in 1 packages; without data: unknown"),
        ([SOUND, BROKEN], 1, "broken 1: PYSEC-1, fixed in 2"),
        ([UNKNOWN, UNKNOWN], 0, "NOT CHECKED: the advisory service has data on none of 2 packages"),
    ],
)
def test_packages_without_data_do_not_count_as_safe(packages: list[dict[str, object]], code: int, text: str) -> None:
    judged = judge(json.dumps({"dependencies": packages, "fixes": []}))

    assert judged[0] == code
    assert text in judged[1]


@pytest.mark.parametrize("output", ["", "Traceback", "{}", "[]"])
def test_an_unreachable_advisory_service_is_reported_and_does_not_fail(output: str) -> None:
    code, text = judge(output)

    assert code == 0
    assert "NOT CHECKED" in text


def test_a_planted_secret_is_found(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text(
        "KEY = '" + "AKIA" + "QWERTYUIOPASDFGH" + "'\n"
    )  # in two parts, so that this file contains no secret

    assert search([str(planted)], baseline=ROOT / ".secrets.baseline") == 1
    assert "AWS Access Key" in capfd.readouterr().out


@pytest.mark.slow
def test_a_search_for_secrets_leaves_the_baseline_as_it_is(tmp_path: Path) -> None:
    """The hook rewrites a baseline whose lines have moved, with an absolute path of the machine in it."""
    baseline = tmp_path / "baseline"
    known = json.loads((ROOT / ".secrets.baseline").read_text())
    for secrets in known["results"].values():
        for secret in secrets:
            secret["line_number"] += 1
    baseline.write_text(json.dumps(known))
    before = baseline.read_bytes()

    assert search(sorted(known["results"]), baseline=baseline) == 0
    assert baseline.read_bytes() == before
