"""The login at the SSH gateway: the hosts that it trusts, the keys that it uses, and the reasons of a failure."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import pytest

from src.database.connect.ssh import SshTunnel
from src.database.connect.ssh_login import log_in
from src.database.errors import ConfigurationError, DatabaseError, TunnelFailed
from src.database.target import Host, SshGateway
from tests.database.connect.gateway import Gateway, free_port, listening

CANARY = "correct-horse-battery"
ANOTHER_KEY = asyncssh.generate_private_key("ssh-ed25519")
KEY_OF_ANOTHER_KIND = asyncssh.generate_private_key("ecdsa-sha2-nistp256")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory without keys, and no SSH agent."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    folder = tmp_path / "home" / ".ssh"
    folder.mkdir(parents=True)
    return folder


async def enter(settings: SshGateway, *, connect_timeout: float = 5) -> None:
    connection = await log_in(settings, connect_timeout=connect_timeout)
    connection.close()
    await connection.wait_closed()


async def refusal(settings: SshGateway, *, connect_timeout: float = 5) -> DatabaseError:
    """Return the error of a login; check that its traceback has no secret."""
    with pytest.raises((TunnelFailed, ConfigurationError)) as caught:
        await enter(settings, connect_timeout=connect_timeout)
    error = caught.value
    everything = "".join(traceback.format_exception(error)) + repr(error) + str(error)
    assert CANARY not in everything
    assert "PRIVATE KEY" not in everything
    return error


async def test_trusts_the_known_host(gateway: Gateway) -> None:
    await enter(gateway.settings())

    assert gateway.logins == 1


async def test_trusts_the_known_hosts_of_the_home_directory(gateway: Gateway, home: Path) -> None:
    (home / "known_hosts").write_text(gateway.known_hosts_line(gateway.host_key))

    await enter(gateway.settings(known_hosts=None))


async def test_trusts_any_host_if_known_hosts_is_none(gateway: Gateway) -> None:
    await enter(gateway.settings(known_hosts="none"))


@pytest.mark.parametrize("has_file", [True, False])
async def test_refuses_an_unknown_host(gateway: Gateway, home: Path, has_file: bool) -> None:
    if has_file:
        (home / "known_hosts").write_text("")

    error = await refusal(gateway.settings(known_hosts=None))

    assert "the host key of the gateway is not known: ~/.ssh/known_hosts has no key of this host" in str(error)
    assert f"ssh-keyscan -p {gateway.port} 127.0.0.1 >> ~/.ssh/known_hosts" in str(error)
    assert gateway.logins == 0


@pytest.mark.parametrize("key", [ANOTHER_KEY, KEY_OF_ANOTHER_KIND], ids=["another key", "another kind of key"])
async def test_refuses_a_host_whose_key_has_changed(gateway: Gateway, tmp_path: Path, key: asyncssh.SSHKey) -> None:
    settings = gateway.settings()
    (tmp_path / "known_hosts").write_text(gateway.known_hosts_line(key))

    error = await refusal(settings)

    assert "the key was changed, or another machine answers" in str(error)
    assert gateway.logins == 0


async def test_refuses_a_revoked_host(gateway: Gateway, tmp_path: Path) -> None:
    settings = gateway.settings()
    line = gateway.known_hosts_line(gateway.host_key)
    (tmp_path / "known_hosts").write_text(f"{line}\n@revoked {line}")

    assert isinstance(await refusal(settings), TunnelFailed)


@pytest.mark.parametrize("text", [None, CANARY], ids=["missing", "not one"])
async def test_refuses_a_known_hosts_file_of_another_format(gateway: Gateway, tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "hosts"
    if text:
        path.write_text(text)

    error = await refusal(gateway.settings(known_hosts=path))

    assert isinstance(error, ConfigurationError)
    assert f"DB_SSH_KNOWN_HOSTS must be a readable known_hosts file, got {str(path)!r}" in str(error)


async def test_uses_the_keys_of_the_home_directory(gateway: Gateway, home: Path) -> None:
    (home / "id_ed25519").write_bytes(gateway.client_key.export_private_key())

    await enter(gateway.settings(key=None))


async def test_uses_only_the_named_key(gateway: Gateway, home: Path) -> None:
    (home / "id_ed25519").write_bytes(gateway.client_key.export_private_key())
    named = home.parent / "named"
    named.write_bytes(ANOTHER_KEY.export_private_key())

    error = await refusal(gateway.settings(key=named))

    assert f"the gateway refused the user 'thea' with the key {str(named)!r}" in str(error)


@pytest.mark.parametrize("is_named", [True, False])
async def test_uses_the_agent_only_without_a_named_key(
    gateway: Gateway, home: Path, monkeypatch: pytest.MonkeyPatch, is_named: bool
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(home / "agent"))
    (home / "id_ed25519").write_bytes(gateway.client_key.export_private_key())

    async with agent(home / "agent", answer=b"\0\0\0\1\5") as asked:  # SSH_AGENT_FAILURE
        await enter(gateway.settings() if is_named else gateway.settings(key=None))

    assert bool(asked) is not is_named


async def test_an_agent_that_closes_the_connection_is_a_failed_tunnel(
    gateway: Gateway, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(home / "agent"))
    async with agent(home / "agent", answer=b""):
        error = await refusal(gateway.settings(key=None))

    assert isinstance(error, TunnelFailed)


async def test_reports_a_refusal_without_a_named_key(gateway: Gateway) -> None:
    error = await refusal(gateway.settings(key=None, user=None))

    assert "with the keys of the agent and of ~/.ssh" in str(error)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "the content has another format"),
        (CANARY.encode(), "the content has another format"),
        (ANOTHER_KEY.export_private_key("pkcs8-pem", passphrase=CANARY), "the key is encrypted"),
        (ANOTHER_KEY.export_public_key(), "the content has another format"),
    ],
    ids=["missing", "empty", "not one", "encrypted", "public"],
)
async def test_refuses_a_key_of_another_format(
    gateway: Gateway, home: Path, content: bytes | None, reason: str
) -> None:
    path = home / "named"
    if content is not None:
        path.write_bytes(content)

    error = await refusal(gateway.settings(key=path))

    assert isinstance(error, ConfigurationError)
    assert "DB_SSH_KEY must be the path of a private key without a passphrase" in str(error)
    assert f"{str(path)!r}: {reason}" in str(error)


async def test_does_not_show_a_key_in_place_of_its_path(gateway: Gateway) -> None:
    key = ANOTHER_KEY.export_private_key().decode()

    with pytest.raises(ConfigurationError, match="got the key itself") as caught:
        await enter(gateway.settings(key=Path(key)))

    assert key.splitlines()[1] not in "".join(traceback.format_exception(caught.value))


async def test_does_not_read_the_users_ssh_config(gateway: Gateway, home: Path) -> None:
    (home / "config").write_text("Host *\n  Port 1\n  User nobody\n  ProxyCommand false\n")

    await enter(gateway.settings())


async def test_refuses_a_broken_key_in_the_home_directory(gateway: Gateway, home: Path) -> None:
    (home / "id_ed25519").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n" + CANARY)

    assert "set DB_SSH_USER and DB_SSH_KEY" in str(await refusal(gateway.settings(key=None)))


async def test_reports_that_nothing_listens(gateway: Gateway) -> None:
    for host in ("127.0.0.1", "localhost"):
        error = await refusal(gateway.settings(host=host, port=free_port(), known_hosts="none"))

        assert "nothing listens there\nhint: check DB_SSH_HOST, DB_SSH_PORT and the firewall" in str(error)


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 64, "no where"])
async def test_reports_that_the_host_is_not_known(gateway: Gateway, host: str) -> None:
    assert "the host is not known\nhint: check DB_SSH_HOST" in str(await refusal(gateway.settings(host=host)))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "the gateway did not answer in time"),
        (b"SSH-1.0-old\r\n", "the login failed: Unsupported SSH version"),
        (b"SSH-2.0-\xff\r\n", "the login failed: the answer is not SSH"),
        (b"SSH-2.0-mad\r\n\x00\x00\x00\x00\x00\x00\x00\x00" * 99, "the login failed"),
        (None, "the gateway closed the connection before the login"),
    ],
)
async def test_reports_an_answer_that_is_not_ssh(gateway: Gateway, answer: bytes | None, reason: str) -> None:
    over = asyncio.Event()

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is not None:
            writer.write(answer)
            await over.wait()
        writer.close()

    async with listening(serve) as port:
        error = await refusal(gateway.settings(port=port), connect_timeout=0.2 if answer == b"" else 5)
        over.set()

    assert reason in str(error)


async def test_names_the_extra_to_install(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    monkeypatch.delitem(sys.modules, "src.database.connect.ssh_login")

    with pytest.raises(ConfigurationError, match=r"pip install 'thea-database\[ssh\]'"):
        await SshTunnel(gateway.settings(), connect_timeout=5).forward(Host("h"), as_socket=True)


def test_the_import_does_not_import_the_extras() -> None:
    code = "import sys, src.database.connect.ssh, src.database.connect.cloudsql; print({*sys.modules})"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout

    assert "'asyncssh'" not in imported
    assert "'google.cloud.sql" not in imported
    assert "'google.auth'" not in imported


@asynccontextmanager
async def agent(path: Path, *, answer: bytes) -> AsyncIterator[list[bytes]]:
    """Run an SSH agent that answers once and closes the connection; yield the requests."""
    asked = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(100))
        writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    yield asked
    server.close()
