"""Target: parsed from each form of a URL and rendered again; no text has the password."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.database.errors import ConfigurationError
from src.database.target import Host, SshGateway, Target, parse_url

CANARY = "c4n4ry"


def parse(url: str) -> Target:
    return Target.from_url(parse_url(url))


def test_reads_a_url() -> None:
    target = parse(
        "postgresql+asyncpg://thea:p%40ss@db.example:6543/thea_ia?sslmode=verify-full&sslrootcert=/ca.pem"
        "&sslcert=/c.pem&sslkey=/k.pem&application_name=agent&connect_timeout=3&statement_timeout=60000"
        "&lock_timeout=500&pool_min=5&pool_max=20&pool_idle=60000&max_lifetime=3600&target_session_attrs=read-write"
    )

    assert target == Target(
        hosts=(Host("db.example", 6543),),
        database="thea_ia",
        user="thea",
        password="p@ss",
        ssl_mode="verify-full",
        ssl_ca=Path("/ca.pem"),
        ssl_cert=Path("/c.pem"),
        ssl_key=Path("/k.pem"),
        application_name="agent",
        connect_timeout=3,
        statement_timeout=60000,
        lock_timeout=500,
        pool_min=5,
        pool_max=20,
        pool_idle=60000,
        max_lifetime=3600,
        target_session_attrs="read-write",
    )


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgres://u@h/d", [("h", 5432)]),
        ("postgresql://u@/d", [("localhost", 5432)]),
        ("postgresql:///d?user=u", [("localhost", 5432)]),
        ("postgresql:///d?user=u&host=h&port=6", [("h", 6)]),
        ("postgresql://u@[::1]:5433/d", [("::1", 5433)]),
        ("postgresql://u@[fe80::1%25eth0]/d", [("fe80::1%eth0", 5432)]),
        ("postgresql://u@a:1,b:2/d", [("a", 1), ("b", 2)]),
        ("postgresql://u@a,b/d", [("a", 5432), ("b", 5432)]),
        ("postgresql://u@a,b/d?port=7", [("a", 7), ("b", 7)]),
        ("postgresql://u:p%2Cw@[::1]:1,[::2]/d", [("::1", 1), ("::2", 5432)]),
        ("postgresql://u@/d?host=a:1&host=b:2", [("a", 1), ("b", 2)]),
        ("postgresql://u@/d?host=a,b&port=1,2", [("a", 1), ("b", 2)]),
        ("postgresql://u@/d?host=/var/run/postgresql&port=5433", [("/var/run/postgresql", 5433)]),
        ("postgresql://u@%2Fvar%2Frun%2Fpostgresql/d", [("/var/run/postgresql", 5432)]),
        ("postgresql://u:p@/d?host=/cloudsql/p:r:i", [("/cloudsql/p:r:i", 5432)]),
    ],
)
def test_reads_every_form_of_the_hosts(url: str, hosts: list[tuple[str, int]]) -> None:
    assert parse(url).hosts == tuple(Host(*host) for host in hosts)


@pytest.mark.parametrize(
    ("url", "route"),
    [
        ("postgresql://u@h/d", "direct"),
        ("postgresql://u@/d?host=/run/postgresql", "Unix socket"),
        ("postgresql://u@/d?host=/cloudsql/project:region:instance", "Cloud SQL"),
        ("postgresql://u@/d?host=/cloudsql/example.com:project:region:instance", "Cloud SQL"),
    ],
)
def test_knows_the_route(url: str, route: str) -> None:
    assert parse(url).route == route


def test_names_the_cloud_sql_instance() -> None:
    url = "postgresql://u:p@/db?host=/cloudsql/facturasbst:us-central1:facturas-db"

    assert parse(url).cloud_sql_instance == "facturasbst:us-central1:facturas-db"


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
PATH = st.from_regex(r"/[a-zA-Z0-9 %&=?#+ä,:;@._-]{1,20}", fullmatch=True)
NUMBER = st.none() | st.integers(1, 600)
HOST = st.builds(
    Host,
    st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,20}(\.[a-z]{1,9}){0,2}", fullmatch=True)
    | st.ip_addresses().map(str)
    | PATH.map(lambda path: path.replace(",", "").replace("%", "")),
    st.integers(1, 65535),
)
TARGETS = st.builds(
    Target,
    hosts=st.lists(HOST, min_size=1, max_size=3).map(tuple),
    database=TEXT,
    user=TEXT,
    password=st.none() | TEXT.map(lambda text: CANARY + text),
    ssl_mode=st.sampled_from([None, "disable", "allow", "prefer", "require", "verify-ca", "verify-full"]),
    ssl_ca=st.none() | PATH.map(Path),
    ssl_cert=st.just(Path("/c d")),
    ssl_key=st.just(Path("/k&e=y")),
    target_session_attrs=st.sampled_from([None, "any", "read-write", "prefer-standby"]),
    application_name=st.none() | TEXT.filter(str.isprintable),
    connect_timeout=NUMBER,
    statement_timeout=NUMBER,
    lock_timeout=NUMBER,
    pool_min=st.none() | st.integers(0, 5),
    pool_max=st.none() | st.integers(6, 1000),
    pool_idle=NUMBER,
    max_lifetime=NUMBER,
)


@pytest.mark.slow
@given(TARGETS)
def test_a_rendered_target_is_parsed_to_an_equal_target(target: Target) -> None:
    as_text = target.url.render_as_string(hide_password=False)

    assert Target.from_url(target.url) == target
    assert parse(as_text) == target


@given(TARGETS)
def test_no_rendering_shows_the_password(target: Target) -> None:
    assert CANARY not in f"{target} {target!r} {target.url} {target.url!r}"


def test_the_text_names_the_hosts_and_the_gateway() -> None:
    target = Target(
        hosts=(Host("::1"), Host("b", 6)), database="d", user="u", ssh=SshGateway(host="gate.example", user="vagrant")
    )

    assert str(target) == "[::1]:5432, b:6 through vagrant@gate.example:22, database d, user u"
    assert target.route == "SSH tunnel"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://u@h/d?sslmod=require", "unknown parameter 'sslmod'; did you mean sslmode?"),
        ("postgresql://u@h/d?ssl=true", "unknown parameter 'ssl'; did you mean sslmode?"),
        ("postgresql://u@h/d?max=9", "unknown parameter 'max'; did you mean pool_max?"),
        ("postgresql://u@h/d?pgbouncer=true", "set DATABASE_PGBOUNCER=true"),
        ("postgresql://u@h/d?zzz=1", "unknown parameter 'zzz'; the parameters are application_name,"),
        ("postgresql://u@h/d?sslmode=no-verify", "sslmode must be one of disable, allow, prefer, require, verify-ca"),
        ("postgresql://u@h/d?connect_timeout=soon", "connect_timeout must be a whole number from 1 to 600 (seconds)"),
        ("postgresql://u@h/d?pool_idle=-1", "pool_idle must be a whole number from 1 to 2147483647 (milliseconds)"),
        ("postgresql://u@h/d?pool_min=9&pool_max=3", "pool_min must not be above pool_max, got 9 and 3"),
        ("postgresql://u@h/d?sslcert=/c", "sslcert and sslkey must be set together"),
        ("postgresql://u@h/d?target_session_attrs=master", "must be one of any, read-write, read-only, primary"),
        (f"postgresql://u@h/d?application_name={'x' * 64}", "application_name must be 1 to 63 printable characters"),
        ("postgresql://u@h/d?port=0", "the port must be from 1 to 65535"),
        ("postgresql://u@h:99999/d", "the port must be from 1 to 65535"),
        ("postgresql://u@a,b,c/d?port=1,2", "2 ports for 3 hosts"),
        ("postgresql://u@a:x,b:1/d", "the port must be from 1 to 65535"),
        ("postgresql://u@[1::2::3]/d", "must be an IPv6 address"),
        ("postgresql://u@h/d?sslmode=require&sslmode=disable", "'sslmode' is given more than once"),
        ("postgresql://u@/d?host=/cloudsql/instance", "host must be /cloudsql/<project>:<region>:<instance>"),
        ("postgresql://h/d", "must name a user"),
    ],
)
def test_refuses_an_unknown_parameter_by_its_name(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        parse(url)


def test_reports_all_faults_together() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse("postgresql://a:0/d?sslmod=x&pool_max=0")

    assert len(str(caught.value).splitlines()) == 4


@pytest.mark.parametrize("url", ["postgresql", "mysql://u:c4n4ry@h/d", "postgresql://u:c4n4ry@h", "postgres:/x"])
def test_a_text_that_is_not_a_url_is_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(the|an|percent|remove) ") as caught:
        parse_url(url)

    assert CANARY not in str(caught.value)
