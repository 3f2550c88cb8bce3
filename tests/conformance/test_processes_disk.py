"""T1: faults of the files of a broker under test, and the disk that a power cut leaves, on real files."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mqcore.ports import FileSystem
from mqcore_conformance.broker_process.pages import dirty_pages, never_written
from mqcore_conformance.broker_process.ports import FaultyFiles, Injection, faulty_ports
from mqcore_conformance.worlds.processes import why_no_dirty_pages
from mqcore_conformance.worlds.processes._image import cut_power

PAGE = 4096


class Disk:
    """A data folder on faulty files, and what they told."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.data.mkdir()
        self.undo = folder / "undo"
        self.told: list[dict[str, Any]] = []
        _, self.files = faulty_ports(Injection(undo=str(self.undo)), self.told.append)

    def path(self, name: str) -> str:
        return str(self.data / name)

    def after_power_cut(self, name: str) -> bytes:
        cut_power(self.data, self.undo)
        return (self.data / name).read_bytes()


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


@pytest.mark.needs("dirty-pages")
class TestPowerCut:
    def test_what_was_flushed_is_kept_and_what_was_not_is_lost(self, disk: Disk) -> None:
        file = disk.files.open(disk.path("log"), create=True)
        file.pwritev([b"flushed"], 0)
        file.flush()
        file.pwritev([b"-and-not"], 7)
        file.pwritev([b"far away"], 3 * PAGE)
        assert disk.after_power_cut("log") == b"flushed".ljust(3 * PAGE + 8, b"\0")

    def test_it_tells_how_many_pages_lost_something(self, disk: Disk) -> None:
        file = disk.files.open(disk.path("log"), create=True)
        file.pwritev([b"x" * (2 * PAGE)], 0)
        assert cut_power(disk.data, disk.undo) == 2
        assert cut_power(disk.data, disk.undo) == 0, "a machine that was just powered on has nothing to lose"

    def test_the_old_content_comes_back_where_flushed_bytes_were_written_over(self, disk: Disk) -> None:
        file = disk.files.open(disk.path("log"), create=True)
        file.pwritev([b"a" * PAGE], 0)
        file.flush()
        file.pwritev([b"b" * PAGE], 0)
        assert disk.after_power_cut("log") == b"a" * PAGE

    def test_a_flush_of_many_covers_each(self, disk: Disk) -> None:
        files = [disk.files.open(disk.path(name), create=True) for name in ("one", "two")]
        for file in files:
            file.pwritev([b"content"], 0)
        disk.files.flush_many(files)
        assert disk.after_power_cut("one") == b"content"
        assert (disk.data / "two").read_bytes() == b"content"

    def test_what_a_truncation_took_does_not_come_back(self, disk: Disk) -> None:
        file = disk.files.open(disk.path("log"), create=True)
        file.pwritev([b"a" * 2 * PAGE], 0)
        file.flush()
        file.truncate(100)
        file.truncate(2 * PAGE)
        assert disk.after_power_cut("log") == (b"a" * 100).ljust(2 * PAGE, b"\0")

    def test_an_inode_that_is_used_again_has_no_past(self, disk: Disk) -> None:
        for content in (b"old", b"new"):
            file = disk.files.open(disk.path("log"), create=True)
            file.pwritev([content * 1000], 0)
            if content == b"new":
                file.flush()
            file.close()
            if content == b"old":
                disk.files.unlink(disk.path("log"))
        assert disk.after_power_cut("log") == b"new" * 1000

    def test_after_a_failed_flush_a_successful_one_proves_nothing(self, disk: Disk) -> None:
        file = disk.files.open(disk.path("0123456789abcdef0123456789abcdef-2@0"), create=True)
        file.pwritev([b"before"], 0)
        file.flush()
        file.pwritev([b"lost"], 6)
        disk.files.fail_flush(0)
        with pytest.raises(OSError, match="injected") as caught:
            file.flush()
        assert caught.value.errno == errno.EIO
        file.flush()
        assert disk.told == [{"witness": "disk-flush-error", "partitions": ["0123456789abcdef0123456789abcdef/2"]}]
        assert file.pread(100, 0) == b"beforelost", "the page cache shows what the disk never got"
        assert disk.after_power_cut("0123456789abcdef0123456789abcdef-2@0") == b"before\0\0\0\0"

    def test_a_storage_without_ports_loses_what_the_disk_was_never_given(self, tmp_path: Path) -> None:
        data = tmp_path / "data"
        (data / "deep").mkdir(parents=True)
        (data / "kept").write_bytes(b"k" * 5000)
        with (data / "kept").open("rb") as file:
            os.fdatasync(file.fileno())
        (data / "deep" / "lost").write_bytes(b"l" * 5000)
        assert cut_power(data, tmp_path / "no-undo-log") == 2
        assert (data / "kept").read_bytes() == b"k" * 5000
        assert (data / "deep" / "lost").read_bytes() == bytes(5000)

    def test_the_kernel_tells_dirty_pages_and_what_it_never_wrote(self, tmp_path: Path) -> None:
        with (tmp_path / "file").open("wb") as file:
            file.write(b"x" * 3 * PAGE)
            file.flush()
            assert dirty_pages(file.fileno()) == 3
            assert never_written(file.fileno(), 3 * PAGE) == [(0, 3 * PAGE)]
            os.fdatasync(file.fileno())
            assert dirty_pages(file.fileno()) == 0
            assert never_written(file.fileno(), 3 * PAGE) == []


def test_a_file_system_without_dirty_pages_says_so() -> None:
    if not Path("/dev/shm").is_dir():
        pytest.skip("needs /dev/shm")
    assert why_no_dirty_pages("/dev/shm")


class TestFullDisk:
    def test_growth_is_refused_and_rewriting_is_not(self, disk: Disk) -> None:
        file = disk.files.open(disk.path("log"), create=True)
        file.pwritev([b"x" * 100], 0)
        disk.files.fill(50)
        file.pwritev([b"y" * 50], 100)
        assert disk.files.free_bytes(str(disk.data)) == 0
        with pytest.raises(OSError, match="injected") as caught:
            file.pwritev([b"z"], 150)
        assert caught.value.errno == errno.ENOSPC
        file.pwritev([b"w" * 150], 0)
        assert file.size() == 150
        assert disk.told == [{"witness": "disk-full"}]

    def test_what_is_given_back_can_be_used_again(self, disk: Disk) -> None:
        old = disk.files.open(disk.path("old"), create=True)
        old.pwritev([b"x" * 100], 0)
        new = disk.files.open(disk.path("new"), create=True)
        disk.files.fill(0)
        disk.files.unlink(disk.path("old"))
        new.pwritev([b"y" * 100], 0)
        disk.files.fill(None)
        new.pwritev([b"y" * 10_000], 0)
        assert new.size() == 10_000


CHILD = """
import json, sys
from mqcore_conformance.broker_process.__main__ import report
from mqcore_conformance.broker_process.ports import Injection, faulty_ports
_, files = faulty_ports(Injection(kill_at=2, kill_how=sys.argv[2]), report)
file = files.open(sys.argv[1], create=True)
file.pwritev([b"0123456789"], 0)
file.pwritev([b"never"], 10)
"""


@pytest.mark.parametrize(("how", "left"), [("after", b"0123456789"), ("torn", b"01234")])
def test_a_process_kills_itself_at_the_chosen_call(tmp_path: Path, how: str, left: bytes) -> None:
    path = tmp_path / "log"
    done = subprocess.run([sys.executable, "-c", CHILD, str(path), how], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == left
    told = json.loads(done.stdout)
    assert (told["dying"], told["call"]) == ("pwritev", 2)


def test_the_broker_sees_another_kernel_after_a_power_cut(tmp_path: Path) -> None:
    _, files = faulty_ports(Injection(boot_id="another"), lambda facts: None)
    assert isinstance(files, FileSystem)
    assert isinstance(files, FaultyFiles)
    assert files.boot_id() == "another"
