"""What only Unix sockets have: the file, its mode, its left-overs, and credentials (guarantees: transport clauses)."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from pathlib import Path

import pytest
import trio
import trio.testing

from mqcore.errors import ConfigurationError, TransportError
from mqcore.registry import create_transport
from mqcore_unix import _file


def leave_stale_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
        dead.listen()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("query", "mode"), [("", 0o600), ("?mode=0660", 0o660), ("?mode=666", 0o666)])
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_file_has_exactly_the_mode_asked_for(tmp_path: Path, query: str, mode: int, umask: int) -> None:
    async def main() -> None:
        async with await create_transport(f"unix://{tmp_path}/s{query}").listen():
            assert mode_of(tmp_path / "s") == mode

    before = os.umask(umask)
    try:
        trio.run(main)
    finally:
        os.umask(before)


def test_the_file_is_gone_after_close(tmp_path: Path) -> None:
    async def main() -> None:
        async with await create_transport(f"unix://{tmp_path}/s").listen():
            assert (tmp_path / "s").is_socket()
        assert not (tmp_path / "s").exists()

    trio.run(main)


def test_a_socket_left_over_by_a_dead_process_is_replaced(tmp_path: Path) -> None:
    leave_stale_socket(tmp_path / "s")

    async def main() -> None:
        transport = create_transport(f"unix://{tmp_path}/s")
        with pytest.raises(TransportError, match="nothing listens there"):
            await transport.connect()
        async with await transport.listen() as listener, await transport.connect(), await listener.accept():
            assert mode_of(tmp_path / "s") == 0o600

    trio.run(main)


def test_a_socket_that_is_answered_is_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        transport = create_transport(f"unix://{tmp_path}/s?backlog=1")
        async with await transport.listen() as listener:
            links = [await transport.connect() for _ in range(2)]
            with pytest.raises(TransportError, match="in use"):  # also while its backlog is full
                await transport.listen()
            for link in links:
                await (await link.open_stream()).send_all(b"x")
                await link.aclose()
                await (await listener.accept()).aclose()

    trio.run(main)


def test_a_backlog_that_is_full_is_an_error_and_no_dead_link(tmp_path: Path) -> None:
    async def main() -> None:
        transport = create_transport(f"unix://{tmp_path}/s?backlog=1")
        async with await transport.listen():
            links = [await transport.connect() for _ in range(2)]
            with pytest.raises(TransportError, match="backlog is full"):
                await transport.connect()
            for link in links:
                await link.aclose()

    trio.run(main)


@pytest.mark.parametrize("kind", ["file", "directory", "link-to-file"])
def test_something_else_in_the_way_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    if kind == "directory":
        path.mkdir()
    elif kind == "file":
        path.write_text("precious")
    else:
        (tmp_path / "target").write_text("precious")
        path.symlink_to(tmp_path / "target")

    async def main() -> None:
        with pytest.raises(TransportError, match="not a socket is in the way") as caught:
            await create_transport(f"unix://{path}").listen()
        assert str(path) in str(caught.value)

    trio.run(main)
    assert path.is_dir() if kind == "directory" else path.read_text() == "precious"


def test_a_file_that_replaced_ours_is_not_removed_at_close(tmp_path: Path) -> None:
    async def main() -> None:
        transport = create_transport(f"unix://{tmp_path}/s")
        first = await transport.listen()
        (tmp_path / "s").unlink()
        async with await transport.listen() as second:
            await first.aclose()
            async with await transport.connect(), await second.accept() as link:
                assert link.peer.process_id == os.getpid()

    trio.run(main)


def test_the_peers_credentials_are_known(tmp_path: Path) -> None:
    async def main() -> None:
        transport = create_transport(f"unix://{tmp_path}/s")
        async with (
            await transport.listen() as listener,
            await transport.connect() as client,
            await listener.accept() as broker,
        ):
            for peer in (client.peer, broker.peer):
                assert (peer.process_id, peer.user_id, peer.group_id) == (os.getpid(), os.getuid(), os.getgid())

    trio.run(main)


def test_a_path_of_107_bytes_works_and_one_of_108_is_refused(tmp_path: Path) -> None:
    room = 107 - len(os.fsencode(f"{tmp_path}/"))
    if room < 1:
        pytest.skip("the temporary directory's own path is too long")

    async def main() -> None:
        transport = create_transport(f"unix://{tmp_path}/{'s' * room}")
        async with await transport.listen() as listener, await transport.connect(), await listener.accept() as link:
            assert link.peer.process_id == os.getpid()

    trio.run(main)
    with pytest.raises(ConfigurationError, match="has 108 bytes, a Unix socket's has at most 107") as caught:
        create_transport(f"unix://{tmp_path}/{'s' * (room + 1)}")
    assert str(tmp_path) in str(caught.value)


def test_a_directory_that_is_missing_or_closed_names_the_remedy(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)

    async def main() -> None:
        with pytest.raises(TransportError, match="the directory does not exist: create it"):
            await create_transport(f"unix://{tmp_path}/missing/s").listen()
        if os.geteuid() == 0:
            os.seteuid(65_534)  # root may write anywhere
        try:
            with pytest.raises(TransportError, match="no permission: the directory must be writable"):
                await create_transport(f"unix://{closed}/s").listen()
        finally:
            if os.getuid() == 0:
                os.seteuid(0)

    trio.run(main)


def test_a_relative_path_and_an_impossible_mode_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="absolute path"):
        create_transport("unix://s")
    for mode in ("0999", "rw", "77777"):
        with pytest.raises(ConfigurationError, match="three octal digits, such as 0660"):
            create_transport(f"unix://{tmp_path}/s?mode={mode}")


def test_who_holds_the_lock_of_the_folder_for_another_purpose_delays_a_listener_and_keeps_it_from_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_file, "LOCK_WAIT_S", 0.02)
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)

    async def main() -> None:
        async with await create_transport(f"unix://{tmp_path}/s").listen():
            pass

    try:
        trio.run(main)
    finally:
        os.close(folder)


def test_two_processes_that_find_one_stale_socket_do_not_both_listen(tmp_path: Path) -> None:
    async def start(path: Path, outcomes: list[str], done: trio.Event) -> None:
        try:
            async with await create_transport(f"unix://{path}").listen():
                outcomes.append("listens")
                await done.wait()
        except TransportError as error:
            outcomes.append("refused" if "in use" in str(error) else str(error))

    async def main() -> None:
        for number in range(100):  # how they mingle is left to Trio's scheduler: one that was bound may not listen yet
            leave_stale_socket(path := tmp_path / f"s{number}")
            outcomes: list[str] = []
            done = trio.Event()
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(start, path, outcomes, done)
                with trio.fail_after(30):
                    while len(outcomes) < 3:
                        await trio.lowlevel.checkpoint()
                done.set()
            assert sorted(outcomes) == ["listens", "refused", "refused"]

    trio.run(main)
