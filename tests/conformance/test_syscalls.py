"""Diverted system calls: what a process that does its own I/O meets, decided by another one."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mqcore_conformance.children import Outcome, run_apart
from mqcore_conformance.syscalls import FAIL_FLUSHES, FAIL_READS, READS, DivertedFiles, divert_to
from mqcore_conformance.worlds.processes import cut_power

PAGE = 4096
TRIES = 20
pytestmark = pytest.mark.needs("diverted-calls")
Work = Callable[[Path, socket.socket], str]


class Diverted:
    """A folder whose files a child works on, while this process decides on its calls."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.told: list[dict[str, Any]] = []
        self._begin_anew(0)

    def _begin_anew(self, number: int) -> None:
        self.data, self.undo = self._folder / f"data-{number}", self._folder / f"undo-{number}"
        self.data.mkdir()

    def run(self, work: Work, *, calls: tuple[str, ...] = (), ask: Callable[[DivertedFiles], None] | None = None,
            kill_at: int = 0, flush_us: int = 0) -> Outcome[str]:  # fmt: skip
        ours, theirs = socket.socketpair()

        def begin() -> str:
            theirs.sendall(str(os.getpid()).ljust(10).encode())
            divert_to(theirs.fileno(), *((calls,) if calls else ()))
            return work(self.data, theirs)

        def decide() -> None:
            files = DivertedFiles(
                str(self.data), self.told.append, process_id=int(ours.recv(10)), kill_at=kill_at,
                flush_us=flush_us, undo=str(self.undo),
            )  # fmt: skip
            if ask is not None:
                ask(files)
            files.run(ours)

        thread = threading.Thread(target=decide)
        with ours:
            with theirs:
                thread.start()
                outcome = run_apart(begin, seconds_max=20, returns=str)
            thread.join()
        return outcome

    def left_after_power_cut(
        self, work: Work, wanted: bytes, *, ask: Callable[[DivertedFiles], None] | None = None
    ) -> tuple[bytes, Outcome[str]]:
        """What a power cut after ``work`` leaves of the file, and what became of it.

        Again where it is not ``wanted``: the kernel may write back what no flush covered whenever it likes.
        """
        number = 0
        while True:
            outcome = self.run(work, ask=ask)
            cut_power(self.data, self.undo)
            left = (self.data / "file").read_bytes()
            number += 1
            if left == wanted or number == TRIES:
                return left, outcome
            self._begin_anew(number)


@pytest.fixture
def diverted(tmp_path: Path) -> Diverted:
    return Diverted(tmp_path)


def opened(data: Path, flags: int = 0) -> int:
    return os.open(data / "file", os.O_RDWR | os.O_CREAT | flags)


def failed_with(function: Callable[[], object]) -> str:
    try:
        function()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "fine"


def three_writes(data: Path, _: socket.socket) -> str:
    file = opened(data)
    for number in range(3):
        os.pwrite(file, b"%d" % number, number)
    return "all were done"


def test_a_process_is_killed_before_the_call_that_was_chosen(diverted: Diverted) -> None:
    outcome = diverted.run(three_writes, kill_at=3)
    assert f"signal {int(signal.SIGKILL)}" in outcome.problem
    assert (diverted.data / "file").read_bytes() == b"01"
    assert diverted.told == [{"dying": "pwrite64", "call": 3}]


def test_what_is_outside_the_folder_is_left_alone(diverted: Diverted) -> None:
    def elsewhere(data: Path, _: socket.socket) -> str:
        file = os.open(data.parent / "elsewhere", os.O_RDWR | os.O_CREAT)
        os.pwrite(file, b"x", 0)
        os.fdatasync(file)
        return "done"

    assert diverted.run(elsewhere, kill_at=1).value == "done"


def test_one_flush_fails_and_the_next_one_succeeds(diverted: Diverted) -> None:
    def flush_thrice(data: Path, _: socket.socket) -> str:
        file = opened(data)
        os.write(file, b"x")
        return " ".join(failed_with(partial(os.fdatasync, file)) for _ in range(3))

    outcome = diverted.run(flush_thrice, ask=lambda files: files.obey({"fail_flush": 1}))
    assert outcome.value == "fine EIO fine"
    assert diverted.told == [{"witness": "disk-flush-error", "partitions": []}]


def test_a_full_disk_refuses_what_grows_and_takes_what_does_not(diverted: Diverted) -> None:
    def grow(data: Path, _: socket.socket) -> str:
        file = opened(data)
        ways = (
            lambda: os.pwrite(file, bytes(100), 0),
            lambda: os.pwrite(file, bytes(100), 0),
            lambda: os.pwritev(file, [bytes(30), bytes(30)], 90),
            lambda: os.posix_fallocate(file, 0, 1_000),
            lambda: os.ftruncate(file, 10),
            lambda: os.pwrite(file, bytes(90), 10),
        )
        return " ".join(failed_with(way) for way in ways)

    outcome = diverted.run(grow, ask=lambda files: files.obey({"fill": 120}))
    assert outcome.value == "fine fine ENOSPC ENOSPC fine fine"
    assert diverted.told == [{"witness": "disk-full"}] * 2


def test_a_flush_takes_as_long_as_is_asked_for(diverted: Diverted) -> None:
    def flush(data: Path, _: socket.socket) -> str:
        file = opened(data)
        os.write(file, b"x")
        began = time.monotonic()
        os.fsync(file)
        return f"{time.monotonic() - began:.3f}"

    assert float(diverted.run(flush, flush_us=150_000).value or 0) >= 0.15


def test_a_process_may_ask_for_failures_of_its_own(diverted: Diverted) -> None:
    def ask(data: Path, asking: socket.socket) -> str:
        file = opened(data)
        os.write(file, b"x")
        found = []
        for what in (FAIL_FLUSHES, FAIL_READS):
            asking.sendall(what)
            asking.recv(1)
            found += [failed_with(partial(os.fsync, file)), failed_with(partial(os.pread, file, 1, 0))]
        return " ".join(found)

    outcome = diverted.run(ask, calls=(*READS, "fsync"))
    assert outcome.value == "EIO fine EIO EIO"


@pytest.mark.needs("dirty-pages")
class TestPowerCut:
    def test_takes_what_no_flush_covered_and_leaves_what_one_did(self, diverted: Diverted) -> None:
        def work(data: Path, _: socket.socket) -> str:
            file = opened(data)
            os.pwrite(file, b"a" * PAGE, 0)
            os.fdatasync(file)
            os.pwrite(file, b"b" * PAGE, 0)
            os.pwritev(file, [b"c" * 10, b"d" * 10], PAGE)
            return ""

        wanted = b"a" * PAGE + bytes(20)
        assert diverted.left_after_power_cut(work, wanted)[0] == wanted

    def test_knows_where_a_write_without_a_position_goes(self, diverted: Diverted) -> None:
        def work(data: Path, _: socket.socket) -> str:
            file = opened(data, os.O_APPEND)
            os.write(file, b"a" * PAGE)
            os.fdatasync(file)
            os.writev(file, [b"b" * PAGE])
            return ""

        wanted = b"a" * PAGE + bytes(PAGE)
        assert diverted.left_after_power_cut(work, wanted)[0] == wanted

    def test_takes_what_a_failed_flush_was_to_write_although_the_next_one_succeeds(self, diverted: Diverted) -> None:
        def work(data: Path, _: socket.socket) -> str:
            file = opened(data)
            os.pwrite(file, b"a" * PAGE, 0)
            os.fdatasync(file)
            os.pwrite(file, b"b" * PAGE, 0)
            return " ".join(failed_with(partial(os.fdatasync, file)) for _ in range(2))

        left, outcome = diverted.left_after_power_cut(
            work, b"a" * PAGE, ask=lambda files: files.obey({"fail_flush": 1})
        )
        assert outcome.value == "EIO fine"
        assert left == b"a" * PAGE

    def test_accuses_no_file_whose_writes_are_durable_at_once(self, diverted: Diverted) -> None:
        def work(data: Path, _: socket.socket) -> str:
            durable = opened(data, os.O_DSYNC)
            os.pwrite(durable, b"a" * PAGE, 0)
            os.pwrite(durable, b"b" * PAGE, 0)
            os.pwrite(opened(data), b"c" * PAGE, 0)
            return ""

        assert diverted.left_after_power_cut(work, b"b" * PAGE)[0] == b"b" * PAGE
