"""thea-db info: target, role and route, with and without a running server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from src.config import Settings
from src.database.cli.info import run_info
from tests.acceptance.command import CANARY, run
from tests.conftest import SOCKETS, url_of
from tests.database.connect.certificates import Certificates
from tests.database.connect.tls_proxy import TlsProxy


def info(capsys: pytest.CaptureFixture[str], **settings: Any) -> tuple[int, dict[str, Any]]:
    code = run_info(Settings(**{"ENVIRONMENT": "test", **settings}), as_json=True)
    printed = capsys.readouterr()
    assert CANARY not in printed.out + printed.err
    return code, json.loads(printed.out)


def test_prints_the_values_in_force(shared_database: str, capsys: pytest.CaptureFixture[str]) -> None:
    url = url_of(shared_database)

    code, report = info(capsys, DATABASE_URL=url, DATABASE_REPLICA_URL=url)

    assert code == 0
    database = report["database"]
    assert database["target"]["route"] == "Unix socket"
    assert database["target"]["hosts"] == [SOCKETS]
    assert database["server"] | {"version": ""} == {
        "version": "",
        "user": "thea_app",
        "database": url.database,
        "role": "primary",
    }
    assert database["encryption"]["kind"] == "Unix socket"
    assert database["revision"]["database"] == database["revision"]["head"]
    assert database["pool"]["class"] == "NullPool"
    assert report["replica"]["server"]["role"] == "primary"


def test_prints_tls_and_the_certificate(
    shared_database: str,
    tls_server: TlsProxy,
    certificates: Certificates,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = f"postgresql://thea_app:{CANARY}@127.0.0.1:{tls_server.port}/{shared_database}"

    verified = info(capsys, DATABASE_URL=url, DATABASE_SSL_MODE="verify-full", DATABASE_SSL_CA=certificates.ca_file)[1]
    unverified = info(capsys, DATABASE_URL=url, DATABASE_SSL_MODE="require")[1]

    tls = verified["database"]["encryption"]
    assert (tls["kind"], tls["peer"]) == ("TLS", "127.0.0.1")
    assert tls["version"].startswith("TLSv1.")
    assert "GMT" in tls["expires"]
    assert unverified["database"]["encryption"]["peer"] is None


def test_shows_the_role_that_the_engine_would_refuse(shared_database: str, capsys: pytest.CaptureFixture[str]) -> None:
    url = url_of(shared_database, "postgres")

    code, report = info(capsys, DATABASE_URL=url, ENVIRONMENT="production")

    assert code == 0
    assert report["database"]["server"]["user"] == "postgres"
    assert report["database"]["pool"]["class"] == "SizedPool"


@pytest.mark.parametrize("as_json", [True, False])
def test_prints_the_settings_and_the_reason_if_the_server_is_down(tmp_path: Path, as_json: bool) -> None:
    (tmp_path / ".env.test").write_text(f"DATABASE_URL=postgresql://u:{CANARY}@127.0.0.1:1/d\n")

    done = run("info", *(["--json"] if as_json else []), folder=tmp_path, ENVIRONMENT="test")

    assert done.returncode == 2, done.stderr
    assert "nothing listens there" in (done.stdout if as_json else done.stderr)
    assert "Traceback" not in done.stderr
    assert CANARY not in done.stdout + done.stderr
    if as_json:
        settings = {one["name"]: one for one in json.loads(done.stdout)["settings"]}
        assert settings["DATABASE_URL"]["value"] == "postgresql+asyncpg://u:***@127.0.0.1:1/d"
        assert settings["DATABASE_URL"]["source"] == ".env.test"
        assert settings["ENVIRONMENT"]["source"] == "environment"
    else:
        assert ".env.test    postgresql+asyncpg://u:***@127.0.0.1:1/d" in done.stdout


def test_unreadable_settings_are_reported_as_json(tmp_path: Path) -> None:
    done = run("info", "--json", folder=tmp_path, ENVIRONMENT="prod", DATABASE_URL=f"mysql://u:{CANARY}@h/d")

    assert done.returncode == 2
    assert "ENVIRONMENT must be one of" in json.loads(done.stdout)["error"]
    assert CANARY not in done.stdout + done.stderr
