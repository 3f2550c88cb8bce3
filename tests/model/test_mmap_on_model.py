"""The mmap storage on the model disk: whatever was flushed is there after every crash (G01, G11, G12, G17).

A workload drawn from a seed appends, flushes, truncates and trims two logs; the process is killed or the power cut at
every port call in turn, and the next process must find what was acknowledged.
"""

from __future__ import annotations

import errno
import random

import attrs
import pytest

from mqcore.abc import Log, StorageBackend, StorageContext
from mqcore.errors import MqcoreError
from mqcore.registry import create_storage
from mqcore.testing import ModelDisk, model_ports, run_simulation

OPTIONS = "segment_bytes=8192&first_extent_bytes=4096&extent_bytes_max=4096&journal_bytes=65536&ready_segments_max=2"
JOURNAL = (0, 1024)
"""Largest range that goes through the journal: none, or all but the large appends."""


@attrs.define
class Truth:
    """What the workload knows of its logs: bytes that may be there, ends that were acknowledged, starts asked for."""

    written: dict[str, bytearray] = attrs.field(factory=dict)
    before_cut: dict[str, list[bytes]] = attrs.field(factory=dict)
    appended: dict[str, int] = attrs.field(factory=dict)
    flushed: dict[str, int] = attrs.field(factory=dict)
    trimmed: dict[str, int] = attrs.field(factory=dict)

    def histories(self, name: str) -> list[bytes]:
        """Every content that the log had."""
        return [bytes(self.written[name]), *self.before_cut.get(name, [])]


def new_disk(seed: int, bytes_max: int | None = None) -> ModelDisk:
    disk = ModelDisk(seed, bytes_max=bytes_max)
    disk.make_directory("/data")
    disk.flush_directory("/")
    return disk


def storage_on(disk: ModelDisk, seed: int, journal: int) -> StorageBackend:
    url = f"mmap:///data?{OPTIONS}&journal_range_bytes_max={journal}"
    return create_storage(url, StorageContext(ports=model_ports(seed, disk)))


async def read_all(log: Log) -> bytes:
    found = bytearray()
    while log.start + len(found) < log.end:
        found += await log.read(log.start + len(found), 1 << 20)
    return bytes(found)


class Workload:
    """Steps on two logs, drawn from a seed."""

    def __init__(self, storage: StorageBackend, truth: Truth, rng: random.Random) -> None:
        self.storage = storage
        self.truth = truth
        self.rng = rng
        self.logs: dict[str, Log] = {}

    async def run(self, steps: int) -> None:
        await self.storage.open()
        for _ in range(steps):
            log = await self.open_log(self.rng.choice("ab"))
            step = self.rng.choices([self.append, self.flush, self.truncate, self.trim], [60, 30, 5, 5])[0]
            await step(log)
        await self.storage.aclose()

    async def open_log(self, name: str) -> Log:
        if name not in self.logs:
            self.logs[name] = await self.storage.open_log(name)
            self.truth.written.setdefault(name, bytearray())
            self.truth.appended.setdefault(name, 0)
            self.truth.flushed.setdefault(name, 0)
        return self.logs[name]

    async def append(self, log: Log) -> None:
        data = bytes([self.rng.randrange(1, 256)]) * self.rng.choice((1, 100, 511, 512, 700, 3000, 6000))
        written = self.truth.written[log.name]
        written += data
        assert await log.append([data[:5], data[5:]]) == len(written) - len(data)
        self.truth.appended[log.name] = len(written)

    async def flush(self, _: Log) -> None:
        ends = {name: log.end for name, log in self.logs.items()}
        durable_ends = [each.end for each in await self.storage.flush(list(self.logs.values()))]
        assert all(durable >= end for durable, end in zip(durable_ends, ends.values(), strict=True))
        self.truth.flushed.update(ends)

    async def truncate(self, log: Log) -> None:
        position = self.rng.randint(self.truth.flushed[log.name], log.end)
        self.truth.before_cut.setdefault(log.name, []).append(bytes(self.truth.written[log.name]))
        self.truth.appended[log.name] = position
        await log.truncate(position)
        del self.truth.written[log.name][position:]

    async def trim(self, log: Log) -> None:
        position = self.rng.randint(log.start, log.end)
        self.truth.trimmed[log.name] = max(position, self.truth.trimmed.get(log.name, 0))
        await log.trim(position)


def run_workload(disk: ModelDisk, seed: int, journal: int, steps: int = 14) -> tuple[Truth, Exception | None]:
    """Run the workload until it ends or fails; a failure must be one of ours, or that of a dead process."""
    truth = Truth()

    async def main() -> Exception | None:
        try:
            await Workload(storage_on(disk, seed, journal), truth, random.Random(f"{seed}/workload")).run(steps)
        except MqcoreError as error:
            return error
        except OSError as error:
            assert not disk.alive
            return error
        return None

    return truth, run_simulation(main, seed=seed)


def check(disk: ModelDisk, seed: int, journal: int, truth: Truth, ends: dict[str, int]) -> None:
    """Open the storage and find every byte below ``ends``; then go on, acknowledge, and lose nothing of it either."""
    disk.heal()
    disk.on_call = None

    async def main() -> None:
        storage = storage_on(disk, seed, journal)
        await storage.open()
        logs = []
        for name, end in ends.items():
            log = await storage.open_log(name)
            found = await read_all(log)
            assert log.start <= truth.trimmed.get(name, 0)
            assert log.end >= end, f"{name} ends at {log.end}, and {end} was acknowledged"
            assert found[: end - log.start] == truth.written[name][log.start : end]
            logs.append(await cut_to_valid(log, found, truth))
        await storage.flush(logs)
        contents = {log.name: (log.start, await read_all(log)) for log in logs}
        disk.power_cut()
        storage = storage_on(disk.restart(), seed, journal)
        await storage.open()
        for name, (start, content) in contents.items():
            log = await storage.open_log(name)
            kept = (await read_all(log))[: len(content)]
            assert (log.start, kept) == (start, content), f"{name} lost what was acknowledged after a recovery"

    run_simulation(main, seed=seed)


async def cut_to_valid(log: Log, found: bytes, truth: Truth) -> Log:
    """Do what the log room does after an unclean stop: cut behind the last 64 bytes that are right, and append."""
    end = 0
    for history in truth.histories(log.name):
        expected = history[log.start : log.start + len(found)]
        right = 0
        while right < len(expected) and found[right : right + 64] == expected[right : right + 64]:
            right += 64
        end = max(end, log.start + min(right, len(expected)))
    await log.truncate(max(end, log.start))
    await log.append([b"after the crash"])
    return log


def calls_of(seed: int, journal: int) -> int:
    disk = new_disk(seed)
    before = disk.call_count
    run_workload(disk, seed, journal)
    return disk.call_count - before


EVERY_CALL_OR_FIFTH = [(0, 1024, 1), (1, 0, 5)]


@pytest.mark.parametrize(("seed", "journal", "step"), EVERY_CALL_OR_FIFTH)
def test_G01_a_power_cut_at_any_port_call_loses_nothing_flushed(seed: int, journal: int, step: int) -> None:
    for number in range(1, calls_of(seed, journal) + 1, step):
        disk = new_disk(seed)
        disk.kill_at(disk.call_count + number, power_cut=True)
        truth, _ = run_workload(disk, seed, journal)
        check(disk.restart(), seed, journal, truth, truth.flushed)


@pytest.mark.parametrize(("seed", "journal", "step"), EVERY_CALL_OR_FIFTH)
def test_G01_a_kill_at_any_port_call_loses_nothing_appended(seed: int, journal: int, step: int) -> None:
    for number in range(step, calls_of(seed, journal) + 1, step):
        disk = new_disk(seed)
        disk.kill_at(disk.call_count + number)
        truth, _ = run_workload(disk, seed, journal)
        check(disk.restart(), seed, journal, truth, truth.appended)


@pytest.mark.parametrize("journal", JOURNAL)
def test_G17_a_power_cut_during_recovery_changes_nothing(journal: int) -> None:
    seed = 1
    for number in range(1, calls_of(seed, journal) + 1, 4):
        disk = new_disk(seed)
        disk.kill_at(disk.call_count + number, power_cut=True)
        truth, _ = run_workload(disk, seed, journal)
        disk = disk.restart()
        disk.kill_at(disk.call_count + 1 + number % 29, power_cut=True)

        async def recover(disk: ModelDisk = disk) -> None:
            try:
                storage = storage_on(disk, seed, journal)
                await storage.open()
                for name in await storage.list_logs():
                    await storage.open_log(name)
            except (MqcoreError, OSError):
                assert not disk.alive

        run_simulation(recover, seed=seed)
        check(disk.restart(), seed, journal, truth, truth.flushed)


@pytest.mark.parametrize("then", ["kill", "power-cut"])
@pytest.mark.parametrize("journal", JOURNAL)
def test_G11_after_a_failed_flush_nothing_is_believed_that_the_device_does_not_have(journal: int, then: str) -> None:
    bitten = 0
    for seed in range(2):
        for flush in range(7):
            disk = new_disk(seed)
            fail_flush(disk, flush)
            truth, error = run_workload(disk, seed, journal)
            bitten += disk.witnesses["flush-error-sectors"] > 0
            assert (error is not None) == bool(disk.witnesses["flush-error"])
            if then == "power-cut":
                disk.power_cut()
            check(disk.restart(), seed, journal, truth, truth.flushed)
    assert bitten > 6


def fail_flush(disk: ModelDisk, number: int) -> None:
    """Let flush ``number`` (from 0) of the disk fail."""
    flushes = 0

    def hook(call: object) -> None:
        nonlocal flushes
        if disk.calls[-1].operation in ("flush", "flush_many"):
            if flushes == number:
                disk.fail_next_flush()
            flushes += 1

    disk.on_call = hook


@pytest.mark.parametrize("journal", JOURNAL)
def test_G01_a_full_disk_at_any_size_loses_nothing_flushed(journal: int) -> None:
    refused = 0
    for bytes_max in range(8_000, 110_000, 6_111):
        disk = new_disk(2, bytes_max)
        truth, error = run_workload(disk, 2, journal)
        refused += error is not None
        disk.bytes_max = None
        check(disk.restart(), 2, journal, truth, truth.flushed)
    assert refused


@pytest.mark.parametrize("operation", ["pwritev", "open", "rename", "flush_directory", "pread", "view"])
def test_errors_of_the_device_end_in_errors_that_say_so_and_lose_nothing(operation: str) -> None:
    for number in range(0, 30, 5):
        disk = new_disk(3)
        disk.fail_next(operation, errno.EIO, after=number)
        truth, _ = run_workload(disk, 3, 1024)
        check(disk.restart(), 3, 1024, truth, truth.flushed)


@pytest.mark.parametrize("journal", JOURNAL)
def test_G12_the_durable_mark_is_never_ahead_of_the_truth(journal: int) -> None:
    seed = 12
    for number in range(1, calls_of(seed, journal) + 1, 2):
        disk = new_disk(seed)
        disk.kill_at(disk.call_count + number, power_cut=True)
        truth, _ = run_workload(disk, seed, journal)
        disk = disk.restart()

        async def compare(disk: ModelDisk = disk, truth: Truth = truth, number: int = number) -> None:
            storage = storage_on(disk, seed, journal)
            await storage.open()
            for name in truth.flushed:
                log = await storage.open_log(name)
                found = (await read_all(log))[: log.durable_end - log.start]
                expected = [history[log.start : log.durable_end] for history in truth.histories(name)]
                assert found in expected, f"call {number}: {name} claims {log.durable_end} and lacks some of it"

        run_simulation(compare, seed=seed)
