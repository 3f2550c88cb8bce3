"""A directory that processes share, and the calls in it that block: what stands after an error, and when they end."""

from __future__ import annotations

import errno
import threading

import pytest
import trio

from mqcore.blocking import BlockingCalls, CallLate
from mqcore.directories import SharedDirectory
from mqcore.ports import system_ports
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

PATH = "/shared"


class ClosedHere(Exception):
    """What the part under test raises for a call after its end."""


def directory(disk: ModelDisk) -> SharedDirectory:
    shared = SharedDirectory(model_ports(1, disk).files, PATH)
    shared.make()
    shared.replace("a", b"old")
    shared.flush()
    return shared


def content(shared: SharedDirectory) -> bytes:
    with shared.opened("a") as file:
        return file.pread(file.size(), 0)


@pytest.mark.parametrize("call", ["open", "pwritev", "flush", "rename"])
def test_what_cannot_be_replaced_stands_and_nothing_of_the_new_takes_space(call: str) -> None:
    disk = ModelDisk(seeded(1, "disk"))
    shared = directory(disk)
    if call == "flush":
        disk.fail_next_flush(path="*.new")
    else:
        disk.fail_next(call, errno.ENOSPC, path="*.new")
    with pytest.raises(OSError):
        shared.replace("a", b"new")
    assert content(shared) == b"old"
    assert [name for name in shared.files.list(PATH) if name.endswith(".new")] == []
    shared.replace("a", b"newer")
    assert content(shared) == b"newer"


def test_a_power_cut_at_any_call_leaves_the_old_or_the_new() -> None:
    disk = ModelDisk(seeded(1, "disk"))
    shared = directory(disk)
    shared.replace("a", b"new")
    found = {content(SharedDirectory(state, PATH)) for state in disk.crash_states()}
    assert found == {b"old", b"new"}
    shared.flush()
    assert {content(SharedDirectory(state, PATH)) for state in disk.crash_states()} == {b"new"}


def test_names_are_those_of_users_and_a_directory_that_is_not_there_has_none() -> None:
    disk = ModelDisk(seeded(1, "disk"))
    files = model_ports(1, disk).files
    assert SharedDirectory(files, "/nowhere").names() == []
    shared = directory(disk)
    with shared.locked():
        assert shared.names() == ["a"]
        with pytest.raises(BlockingIOError), shared.locked():
            raise AssertionError("two hold one lock")


def calls(timeout_ms: int = 100) -> BlockingCalls:
    return BlockingCalls(model_ports(1), "calls", timeout_ms=timeout_ms, closed=ClosedHere)


def test_a_call_that_meets_a_lock_is_made_again_and_is_late_without_having_begun() -> None:
    async def main() -> None:
        made = []

        def meets_a_lock() -> str:
            made.append(trio.current_time())
            if len(made) < 3:
                raise BlockingIOError
            return "done"

        blocking = calls()
        assert await blocking.call(meets_a_lock) == "done"
        assert len(made) == 3
        began = trio.current_time()

        def never() -> None:
            raise BlockingIOError

        with pytest.raises(CallLate) as late:
            await blocking.call(never)
        assert not late.value.is_begun
        assert trio.current_time() - began == pytest.approx(0.1, abs=0.001)
        with pytest.raises(ZeroDivisionError):
            await blocking.call(lambda: 1 // 0)
        await blocking.aclose()

    run_simulation(main)


def test_a_call_that_stands_still_is_late_and_may_be_done_later() -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        shared = directory(disk)
        ports = model_ports(1, disk)
        blocking = BlockingCalls(ports, "calls", timeout_ms=100, closed=ClosedHere)
        disk.stall_next("flush_directory", 0.5)
        with pytest.raises(CallLate) as late:
            await blocking.call(SharedDirectory(ports.files, PATH).flush)
        assert late.value.is_begun
        assert shared.names() == ["a"]
        await blocking.aclose()

    run_simulation(main)


def test_the_end_waits_for_no_call_that_does_not_come_back() -> None:
    """A disk that hangs in a call of an offset store is no reason for a broker not to end."""
    hangs = threading.Event()

    async def main() -> None:
        blocking = BlockingCalls(system_ports(), "calls", timeout_ms=100, closed=ClosedHere)
        with pytest.raises(CallLate):
            await blocking.call(hangs.wait)
        with trio.fail_after(60):
            await blocking.aclose(lambda: None)
        assert not hangs.is_set()

    try:
        trio.run(main)
    finally:
        hangs.set()


def test_after_its_end_it_says_so_and_what_was_to_be_last_was() -> None:
    async def main() -> None:
        blocking, order = calls(), []
        await blocking.aclose(lambda: order.append("not begun"))
        blocking = calls()
        await blocking.call(lambda: order.append("call"))
        await blocking.aclose(lambda: order.append("last"))
        await blocking.aclose(lambda: order.append("twice"))
        assert order == ["call", "last"]
        with pytest.raises(ClosedHere):
            await blocking.call(lambda: None)

    run_simulation(main)
