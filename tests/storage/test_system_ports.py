"""The machine's own ports: device threads, mappings and locks as their contracts say."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from pathlib import Path

import pytest
import trio

from mqcore.ports import system_ports


def test_a_device_thread_runs_calls_in_the_order_asked_and_raises_their_errors() -> None:
    async def main() -> None:
        thread = system_ports().threads.start("x")
        seen: list[int] = []

        async def ask(number: int) -> None:
            await thread.run(seen.append, number)

        async with trio.open_nursery() as nursery:
            for number in range(100):
                thread.submit(seen.append, number)
            nursery.start_soon(ask, 100)
        assert seen == list(range(101))
        with pytest.raises(ZeroDivisionError):
            await thread.run(lambda: 1 // 0)
        thread.submit(lambda: 1 // 0)
        assert await thread.run(int) == 0
        await thread.aclose()
        await thread.aclose()

    trio.run(main)


def test_no_thread_is_started_before_its_first_call() -> None:
    async def main() -> None:
        before = threading.active_count()
        thread = system_ports().threads.start("x")
        assert threading.active_count() == before
        await thread.aclose()

    trio.run(main)


def test_a_cancelled_call_that_began_goes_on_and_aclose_waits_for_it() -> None:
    async def main() -> None:
        thread = system_ports().threads.start("x")
        go, began, ended = threading.Event(), trio.Event(), threading.Event()
        token = trio.lowlevel.current_trio_token()

        def call() -> None:
            token.run_sync_soon(began.set)
            go.wait()
            ended.set()

        never: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.run, call)
            await began.wait()
            nursery.start_soon(thread.run, never.append, 1)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert not ended.is_set()
        with trio.move_on_after(0):
            go.set()
            await thread.aclose()
        assert ended.is_set()
        assert never == []

    trio.run(main)


def test_a_view_outlives_its_mapping_and_its_file(tmp_path: Path) -> None:
    files = system_ports().files
    file = files.open(str(tmp_path / "f"), create=True)
    file.pwritev([b"a" * 4096, memoryview(b"b" * 4096)], 0)
    mapping = file.map(8192)
    view = mapping.view(4090, 10)
    mapping.close()
    file.close()
    assert (bytes(view), view.readonly, mapping.held()) == (b"a" * 6 + b"b" * 4, True, True)
    view.release()
    assert not mapping.held()
    with pytest.raises(OSError, match="closed"):
        mapping.view(0, 1)


def test_a_mapping_longer_than_its_file_and_a_file_cut_under_it_are_os_errors(tmp_path: Path) -> None:
    file = system_ports().files.open(str(tmp_path / "f"), create=True)
    file.truncate(8192)
    with pytest.raises(OSError, match="cannot map"):
        file.map(8193)
    mapping = file.map(8192)
    file.truncate(0)
    with pytest.raises(OSError, match="cannot read the page"):
        mapping.view(0, 1)
    mapping.close()
    file.close()


def test_other_threads_go_on_while_one_reads_pages_in(tmp_path: Path) -> None:
    file = system_ports().files.open(str(tmp_path / "f"), create=True)
    file.pwritev([bytes(1 << 20)] * 16, 0)
    mapping = file.map(16 << 20)
    ask, ran, loads = threading.Lock(), [], 0
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # no thread is made to give way: the other one runs when a call of this one lets it
    try:
        ask.acquire()
        other = threading.Thread(target=lambda: ran.append(ask.acquire()))
        other.start()
        ask.release()
        while not ran and loads < 10_000:
            mapping.load(0, 16 << 20)
            loads += 1
        assert loads < 10_000
    finally:
        sys.setswitchinterval(interval)
        other.join()
        mapping.close()
        file.close()


def test_a_load_keeps_the_mapping_and_what_cannot_be_loaded_is_an_os_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = system_ports().files.open(str(tmp_path / "f"), create=True)
    file.truncate(8192)
    mapping = file.map(8192)
    advised = []

    def closing(view: memoryview, advice: int) -> None:
        mapping.close()  # as another thread may, while this one reads
        advised.append((view.nbytes, advice, mapping.held()))

    monkeypatch.setattr("mqcore.ports._system_files.populate", closing)
    mapping.load(4000, 200)
    assert advised == [(200, 22, True)]
    assert not mapping.held()
    monkeypatch.undo()
    with pytest.raises(OSError, match="closed"):
        mapping.load(0, 1)
    mapping = file.map(8192)
    with pytest.raises(ValueError, match="outside"):
        mapping.load(8000, 200)
    file.truncate(0)
    with pytest.raises(OSError, match="cannot read the page"):
        mapping.load(5000, 10)
    mapping.close()
    file.close()


def test_more_buffers_than_one_call_takes_are_all_written(tmp_path: Path) -> None:
    file = system_ports().files.open(str(tmp_path / "f"), create=True)
    assert file.pwritev([b"%04d" % number for number in range(3000)], 10) == 12000
    assert file.pread(12100, 10) == b"".join(b"%04d" % number for number in range(3000))
    file.close()


def test_a_lock_is_held_once_and_free_after_release(tmp_path: Path) -> None:
    files = system_ports().files
    lock = files.lock(str(tmp_path / "lock"))
    with pytest.raises(BlockingIOError):
        files.lock(str(tmp_path / "lock"))
    lock.release()
    lock.release()
    files.lock(str(tmp_path / "lock")).release()


def test_flush_many_with_and_without_a_lock_on_the_file_system(tmp_path: Path) -> None:
    files = system_ports().files
    opened = [files.open(str(tmp_path / f"f{number}"), create=True) for number in range(10)]
    for file in opened:
        file.pwritev([b"x"], 0)
    files.flush_many(opened)
    lock = files.lock(str(tmp_path / "lock"))
    files.flush_many(opened)
    lock.release()
    for file in opened:
        file.close()


def test_the_same_seed_draws_the_same_numbers() -> None:
    assert system_ports(5).random.getrandbits(64) == system_ports(5).random.getrandbits(64)
    assert system_ports().random.getrandbits(64) != system_ports().random.getrandbits(64)


def test_a_path_is_born_when_it_is_made_whatever_becomes_of_it_and_its_copy_later(tmp_path: Path) -> None:
    files = system_ports().files
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    born_ns = files.birth(str(first)).born_ns
    if not born_ns:
        pytest.skip("this file system, or system, does not say when a file was made")
    (first / "inner").touch()
    first.chmod(0o700)
    os.utime(first, (1, 1))
    first.rename(second)
    shutil.copytree(second, first)
    assert files.birth(str(second)).born_ns == born_ns
    while files.birth(str(first)).born_ns == born_ns:  # the kernel's clock for this moves on every few milliseconds
        shutil.rmtree(first)
        shutil.copytree(second, first)
    assert files.birth(str(first)).born_ns > born_ns
    with pytest.raises(FileNotFoundError):
        files.birth(str(tmp_path / "third"))
