"""Bits that rot on one copy: another is served, the bad one is put right, and it is reported (G12, G01)."""

from __future__ import annotations

from contextlib import suppress

import pytest
from array_parts import Bench

import mqcore
from mqcore.errors import StorageError
from mqcore.testing import model_ports, run_beside_broker


def messages(count: int) -> list[bytes]:
    return [b"message %05d " % number * 30 for number in range(count)]


def settings(bench: Bench, seed: int = 1) -> dict:
    return {
        "storage": bench.url,
        "ports": model_ports(seed, bench.disk),
        "topics": {"lines": {"partitions": 1}},
        "flush": "sync",
        "report": bench.notices.append,
    }


async def publish(broker, wanted) -> None:
    async with mqcore.connect(broker.urls[0]) as client, client.producer("lines", batch_messages=5) as producer:
        for value in wanted:
            await producer.send(value)


async def read_back(broker, count: int) -> list[bytes]:
    found = []
    async with mqcore.connect(broker.urls[0]) as client, client.consumer("lines", start="start") as consumer:
        async for message in consumer:
            found.append(message.value)
            if len(found) == count:
                break
    return found


async def read_on(client, found: list[bytes]) -> None:
    async with client.consumer("lines", start="start") as consumer:
        async for message in consumer:
            found.append(message.value)


def rot(bench: Bench, member: str, mark: bytes) -> str:
    """Flip a bit of ``mark`` where a member stores it."""
    for path in bench.disk.paths():
        if path.startswith(f"{member}/storage/segments/"):
            at = bench.disk.content(path, durable=True).find(mark)
            if at >= 0:
                bench.disk.rot(path, at + 3)
                return path
    raise AssertionError(f"{member} does not hold {mark!r}")


@pytest.mark.parametrize("options", ["level=1", "level=10&stripe_bytes=4096"])
@pytest.mark.parametrize("side", [0, 1])
def test_g12_a_reader_gets_the_good_copy_and_the_bad_one_is_mended(options, side):
    bench = Bench("ab" if options == "level=1" else "abcd", options=options)
    wanted = messages(60)

    async def main(broker):
        await publish(broker, wanted)
        for number in (7, 20, 33):
            for group in range(len(bench.members) // 2):
                try:
                    rot(bench, bench.members[2 * group + side], wanted[number])
                except AssertionError:
                    continue
        assert await read_back(broker, 60) == wanted

    run_beside_broker(main, **settings(bench))
    assert bench.disk.witnesses["rot"] >= 2
    if side == 0:
        assert "raid-copy-mended" in bench.kinds()
    assert "log-damaged" not in bench.kinds()


@pytest.mark.parametrize("side", ["/a", "/b"])
def test_g01_rot_in_the_last_flush_before_a_crash_is_mended_from_the_other_copy(side):
    bench = Bench()
    wanted = messages(20)

    async def first(broker):
        await publish(broker, wanted)
        bench.disk.power_cut()

    async def second(broker):
        assert await read_back(broker, 20) == wanted

    with pytest.raises((mqcore.MqcoreError, OSError, ExceptionGroup)):
        run_beside_broker(first, **settings(bench))
    bench.disk = bench.disk.restart()
    rot(bench, side, wanted[-1])
    run_beside_broker(second, **settings(bench, 2))
    assert "log-torn" not in bench.kinds()


def test_g12_rot_on_every_copy_is_reported_and_never_served():
    bench = Bench()
    wanted = messages(20)

    async def main(broker):
        await publish(broker, wanted)
        for member in bench.members:
            rot(bench, member, wanted[7])
        async with mqcore.connect(broker.urls[0]) as client:
            found = []
            with pytest.raises(mqcore.MqcoreError):
                await read_on(client, found)
            assert found == wanted[: len(found)]
            assert len(found) <= 7

    run_beside_broker(main, **settings(bench))
    assert "log-damaged" in bench.kinds()


@pytest.mark.parametrize("options", ["level=1", "level=10&stripe_bytes=4096"])
def test_what_is_written_over_is_written_on_every_copy_and_lasts(options):
    bench = Bench("ab" if options == "level=1" else "abcd", options=options)
    data = bytes(range(256)) * 64
    good = data[3000:6000]

    async def write():
        async with bench.opened() as storage:
            log = await storage.open_log("x-0")
            for at in range(0, len(data), 1024):
                await log.append([data[at : at + 1024]])
            await storage.flush([log])
            await log.overwrite(3000, b"\xff" * 3000)  # rot, on every copy
            assert await read_whole(log) != data
            await log.overwrite(3000, good)
            for first, size in ((len(data) - 1, 2), (len(data), 1)):
                with pytest.raises(ValueError, match="durably"):
                    await log.overwrite(first, bytes(size))

    async def read(array: Bench, lost: str):
        async with array.opened() as storage:
            log = await storage.open_log("x-0")
            assert await read_whole(log) == data, f"without {lost}"

    bench.run(write)
    bench.crash()
    for number, member in enumerate(bench.members):
        if number % 2:
            alone = bench.fork()
            alone.take_away(member)
            alone.run(read, alone, member)
    bench.run(read, bench, "nothing")


def test_what_no_copy_takes_is_not_said_to_be_written():
    bench = Bench()

    async def main():
        storage = bench.create()
        await storage.open()
        log = await storage.open_log("x-0")
        await log.append([bytes(2000)])
        await storage.flush([log])
        bench.disk.fail_next("pwritev", times=len(bench.members))
        with pytest.raises(StorageError, match="cannot mend log x-0 on any member"):
            await log.overwrite(500, b"\xff" * 100)
        with suppress(mqcore.MqcoreError):  # the log of the member that is left has stopped
            await storage.aclose()

    bench.run(main)


async def read_whole(log) -> bytes:
    parts, at = [], log.start
    while at < log.end:
        parts.append(bytes(await log.read(at, log.end - at)))
        at += len(parts[-1])
    return b"".join(parts)
