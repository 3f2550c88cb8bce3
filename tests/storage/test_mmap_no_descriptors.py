"""A process without a free descriptor: flushes need none, or wait; no log stops, and nothing acknowledged is lost."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqcore.abc import Log, StorageContext
from mqcore.errors import StorageError
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded
from mqcore.url import Url
from mqcore_mmap import MmapStorage

LOGS = 24


def make(disk: ModelDisk, seed: int, journal_range_bytes_max: int) -> MmapStorage:
    options = MmapStorage.options_class(
        segment_bytes=64 * 1024,
        first_extent_bytes=4096,
        extent_bytes_max=16 * 1024,
        journal_bytes=64 * 1024,
        journal_range_bytes_max=journal_range_bytes_max,
        open_files_max=10,
    )
    return MmapStorage(Url.parse("mmap:///data"), options, StorageContext(ports=model_ports(seed, disk)))


@contextlib.contextmanager
def no_descriptor(disk: ModelDisk) -> Iterator[None]:
    """Somebody else in the process takes every descriptor that is left."""
    taken = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(disk.open("/others", create=True))
    try:
        yield
    finally:
        for file in taken:
            file.close()


@pytest.mark.parametrize("journal_range_bytes_max", [0, 4096], ids=["files", "journal"])
@pytest.mark.parametrize("seed", range(3))
def test_g11_a_flush_without_descriptors_works_or_changes_nothing(seed: int, journal_range_bytes_max: int) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(seed, "disk"), open_files_max=60)
        backend = make(disk, seed, journal_range_bytes_max)
        await backend.open()
        logs = [await backend.open_log(f"log-{number}") for number in range(LOGS)]
        written = [bytearray() for _ in logs]

        async def append(numbers: Iterator[int] | range, size: int) -> None:
            for number in numbers:
                with contextlib.suppress(StorageError):  # without a descriptor: rejected before it is stored
                    data = bytes([len(written[number]) % 251]) * size
                    await logs[number].append([data])
                    written[number] += data

        await append(range(LOGS), 100)
        await backend.flush(logs)
        for round_number in range(30):
            with no_descriptor(disk):
                await append(range(LOGS), 50 + 37 * (round_number % 5))
                await flush_some(backend, logs[round_number % 3 :: 3])
                await flush_some(backend, logs)
        await backend.flush(logs)
        disk.power_cut(seeded(seed, "cut"))
        backend = make(disk.restart(), seed + 1, journal_range_bytes_max)
        await backend.open()
        for number, data in enumerate(written):
            log = await backend.open_log(f"log-{number}")
            assert log.durable_end <= len(data) <= log.end
            found = bytearray()
            while len(found) < len(data):
                found += await log.read(len(found), len(data) - len(found))
            assert found == data
        await backend.aclose()

    run_simulation(main, seed=seed)


async def flush_some(backend: MmapStorage, logs: list[Log]) -> None:
    try:
        ends = [each.end for each in await backend.flush(logs)]
    except StorageError as error:
        assert (error.kind, error.retryable) == ("too-many-files", True)
    else:
        assert ends == [log.end for log in logs]


BROKER = """
import os, resource, sys
import trio
import mqcore.broker, mqcore.client

resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
notices = []

async def main():
    keys = {"storage": f"mmap://{sys.argv[1]}", "listen": ["inproc://here"], "flush": "sync"}
    async with mqcore.broker.open_broker(**keys, report=notices.append) as broker:
        async with mqcore.client.connect(broker.urls[0]) as client:
            await client.admin.create_topic("lines", 60)
            async with client.producer("lines") as producer:
                for index in range(60):
                    await producer.send(b"first", partition=index)
                for round_number in range(20):
                    taken = []
                    try:
                        while True:
                            taken.append(os.open("/dev/null", os.O_RDONLY))
                    except OSError:
                        pass
                    async with trio.open_nursery() as nursery:
                        for index in range(60):
                            nursery.start_soon(lambda: producer.send(b"x" * 100, partition=index))
                        await trio.sleep(0.05)
                        for descriptor in taken:
                            os.close(descriptor)
        assert not broker.status()["partitions_failed"], broker.status()
        assert not [each for each in notices if each.kind == "logs-stopped"], notices

trio.run(main)
print("ok")
"""


def test_g13_a_real_broker_whose_process_ran_out_of_descriptors_goes_on(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", BROKER, str(tmp_path / "s")],
        capture_output=True, text=True, timeout=60, check=False, env=environment,
    )  # fmt: skip
    assert (done.stdout.strip(), done.returncode) == ("ok", 0), done.stderr[-3000:]
