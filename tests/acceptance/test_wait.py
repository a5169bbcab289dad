"""thea-db wait: until the server is up, at most for the timeout, and not for errors that waiting cannot fix."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database.cli.wait import run_wait
from src.database.doctor.wait import Waited, wait_for_server
from src.database.embedded import SUPERUSER, EmbeddedServer
from tests.acceptance.command import CANARY, ROOT
from tests.conftest import url_of


def wait(url: URL | str, timeout_seconds: float = 10, **more: Any) -> Waited:
    settings = Settings(**{"ENVIRONMENT": "test", "DATABASE_URL": url, **more})
    return asyncio.run(
        wait_for_server(settings, timeout_seconds=timeout_seconds, interval_seconds=0.05, on_reason=lambda _: None)
    )


def test_ends_immediately_if_the_server_is_up(shared_database: str) -> None:
    waited = wait(url_of(shared_database))

    assert (waited.status, waited.attempts, waited.reason) == ("up", 1, None)


@pytest.mark.slow
def test_waits_for_a_starting_server(servers_folder: Path) -> None:
    server = EmbeddedServer(servers_folder / "late")
    target = server.target_as(SUPERUSER, SUPERUSER)
    start = Timer(0.3, server.acquire)
    start.start()
    try:
        waited = wait(target.url, timeout_seconds=30)
    finally:
        start.join()
        server.release()

    assert waited.status == "up"
    assert waited.attempts > 1


@pytest.mark.parametrize("port", [1, None], ids=["refuses", "silent"])
def test_never_exceeds_the_timeout(port: int | None, silent_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(ENVIRONMENT="test", DATABASE_URL=f"postgresql://u:{CANARY}@127.0.0.1:{port or silent_port}/d")
    started = time.monotonic()

    code = run_wait(settings, timeout=0.5, interval=0.1, as_json=True)
    took = time.monotonic() - started
    printed = capsys.readouterr()

    assert code == 1
    assert 0.4 < took < 3
    assert json.loads(printed.out)["status"] == "down"
    assert "nothing listens there" in printed.err if port else "did not answer in time" in printed.err
    assert CANARY not in printed.out + printed.err


def test_fails_immediately_on_a_wrong_password(secret_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = run_wait(Settings(ENVIRONMENT="test", DATABASE_URL=secret_url), timeout=30, interval=0.1, as_json=False)
    printed = capsys.readouterr()

    assert code == 2
    assert "waiting cannot help" in printed.err
    assert "refused the user or the password" in printed.err
    assert printed.out == ""
    assert CANARY not in printed.err


def test_fails_immediately_without_tls(secret_url: str) -> None:
    waited = wait(secret_url, DATABASE_SSL_MODE="require")

    assert (waited.status, waited.attempts) == ("failed", 1)
    assert "does not support TLS" in str(waited.reason)
    assert CANARY not in repr(waited)


def test_fails_immediately_on_an_error_of_the_engine(shared_database: str) -> None:
    waited = wait(url_of(shared_database, SUPERUSER), ENVIRONMENT="production")

    assert waited.status == "failed"
    assert "must be neither a superuser nor BYPASSRLS" in str(waited.reason)


def test_does_not_wait_for_a_missing_database(shared_database: str) -> None:
    waited = wait(url_of("nothing"))

    assert (waited.status, waited.attempts) == ("failed", 1)
    assert "the database does not exist" in str(waited.reason)


@pytest.mark.slow
def test_a_silent_name_server_does_not_exceed_the_timeout(tmp_path: Path) -> None:
    mute = "import socket, time; socket.getaddrinfo = lambda *_, **__: time.sleep(30);"
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", f"{mute} from src.database.cli import main; main()", "wait", "--timeout", "0.5"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "ENVIRONMENT": "test",
            "DATABASE_URL": "postgresql://u@db.example/d",
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, time.monotonic() - started < 10) == (1, True)
    assert "db.example" in done.stderr


@pytest.mark.slow
def test_ctrl_c_ends_the_command(tmp_path: Path) -> None:
    # A shell without job control starts background jobs with SIGINT ignored, and Python keeps that.
    as_from_a_terminal = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    process = subprocess.Popen(
        [sys.executable, "-c", f"{as_from_a_terminal}from src.database.cli import main; main()", "wait"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "ENVIRONMENT": "test",
            "DATABASE_URL": f"postgresql://u:{CANARY}@127.0.0.1:1/d",
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = process.stderr.readline()  # the command is waiting
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=10)

    assert process.returncode == 130
    assert "waiting: no connection to 127.0.0.1:1" in line
    assert "Traceback" not in rest
    assert CANARY not in line + rest
