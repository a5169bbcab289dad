"""`starting`: the server of a test run starts while the run imports its modules, and ends with its last user."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.database.embedded import starting, temporary_server
from src.database.errors import ConfigurationError


@pytest.mark.slow
def test_the_server_starts_in_the_block_and_stops_after_its_last_user(open_folder: Path) -> None:
    server = temporary_server(open_folder / "run")

    with starting(server.folder):
        server.acquire()
    assert server.is_running()

    server.release()
    assert not server.is_running()


@pytest.mark.slow
def test_an_interrupted_block_leaves_no_server(open_folder: Path) -> None:
    folder = open_folder / "run"

    with pytest.raises(KeyboardInterrupt), starting(folder):
        raise KeyboardInterrupt

    assert not temporary_server(folder).is_running()


def test_the_caller_gets_the_error_when_it_acquires_the_server(tmp_path: Path) -> None:
    folder = tmp_path / "a$b"

    with starting(folder), pytest.raises(ConfigurationError, match="must be a path without any of"):
        temporary_server(folder).acquire()
