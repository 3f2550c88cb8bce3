"""A full disk that is real: by a limit on the size of files, and on a small tmpfs where mounting is allowed.

What has no room is rejected before it is stored, reads go on, and it is over when there is room again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BROKER = """
import os, resource, sys
import trio
import mqcore.broker, mqcore.client
from mqcore.errors import RejectedError

root, how, flush = sys.argv[1:]
FILE_BYTES_MAX = 600_000
notices = []

async def main():
    keys = {"storage": f"mmap://{root}?segment_bytes=4MiB&extent_bytes_max=64KiB", "listen": ["inproc://here"]}
    async with mqcore.broker.open_broker(**keys, flush=flush, report=notices.append) as broker:
        async with mqcore.client.connect(broker.urls[0]) as client:
            await client.admin.create_topic("lines")
            sent = []
            if how == "limit":
                resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, resource.RLIM_INFINITY))
            async with client.producer("lines", delivery_timeout_ms=800) as producer:
                try:
                    for number in range(10_000):
                        await producer.send(b"%d " % number + b"x" * 20_000)
                        sent.append(number)
                except RejectedError as error:
                    print("rejected:", error.name)
            assert 5 < len(sent) < 1000, len(sent)
            assert await read(client, len(sent)) == sent
            if how == "limit":
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            else:
                os.unlink(root + "/../ballast")
            async with client.producer("lines") as producer:
                await producer.send(b"-1 after")
            sent.append(-1)
            assert await read(client, len(sent)) == sent
    assert not [each for each in notices if each.kind == "logs-stopped"], notices
    async with mqcore.broker.open_broker(**keys, flush=flush) as broker:
        async with mqcore.client.connect(broker.urls[0]) as client:
            assert await read(client, len(sent)) == sent
    print("ok")

async def read(client, count):
    found = []
    with trio.fail_after(10):
        async with client.consumer("lines", start="start") as consumer:
            while len(found) < count:
                message = await anext(consumer)
                found.append(int(bytes(message.value).split()[0]))
    return found

trio.run(main)
"""


def run(root: Path, how: str, flush: str) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", BROKER, str(root), how, flush],
        capture_output=True, text=True, timeout=60, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr[-3000:])
    return done.stdout.splitlines()


@pytest.mark.parametrize("flush", ["sync", "none"])
def test_files_that_may_not_grow_reject_before_anything_is_stored(tmp_path: Path, flush: str) -> None:
    assert run(tmp_path / "s", "limit", flush) == ["rejected: storage-full", "ok"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_real_disk_that_is_full_rejects_before_anything_is_stored(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(1 << 20))
    assert run(small_disk / "s", "disk", "sync") == ["rejected: storage-full", "ok"]
