"""Section 7: a segment that an outsider cuts off while its log is read is an error of that read, never a signal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMON = """
import os, sys, time
import trio
import mqcore.broker, mqcore.client
from mqcore.errors import MqcoreError, StorageError

root, how = sys.argv[1:]

def cut():
    for name in os.listdir(root + "/segments"):
        if "-0@" in name and name.startswith(first):
            os.truncate(root + "/segments/" + name, 8192)
"""

READ = """
from mqcore.abc import StorageContext
from mqcore.ports import system_ports
from mqcore.registry import create_storage
from crc32c import crc32c

first = "a"

async def main():
    backend = create_storage("mmap://" + root + "?segment_bytes=32MiB", StorageContext(ports=system_ports()))
    await backend.open()
    log = await backend.open_log("a-0")
    await log.append([bytes(1 << 20) for _ in range(4)])
    await backend.flush([log])
    if how == "cold":
        await backend.aclose()
        await backend.open()
        log = await backend.open_log("a-0")
    found = []

    async def read():
        try:
            view = await log.read(1 << 20, 1 << 20)
            found.append(crc32c(view))
        except StorageError as error:
            found.append(error.kind)

    async def somebody_else():
        time.sleep(0.2)  # the reading thread gets its pages; this one lets nobody run before the file is cut
        cut()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.sleep(0)
        nursery.start_soon(somebody_else)
    assert found == ["io"] or isinstance(found[0], int), found
    try:
        await log.read(1 << 20, 1 << 20)
    except StorageError as error:
        print("ok", error.kind)

trio.run(main)
"""

SEND = """
async def main():
    global first
    keys = {"storage": f"mmap://{root}?segment_bytes=64MiB", "listen": ["tcp://127.0.0.1:0"], "flush": "sync"}
    async with mqcore.broker.open_broker(**keys) as broker:
        async with mqcore.client.connect(broker.urls[0]) as client:
            first = (await client.admin.create_topic("first")).id
            await client.admin.create_topic("second")
            async with client.producer("first") as producer:
                for _ in range(6):
                    await producer.send_many([b"x" * 100_000] * 80)
            async with client.producer("second") as producer:
                await producer.send(b"safe")
            async with mqcore.client.connect(broker.urls[0]) as slow:
                async with slow.consumer("first", start="start"):
                    await trio.sleep(0.3)  # replies of several MB are under way, and nobody takes them
                    cut()
                    await trio.sleep(0.3)
            try:
                with trio.move_on_after(3):
                    async with client.consumer("first", start="start") as consumer:
                        async for _ in consumer:
                            pass
            except MqcoreError as error:
                print("told:", type(error).__name__)
            async with client.consumer("second", start="start") as consumer:
                async for message in consumer:
                    print("ok", message.value.decode())
                    break

trio.run(main)
"""


def run(body: str, root: Path, how: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", COMMON + body, str(root), how],
        capture_output=True, text=True, timeout=60, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr[-3000:])
    return done.stdout


@pytest.mark.parametrize("how", ["recent", "cold"])
def test_a_read_that_meets_a_file_cut_while_it_waited_is_refused(tmp_path: Path, how: str) -> None:
    assert run(READ, tmp_path / "s", how).split() == ["ok", "io"]


def test_a_broker_whose_replies_show_a_file_that_is_cut_serves_others(tmp_path: Path) -> None:
    printed = run(SEND, tmp_path / "s", "send")
    assert printed.splitlines()[-1] == "ok safe"
    assert "told:" in printed
