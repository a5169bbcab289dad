"""`thea-db verify`: its exit codes, its output and its JSON."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner, Result

from src.database.cli.drift import drift_app
from src.database.drift import load_snapshot
from tests.database.drift.test_verify import OUTAGE, OUTAGE_REMEDY

pytestmark = pytest.mark.usefixtures("cloned_database")


def verify_command(*arguments: str) -> Result:
    return CliRunner().invoke(drift_app, ["verify", *arguments])


def test_exits_0_without_a_difference() -> None:
    done = verify_command()

    assert done.exit_code == 0
    assert f"compared with this release's snapshot of {head()}: no difference" in done.output


def test_exits_1_and_prints_the_remedy(superuser: psycopg.Connection) -> None:
    superuser.execute(OUTAGE)

    done = verify_command()

    assert done.exit_code == 1
    assert "events.location is missing" in done.output
    assert f"remedy: {OUTAGE_REMEDY[0]};" in done.output


def test_lenient_exits_0_for_warnings(superuser: psycopg.Connection) -> None:
    superuser.execute("CREATE INDEX by_title ON notes (title)")

    assert (verify_command().exit_code, verify_command("--lenient").exit_code) == (1, 0)


def test_prints_one_json_document(superuser: psycopg.Connection) -> None:
    superuser.execute(OUTAGE)

    document: dict[str, Any] = json.loads(verify_command("--json").stdout)

    assert (document["is_sound"], document["schema"], document["revision"]) == (False, "public", head())
    (difference,) = document["differences"]
    assert (difference["kind"], difference["object"]) == ("column", "events.location")
    assert difference["remedy"] == list(OUTAGE_REMEDY)


def head() -> str:
    return ",".join(load_snapshot().revisions or ())
