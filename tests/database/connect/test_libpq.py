"""libpq's environment: each route that libpq can use, and an error for the one that it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from src.config import Settings
from src.database.connect import libpq_environment
from src.database.embedded import SUPERUSER
from src.database.embedded.process import programs
from src.database.errors import ConfigurationError
from src.database.operations.programs import Program
from src.database.session import resolve_target
from src.database.target import Host, Target
from tests.database.connect.gateway import SERVER, Gateway

CANARY = "c4n4ry"


def target(**changed: Any) -> Target:
    given = {"hosts": (Host("a", 1), Host("b", 2)), "database": "thea", "user": "u", "password": CANARY, **changed}
    return Target(**given)


async def test_hosts_and_password_are_variables() -> None:
    async with libpq_environment(target(target_session_attrs="read-write")) as variables:
        assert (variables["PGHOST"], variables["PGPORT"]) == ("a,b", "1,2")
        assert (variables["PGUSER"], variables["PGDATABASE"], variables["PGPASSWORD"]) == ("u", "thea", CANARY)
        assert variables["PGTARGETSESSIONATTRS"] == "read-write"
        assert variables["PGSSLMODE"] == "disable"


async def test_tls_is_as_strict_as_that_of_an_engine() -> None:
    async with libpq_environment(target(ssl_mode="require")) as variables:
        assert variables["PGSSLROOTCERT"] == "/nonexistent"  # no file of the home directory has an effect
    async with libpq_environment(target(ssl_mode="verify-full")) as variables:
        assert variables["PGSSLROOTCERT"] == "system"
    files = {"ssl_ca": Path("/ca"), "ssl_cert": Path("/c"), "ssl_key": Path("/k")}
    async with libpq_environment(target(ssl_mode="verify-ca", **files)) as variables:
        assert [variables[name] for name in ("PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY")] == [
            *("verify-ca", "/ca", "/c", "/k")
        ]


async def test_programs_connect_through_the_tunnel(gateway: Gateway, temporary_files: Path) -> None:
    through = Target(hosts=(SERVER,), database="postgres", user=SUPERUSER, ssl_mode="disable", ssh=gateway.settings())
    psql = Program(programs() / "psql", 18)

    await psql.run(through, "-X", "-w", "-c", "SELECT 1")

    assert gateway.logins == 1
    assert list(temporary_files.iterdir()) == []  # noqa: ASYNC240 - it is closed


async def test_tls_through_the_tunnel_checks_the_servers_name(gateway: Gateway, temporary_files: Path) -> None:
    through = target(hosts=(SERVER,), ssl_mode="verify-full", ssh=gateway.settings())

    async with libpq_environment(through) as variables:
        assert (variables["PGHOST"], variables["PGHOSTADDR"]) == (SERVER.name, "127.0.0.1")
        assert variables["PGPORT"] != str(SERVER.port)


async def test_the_cloud_sql_connector_is_refused_with_the_remedy() -> None:
    url = "postgresql://u@/d?host=/cloudsql/project:region:instance"

    with pytest.raises(ConfigurationError, match="is not mounted here") as refused:
        async with libpq_environment(resolve_target(Settings(ENVIRONMENT="production", DATABASE_URL=url))):
            pass
    assert refused.value.hint is not None
    assert "cloud-sql-proxy --unix-socket /cloudsql project:region:instance" in refused.value.hint
