"""The SSH tunnel: shared, redialled, explained and closed, before a real PostgreSQL."""

from __future__ import annotations

import asyncio
import errno
import gc
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import asyncssh
import pytest

from src.database.connect import ssh, ssh_login
from src.database.connect.ssh import SshTunnel
from src.database.errors import TunnelFailed
from src.database.target import Host
from tests.database.connect.gateway import SERVER, SERVER_AS_SOCKET, Gateway, connect, free_port, query
from tests.database.connect.watching import count_watched, dropped, elsewhere, mode_of, names_in, silence, until

LOST = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)


@pytest.fixture
async def tunnel(gateway: Gateway, temporary_files: Path) -> AsyncIterator[SshTunnel]:
    made = SshTunnel(gateway.settings(), connect_timeout=5)
    yield made
    await made.close()


@pytest.mark.parametrize("far", [SERVER, SERVER_AS_SOCKET], ids=["far port", "far socket"])
@pytest.mark.parametrize("as_socket", [True, False], ids=["near socket", "near port"])
async def test_forwards_connections_to_the_server(tunnel: SshTunnel, far: Host, as_socket: bool) -> None:
    near = await tunnel.forward(far, as_socket=as_socket)

    assert near.is_socket is as_socket
    assert await query(near) == 42


async def test_no_other_user_can_reach_the_socket(tunnel: SshTunnel) -> None:
    near = await tunnel.forward(Host(SERVER.name, 6000), as_socket=True)

    assert mode_of(near.name) == 0o700
    assert names_in(near.name) == [".s.PGSQL.6000"]
    assert near.port == 6000


async def test_a_socket_has_a_short_path(tunnel: SshTunnel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 20)))

    assert await query(await tunnel.forward(SERVER, as_socket=True)) == 42


async def test_a_full_disk_is_reported(tunnel: SshTunnel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")

    with pytest.raises(TunnelFailed, match="this machine cannot open the local end: No such file") as caught:
        await tunnel.forward(SERVER, as_socket=True)

    assert "check that /nowhere exists" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("variable", "folder", "named"),
    [
        ("/nowhere", "/nowhere", "/nowhere (from TMPDIR) exists"),
        ("/nowhere/" + "long" * 25, "/nowhere/" + "long" * 25, "/tmp exists"),  # noqa: S108 - a path in a message
        (None, "/nowhere", "/nowhere exists"),
    ],
    ids=["TMPDIR", "a TMPDIR that is too long", "the system's"],
)
async def test_the_hint_names_the_folder_that_was_used(
    tunnel: SshTunnel, monkeypatch: pytest.MonkeyPatch, variable: str | None, folder: str, named: str
) -> None:
    def refuse(*_arguments: object, **_options: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "tempdir", folder)
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    monkeypatch.delenv("TMPDIR", raising=False)
    if variable is not None:
        monkeypatch.setenv("TMPDIR", variable)

    with pytest.raises(TunnelFailed) as caught:
        await tunnel.forward(SERVER, as_socket=True)

    assert named in str(caught.value.hint)
    assert ("TMPDIR" in str(caught.value.hint)) is ("TMPDIR" in named)


async def test_a_port_that_cannot_be_opened_names_no_folder(tunnel: SshTunnel, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_arguments: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(ssh, "_open_listener", refuse)

    with pytest.raises(TunnelFailed) as caught:
        await tunnel.forward(SERVER, as_socket=False)

    assert caught.value.hint == "check the limit of open files (ulimit -n)"


async def test_each_server_has_one_address(tunnel: SshTunnel) -> None:
    again = [await tunnel.forward(SERVER, as_socket=True) for _ in range(2)]
    others = {
        await tunnel.forward(SERVER, as_socket=False),
        await tunnel.forward(Host(SERVER.name, 6000), as_socket=True),
        await tunnel.forward(SERVER_AS_SOCKET, as_socket=True),
    }

    assert again[0] == again[1]
    assert len(others | {again[0]}) == 4


async def test_connections_share_one_login(gateway: Gateway, tunnel: SshTunnel) -> None:
    async def run() -> object:
        return await query(await tunnel.forward(SERVER, as_socket=True))

    assert await asyncio.gather(*(run() for _ in range(20))) == [42] * 20
    assert gateway.logins == 1


async def test_a_tunnel_that_drops_under_load_is_redialed_once(
    gateway: Gateway, tunnel: SshTunnel, temporary_files: Path
) -> None:
    near = await tunnel.forward(SERVER, as_socket=True)
    connections = [await connect(near) for _ in range(5)]
    queries = [asyncio.create_task(one.fetchval("SELECT pg_sleep(30)")) for one in connections]
    await asyncio.sleep(0.05)

    await gateway.drop()

    for failed in await asyncio.gather(*queries, return_exceptions=True):
        assert isinstance(failed, LOST)
    nears = await asyncio.gather(*(tunnel.forward(SERVER, as_socket=True) for _ in range(20)))
    assert gateway.logins == 2
    assert len(set(nears)) == 1
    assert await query(nears[0]) == 42
    assert names_in(temporary_files) == [Path(nears[0].name).name]


async def test_callers_that_wait_for_one_login_share_its_error(gateway: Gateway, tunnel: SshTunnel) -> None:
    gateway.client_key = asyncssh.generate_private_key("ssh-ed25519")
    await gateway.stop()
    await gateway.start()

    failed = await asyncio.gather(*(tunnel.forward(SERVER, as_socket=True) for _ in range(20)), return_exceptions=True)

    assert all(isinstance(error, TunnelFailed) and "refused the user" in str(error) for error in failed)
    assert gateway.dials == 1


async def test_the_next_call_redials_after_a_failed_redial(gateway: Gateway, tunnel: SshTunnel) -> None:
    await tunnel.forward(SERVER, as_socket=True)
    await gateway.stop()
    await dropped(tunnel)

    with pytest.raises(TunnelFailed, match="nothing listens there"):
        await tunnel.forward(SERVER, as_socket=True)
    await gateway.start()

    assert await query(await tunnel.forward(SERVER, as_socket=True)) == 42


async def test_a_gateway_that_stops_answering_is_replaced_by_a_new_login(
    gateway: Gateway, tunnel: SshTunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_login, "KEEPALIVE_SECONDS", 0.03)
    connection = await connect(await tunnel.forward(SERVER, as_socket=True))
    silence(gateway)

    with pytest.raises(LOST):
        await connection.fetchval("SELECT 1", timeout=5)
    assert await query(await tunnel.forward(SERVER, as_socket=True)) == 42


async def test_explains_nothing_if_the_gateway_reaches_the_server(tunnel: SshTunnel) -> None:
    for host in (SERVER, SERVER_AS_SOCKET):
        await tunnel.forward(host, as_socket=True)

        assert await tunnel.explain(host) is None


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (Host("127.0.0.1", free_port()), "nothing listens there"),
        (Host("/nowhere"), "the gateway has no such socket"),
    ],
)
@pytest.mark.parametrize("as_socket", [True, False])
async def test_explains_a_server_that_does_not_listen(
    gateway: Gateway, tunnel: SshTunnel, host: Host, reason: str, as_socket: bool
) -> None:
    with pytest.raises(LOST):
        await connect(await tunnel.forward(host, as_socket=as_socket))

    explained = await tunnel.explain(host)

    assert explained is not None
    assert str(explained).startswith(f"the SSH gateway {gateway.settings()} cannot reach {host}: {reason}")
    assert explained.hint


@pytest.mark.parametrize(
    ("code", "words", "reason"),
    [
        (asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "open failed", "the gateway prohibits the connection"),
        (asyncssh.OPEN_CONNECT_FAILED, "Connection refused", "nothing listens there"),
        (asyncssh.OPEN_CONNECT_FAILED, "Name or service not known", "the gateway does not know the host"),
        (asyncssh.OPEN_CONNECT_FAILED, "No route to host", "the gateway has no route to the host"),
        (asyncssh.OPEN_CONNECT_FAILED, "Connection timed out", "the host does not answer the gateway"),
        (asyncssh.OPEN_CONNECT_FAILED, "open\x1b[2J\nfailed", "the gateway reports 'open [2J failed'"),
    ],
)
async def test_explains_a_refusal_of_the_gateway(
    gateway: Gateway, tunnel: SshTunnel, code: int, words: str, reason: str
) -> None:
    gateway.refusal = asyncssh.ChannelOpenError(code, words)
    with pytest.raises(LOST):
        await connect(await tunnel.forward(SERVER, as_socket=True))

    explained = await tunnel.explain(SERVER)

    assert reason in str(explained)


async def test_explains_a_server_that_does_not_answer(
    gateway: Gateway, tunnel: SshTunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "PROBE_TIMEOUT_SECONDS", 0.05)
    await tunnel.forward(SERVER, as_socket=True)
    gateway.is_silent_about_targets = True

    assert "no answer in 0.05 s" in str(await tunnel.explain(SERVER))


async def test_explains_a_tunnel_that_dropped(gateway: Gateway, tunnel: SshTunnel) -> None:
    near = await tunnel.forward(SERVER, as_socket=True)
    await gateway.drop()
    await dropped(tunnel)
    with pytest.raises(LOST):
        await connect(near)

    assert f"the SSH tunnel through {gateway.settings()} dropped" in str(await tunnel.explain(SERVER))


@pytest.mark.parametrize("is_silent", [False, True])
async def test_close_leaves_no_task_no_file_and_no_connection(
    gateway: Gateway, temporary_files: Path, is_silent: bool
) -> None:
    before = asyncio.all_tasks()
    tunnel = SshTunnel(gateway.settings(), connect_timeout=5)
    nears = [await tunnel.forward(SERVER, as_socket=as_socket) for as_socket in (True, False)]
    connections = [await connect(near) for near in nears]
    if is_silent:
        silence(gateway)

    async with asyncio.timeout(1):
        await tunnel.close()
        await tunnel.close()
    await gateway.stop()
    await until(lambda: asyncio.all_tasks() == before and all(one.is_closed() for one in connections))

    assert names_in(temporary_files) == []
    for near in nears:
        with pytest.raises(LOST):
            await connect(near)


async def test_can_be_used_again_after_close(gateway: Gateway, tunnel: SshTunnel) -> None:
    await tunnel.forward(SERVER, as_socket=True)
    await tunnel.close()

    assert await query(await tunnel.forward(SERVER, as_socket=True)) == 42
    assert gateway.logins == 2


async def test_a_cancelled_login_leaves_no_task_and_no_file(
    gateway: Gateway, tunnel: SshTunnel, temporary_files: Path
) -> None:
    before, watched = asyncio.all_tasks(), count_watched()
    was_done, delay = False, 0.0
    while not was_done:
        calls = [asyncio.create_task(tunnel.forward(SERVER, as_socket=True)) for _ in range(2)]
        await asyncio.sleep(delay)
        was_done = all(call.done() for call in calls)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await tunnel.close()
        await until(lambda: asyncio.all_tasks() == before and count_watched() == watched)
        assert names_in(temporary_files) == []
        delay += 0.002

    assert await query(await tunnel.forward(SERVER, as_socket=True)) == 42


@pytest.mark.parametrize("as_socket", [True, False])
async def test_a_cancelled_call_leaves_no_listener(tunnel: SshTunnel, temporary_files: Path, as_socket: bool) -> None:
    await tunnel.forward(SERVER, as_socket=as_socket)
    await tunnel.close()
    watched = count_watched()
    for turns in range(12):
        await tunnel.forward(SERVER, as_socket=as_socket)
        call = asyncio.create_task(tunnel.forward(SERVER_AS_SOCKET, as_socket=as_socket))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        await tunnel.close()
        await until(lambda: count_watched() == watched)

        assert names_in(temporary_files) == []


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # what an event loop leaves that was not cleared up
def test_can_be_used_in_another_event_loop(tmp_path: Path, temporary_files: Path) -> None:
    gateway = Gateway(tmp_path)
    with elsewhere() as run_elsewhere:
        run_elsewhere(gateway.start())
        tunnel = SshTunnel(gateway.settings(), connect_timeout=5)

        async def run() -> object:
            return await query(await tunnel.forward(SERVER, as_socket=True))

        assert [asyncio.run(run()) for _ in range(2)] == [42, 42]
        asyncio.run(tunnel.close())
        assert names_in(temporary_files) == []
        run_elsewhere(gateway.stop())
    gc.collect()  # while the warnings are expected
