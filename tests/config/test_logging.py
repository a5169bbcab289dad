"""Logs: secrets are masked in every event."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
import structlog

from src.config import configure_logging, get_logger
from src.config.logging import mask_secrets

CANARY = "c4n4ry-p4ss"


@pytest.mark.parametrize(
    "event",
    [
        {"password": CANARY},
        {"DB_PROD_PASSWORD": CANARY},
        {"event": f"connecting to postgresql://thea:{CANARY}@db/thea"},
        {"url": f"postgresql://thea@db/thea?password={CANARY}&sslmode=require"},
        {"options": {"password": CANARY}},
        {"urls": [f"postgresql://thea:{CANARY}@db/thea"]},
        {"event": f"host=db password={CANARY} user=x"},
        {"event": f"postgresql://thea:a/b {CANARY}@db/thea"},
        {"error": ValueError(f"postgresql://thea:{CANARY}@db/thea")},
        {"raw": f"postgresql://thea:{CANARY}@db/thea".encode()},
        {"token": CANARY},
    ],
)
def test_masks_a_secret(event: dict[str, Any]) -> None:
    assert CANARY not in str(mask_secrets(None, "info", event))


def test_does_not_change_other_values() -> None:
    event = {"event": "connected", "host": "db", "port": 5432, "ok": True, "input_tokens": 7, "none": None}

    assert mask_secrets(None, "info", dict(event)) == event


def test_writes_json_outside_of_development(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("production")
    try:
        get_logger("x").info("connected", host="db", password=CANARY)
    finally:
        structlog.reset_defaults()

    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["host"], line["level"], line["password"]) == ("connected", "db", "info", "***")


def test_writes_to_the_current_standard_error_output(monkeypatch: pytest.MonkeyPatch) -> None:
    with StringIO() as closed:
        monkeypatch.setattr("sys.stderr", closed)
        configure_logging("production")
    current = StringIO()
    monkeypatch.setattr("sys.stderr", current)

    try:
        get_logger("thea").info("started")
    finally:
        structlog.reset_defaults()

    assert json.loads(current.getvalue())["event"] == "started"
