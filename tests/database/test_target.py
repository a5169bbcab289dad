"""Target: parsed once, without its password in any text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy import make_url

from src.database.errors import ConfigurationError
from src.database.target import Target


def parse(url: str) -> Target:
    return Target.from_url(make_url(url))


def test_reads_a_url() -> None:
    target = parse("postgresql+asyncpg://thea:p%40ss@db.example:6543/thea_ia?sslmode=verify-full&sslrootcert=/ca.pem")

    assert target == Target(
        host="db.example",
        port=6543,
        database="thea_ia",
        user="thea",
        password="p@ss",
        ssl_mode="verify-full",
        ssl_ca=Path("/ca.pem"),
    )


def test_reads_the_folder_of_a_unix_socket() -> None:
    target = parse("postgresql://thea@/thea?host=/var/run/postgresql&port=5433")

    assert target.is_socket
    assert (target.host, target.port) == ("/var/run/postgresql", 5433)


def test_reads_an_ipv6_address() -> None:
    target = parse("postgresql://thea@[::1]:5433/thea")

    assert (target.host, target.port) == ("::1", 5433)
    assert str(target) == "[::1]:5433, database thea, user thea"


def test_reads_name_and_timeout_from_the_url() -> None:
    target = parse("postgresql://thea@h/thea?application_name=agent&connect_timeout=3")

    assert (target.application_name, target.connect_timeout) == ("agent", 3)


def test_never_shows_its_password() -> None:
    target = parse("postgresql://thea:c4n4ry@h/thea")

    assert "c4n4ry" not in f"{target} {target!r}"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://u@h/d?sslmod=require", "unknown parameter 'sslmod'; did you mean sslmode?"),
        ("postgresql://u@h/d?zzz=1", "unknown parameter 'zzz'; known are application_name,"),
        (
            "postgresql://u@h/d?sslmode=prefer",
            "sslmode in the URL must be one of disable, require, verify-ca, verify-full",
        ),
        ("postgresql://u@h/d?connect_timeout=soon", "connect_timeout in the database URL must be a whole number"),
        ("postgresql://u@h/d?port=0", "port in the database URL must be a whole number"),
        ("postgresql://u@h/d?sslmode=require&sslmode=disable", "says 'sslmode' more than once"),
        ("postgresql://h/d", "must name a user"),
    ],
)
def test_refuses_by_name_what_it_does_not_know(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        parse(url)
