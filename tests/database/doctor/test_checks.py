"""The results of the doctor's checks and the sizes of pools, computed without a server."""

from __future__ import annotations

import asyncio
import re
from datetime import date
from pathlib import Path

import pytest

from src.config import Settings
from src.database.doctor.connection import Encryption
from src.database.doctor.demand import Demand, Suggestion, judge_connections, suggest, useful_connections
from src.database.doctor.installation import EXTEND_PATH, check_localhost, check_namespace
from src.database.doctor.network import check_ports
from src.database.doctor.releases import judge_version
from src.database.doctor.server import judge_clock, judge_tls
from src.database.doctor.wait import is_temporary
from src.database.drift import Difference
from src.database.engine import Capacity
from src.database.errors import (
    AuthenticationFailed,
    ConfigurationError,
    ConnectionFailed,
    DatabaseError,
    DatabaseMissing,
    TlsFailed,
    TunnelFailed,
)
from src.database.target import Host, Target

ROOT = Path(__file__).parents[3]
TODAY = date(2026, 11, 22)
TLS = Encryption(kind="TLS", version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384")


class PermissionDenied(Exception):
    """Has the name of asyncssh's exception, by which `is_temporary` recognizes it."""


@pytest.mark.parametrize(
    ("version", "status", "words"),
    [
        (180006, "ok", "PostgreSQL 18.6"),
        (
            180004,
            "warning",
            "known vulnerabilities that 18.6 fixes: a cached query plan can apply the row-level security",
        ),
        (170000, "warning", "vulnerabilities that 17.11 fixes"),
        (170000, "warning", "CVE-2024-10976"),
        (150003, "warning", "MERGE does not check row-level security"),
        (140024, "failed", "15 is the oldest supported version"),
        (190000, "ok", "PostgreSQL 19.0"),
    ],
)
def test_a_release_is_judged_by_the_vulnerabilities_that_later_ones_fix(version: int, status: str, words: str) -> None:
    finding = judge_version(version, today=TODAY)

    assert finding.status == status
    assert words in finding.found


def test_a_major_version_is_supported_until_november_of_its_last_year() -> None:
    assert judge_version(180099, today=date(2030, 11, 30)).status == "ok"
    assert "not supported since November 2030" in judge_version(180099, today=date(2030, 12, 1)).found


def _demand(size: int = 5, overflow: int = 10, *, processes: int = 1, is_pooled: bool = True) -> Demand:
    return Demand(size=size, overflow=overflow, engines=2, processes=processes, is_pooled=is_pooled)


def _capacity(maximum: int = 100, *, of_role: int | None = None) -> Capacity:
    return Capacity(maximum=maximum, reserved=3, of_role=of_role, of_database=None)


@pytest.mark.parametrize(
    ("cores", "spindles", "processes", "available", "expected"),
    [
        (8, 1, 1, 97, Suggestion(8, 8)),
        (8, 1, 4, 97, Suggestion(2, 2)),
        (8, 1, 100, 97, Suggestion(1, 0)),
        (64, 0, 1, 97, Suggestion(46, 0)),
        (4, 1, 1, None, Suggestion(4, 4)),
    ],
)
def test_the_useful_connections_are_divided_among_the_pools(
    cores: int, spindles: int, processes: int, available: int | None, expected: Suggestion
) -> None:
    assert suggest(useful_connections(cores, spindles), available, _demand(processes=processes)) == expected


def test_the_lowest_limit_applies() -> None:
    assert _capacity().available == 97
    assert _capacity(of_role=20).available == 20


@pytest.mark.parametrize(
    ("demand", "pgbouncer", "status"),
    [
        (_demand(processes=3), False, "ok"),
        (_demand(processes=4), False, "failed"),
        (_demand(processes=4), True, "skipped"),
        (_demand(processes=4, is_pooled=False), False, "ok"),
    ],
)
def test_pools_that_can_exhaust_the_server_fail_the_check(demand: Demand, pgbouncer: bool, status: str) -> None:
    settings = Settings(DATABASE_URL="postgresql://u@h/d", DATABASE_PGBOUNCER=pgbouncer)

    assert judge_connections(demand, _capacity(), settings).status == status


@pytest.mark.parametrize(
    ("ahead", "round_trip", "status"), [(1.9, 0, "ok"), (-2.1, 0, "warning"), (2.1, 1, "ok"), (60, 1, "warning")]
)
def test_a_slow_network_is_not_reported_as_a_wrong_clock(ahead: float, round_trip: float, status: str) -> None:
    assert judge_clock(ahead, round_trip=round_trip).status == status


@pytest.mark.parametrize(
    ("environment", "host", "mode", "encryption", "status"),
    [
        ("development", "127.0.0.1", "disable", Encryption(kind="plaintext"), "ok"),
        ("development", "10.0.0.1", "disable", Encryption(kind="plaintext"), "warning"),
        ("development", "db", "require", TLS, "ok"),
        ("production", "db", "require", TLS, "warning"),
        ("production", "db", "verify-full", TLS, "ok"),
        ("production", "/run", "require", Encryption(kind="Unix socket"), "ok"),
    ],
)
def test_encryption_is_judged_by_the_route_and_the_environment(
    environment: str, host: str, mode: str, encryption: Encryption, status: str
) -> None:
    settings = Settings(ENVIRONMENT=environment, DATABASE_URL="postgresql://u@h/d")
    target = Target(hosts=(Host(host),), database="d", user="u", ssl_mode=mode)  # type: ignore[arg-type] # parametrized

    assert judge_tls(encryption, target, settings).status == status


@pytest.mark.parametrize(
    ("platform", "host", "status"),
    [("win32", "localhost", "warning"), ("win32", "127.0.0.1", "ok"), ("linux", "localhost", "skipped")],
)
def test_localhost_is_reported_on_windows(platform: str, host: str, status: str) -> None:
    assert check_localhost([host], platform=platform).status == status


def test_a_regular_package_src_hides_ours_unless_it_extends_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    init = tmp_path / "service" / "src" / "__init__.py"
    init.parent.mkdir(parents=True)
    assert check_namespace([str(tmp_path / "service")]).status == "ok"

    init.touch()
    hidden = check_namespace([str(tmp_path / "service")])
    assert hidden.status == "warning"
    assert str(init) in hidden.found
    assert EXTEND_PATH in str(hidden.remedy)

    init.write_text(EXTEND_PATH)
    assert check_namespace([str(tmp_path / "service")]).status == "ok"

    monkeypatch.chdir(tmp_path / "service")
    init.write_text("")
    assert check_namespace([]).status == "warning"


def _tunnel(cause: Exception) -> TunnelFailed:
    error = TunnelFailed("no tunnel")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "is_expected"),
    [
        (ConnectionFailed("starting up", sqlstate="57P03"), True),
        (ConnectionFailed("no connection free", sqlstate="53300"), True),
        (DatabaseMissing("not there"), False),
        (_tunnel(ConnectionRefusedError()), True),
        (_tunnel(PermissionDenied()), False),
        (AuthenticationFailed("wrong"), False),
        (TlsFailed("expired"), False),
        (ConfigurationError("superuser"), False),
    ],
)
def test_a_server_that_starts_is_waited_for_and_a_mistake_is_not(error: DatabaseError, is_expected: bool) -> None:
    assert is_temporary(error) is is_expected


RETIRED_PHRASES = (
    "no port of ours",
    "without versions",
    "who the server is is",
    "which closes:",
    ", is nothing",
    "is referred to itself",
    "what mends it",
    "cannot have a lock",
)
"""Phrases that users did not understand at first reading."""


@pytest.mark.parametrize("text", RETIRED_PHRASES)
def test_no_source_file_has_a_phrase_that_users_did_not_understand(text: str) -> None:
    files = (ROOT / "src").rglob("*.py")

    assert [str(file) for file in files if text in file.read_text()] == []


def test_a_finding_is_a_sentence() -> None:
    unpooled = Target(hosts=(Host("db"),), database="d", user="u", ssl_mode="require")
    settings = Settings(ENVIRONMENT="production", DATABASE_URL="postgresql://u@h/d")
    revision = Difference(
        kind="revision", object="thea_alembic_version", attribute="revision", expected="0003", remedy=()
    )

    assert "the server's certificate is not verified, so that" in judge_tls(TLS, unpooled, settings).found
    assert str(revision) == "the database must be at revision 0003, and is at none"
    assert asyncio.run(check_ports([])).found.startswith("no port is checked:")


def test_every_vulnerability_has_its_source_in_a_comment() -> None:
    source = (ROOT / "src/database/doctor/releases.py").read_text()

    numbers = re.findall(r"\((CVE-[\d-]+)\)", source)

    assert numbers
    assert [
        number for number in numbers if f"# https://www.postgresql.org/support/security/{number}/" not in source
    ] == []
