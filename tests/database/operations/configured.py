"""A server with the configuration files of db/, of the installed version of PostgreSQL."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme

from src.database.embedded.files import free_port
from src.database.embedded.process import programs, server_uid
from tests.conftest import HAS_ROOM, MEMORY

DB = Path(__file__).parents[3] / "db"
SYSTEM = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=Path("/nowhere/initdb")).parent
NEWER = "# --- PostgreSQL 18 and later"
"""The end of the part of the file that an older server reads."""
PASSWORDS = {"owner": "c4n4ry owner's", "app": "c4n4ry \\app%", "backup": "c4n4ry-backup"}


@dataclass(frozen=True)
class Configured:
    """A running server; its socket and its files are in its folder."""

    folder: Path
    programs: Path
    port: int
    identity: dict[str, Any]
    ca: Path

    @property
    def configuration(self) -> Path:
        return self.folder / "postgresql.conf"

    def run(self, *command: str | Path, password: str = "", check: bool = True) -> str:
        """Run a program as the user of the server, and return its output."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            list(map(str, command)),
            cwd=self.folder,
            env={
                "PATH": f"{self.programs}:{os.environ['PATH']}",
                "PGHOST": str(self.folder),
                "PGPORT": str(self.port),
                "PGPASSWORD": password,
                "THEA_INIT": str(self.folder / "init"),
                "THEA_SECRETS": str(self.folder / "secrets"),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **self.identity,
        )
        assert not check or done.returncode == 0, done.stdout + self.log
        return done.stdout.strip()

    def psql(
        self, conninfo: str, statement: str = "SELECT current_user", *, password: str = "", check: bool = True
    ) -> str:
        return self.run("psql", "-X", "-A", "-t", "-w", "-d", conninfo, "-c", statement, password=password, check=check)

    def run_init(self) -> str:
        """Run the init script as the image does."""
        return self.run("sh", self.folder / "init" / "10-bootstrap.sh")

    @property
    def log(self) -> str:
        log = self.folder / "log"
        return log.read_text(errors="replace") if log.exists() else ""


@contextmanager
def configured_server(*, system: bool) -> Iterator[Configured]:
    """Start the system's server, with TLS, or the wheel's, which has none; our files are as they are but for paths.

    Args:
        system: Which.
    """
    with tempfile.TemporaryDirectory(prefix="thea-c-", dir=MEMORY if HAS_ROOM else None) as name:
        folder = Path(name)
        server = Configured(
            folder, SYSTEM if system else programs(), free_port(), _identity(system=system), folder / "ca.pem"
        )
        _write_files(server, system=system)
        server.run("initdb", "-D", "data", "-U", "postgres", "--auth=peer", "--no-sync", "--no-instructions")
        flags = {
            "config_file": str(server.configuration),
            "hba_file": str(folder / "pg_hba.conf"),
            "ident_file": str(folder / "pg_ident.conf"),
            "unix_socket_directories": str(folder),
            "port": str(server.port),
            "listen_addresses": "127.0.0.1",
            "fsync": "off",  # nothing here has to survive a power cut
        }
        options = " ".join(f"-c {name}={value}" for name, value in flags.items())
        server.run("pg_ctl", "-D", "data", "-w", "-s", "-l", "log", "-o", options, "start")
        try:
            yield server
        finally:
            server.run("pg_ctl", "-D", "data", "-w", "-s", "-m", "immediate", "stop")


def _write_files(server: Configured, *, system: bool) -> None:
    folder = server.folder
    text = (DB / "postgresql.conf").read_text().replace("/etc/postgresql/tls", str(folder))
    server.configuration.write_text(text.partition(NEWER)[0] if system else text.replace("ssl = on", "ssl = off"))
    # The user that runs the tests has the name `postgres` in the container.
    (folder / "pg_hba.conf").write_text((DB / "pg_hba.conf").read_text().replace("peer\n", "peer map=here\n"))
    users = {"root", getpass.getuser(), "postgres", "embedded_postgres"}
    (folder / "pg_ident.conf").write_text("".join(f"here {user} postgres\n" for user in sorted(users)))
    ca = trustme.CA()
    leaf = ca.issue_cert("localhost", "127.0.0.1")
    ca.cert_pem.write_to_path(server.ca)
    leaf.cert_chain_pems[0].write_to_path(folder / "server.crt")
    leaf.private_key_pem.write_to_path(folder / "server.key")
    (folder / "server.key").chmod(0o600)
    shutil.copytree(DB / "init", folder / "init")
    (folder / "secrets").mkdir()
    for name, password in PASSWORDS.items():
        (folder / "secrets" / f"{name}_password").write_text(f"{password}\n")
    for path in (folder, *folder.rglob("*")) if server.identity else ():
        os.chown(path, server.identity["user"], server.identity["group"])


def _identity(*, system: bool) -> dict[str, Any]:
    """Return the user of the server: PostgreSQL does not run as root."""
    if os.geteuid() != 0:
        return {}
    import pwd  # noqa: PLC0415 - not on Windows

    number = pwd.getpwnam("postgres").pw_uid if system else server_uid()
    return {"user": number, "group": pwd.getpwuid(number).pw_gid, "extra_groups": []}
