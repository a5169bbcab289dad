"""examples/backend_database_example.py: one file, every environment, over a real connection."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from src.database.embedded import EmbeddedServer
from src.database.target import Target
from tests.acceptance.command import CANARY, ROOT, run_forked
from tests.conftest import SOCKETS
from tests.database.connect.certificates import Certificates
from tests.database.connect.tls_proxy import TlsProxy, running

EXAMPLE = ROOT / "examples" / "backend_database_example.py"


def run(folder: Path, dotenv: str) -> tuple[int, str]:
    """Run the example in a folder with this `.env`, as its documentation describes."""
    (folder / ".env").write_text(dotenv)
    unset = ("DATABASE_", "DB_", "ENVIRONMENT")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    done = run_forked(EXAMPLE, (), folder, {**inherited, "PYTHONPATH": str(ROOT)})
    assert CANARY not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.returncode, (done.stdout + done.stderr).strip()


@pytest.fixture
def machine(password_server: EmbeddedServer) -> Target:
    """A server on a port of localhost that requires a password."""
    return password_server.target()


def test_development_reports_the_virtual_machine(tmp_path: Path, machine: Target) -> None:
    dotenv = (
        f"ENVIRONMENT=development\nDB_VM_HOST=localhost\nDB_VM_PORT={machine.port}\nDB_VM_NAME={machine.database}\n"
        f"DB_VM_USER={machine.user}\nDB_VM_PASSWORD={machine.password}\n"
    )

    assert run(tmp_path, dotenv) == (0, f"[OK] Conectado a localhost:{machine.port} (VM via port forwarding)")


def test_a_wrong_password_is_reported(tmp_path: Path, machine: Target) -> None:
    dotenv = (
        f"DB_VM_HOST=localhost\nDB_VM_PORT={machine.port}\nDB_VM_NAME={machine.database}\n"
        f"DB_VM_USER={machine.user}\nDB_VM_PASSWORD={CANARY}\n"
    )
    code, printed = run(tmp_path, dotenv)

    assert code == 1
    assert printed.startswith("[ERROR] ")
    assert "the server refused the user or the password" in printed


@pytest.mark.parametrize(
    ("environment", "prefix", "with_ca", "suffix"),
    [("staging", "DB_STAGING", False, " con SSL"), ("production", "DB_PROD", True, " con SSL + certificado")],
)
def test_staging_and_production_report_tls(
    tmp_path: Path, environment: str, prefix: str, with_ca: bool, suffix: str
) -> None:
    certificates = Certificates(tmp_path)
    context = certificates.context(certificates.ca.issue_cert("localhost"))
    with running(TlsProxy(f"{SOCKETS}/.s.PGSQL.5432", context)) as proxy:
        dotenv = (
            f"ENVIRONMENT={environment}\n{prefix}_HOST=localhost\n{prefix}_PORT={proxy.port}\n"
            f"{prefix}_NAME=postgres\n{prefix}_USER=thea_app\n{prefix}_PASSWORD={CANARY}\n"
        )
        dotenv += f"{prefix}_SSL_CA={certificates.ca_file}\n" if with_ca else ""

        assert run(tmp_path, dotenv) == (0, f"[OK] Conectado a localhost:{proxy.port}{suffix}")
    assert set(proxy.was_encrypted) == {True}
