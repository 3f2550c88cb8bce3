"""An operator's orders cut off at any call: eject, replace, and an opening without a member (G01, G17).

``rebuild`` stands in ``test_raid_rebuild``, ejections by the array itself in ``test_raid_crashes``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from array_parts import Bench, put, read_all, states

from mqcore.errors import ConfigurationError, MqcoreError

Work = Callable[[Bench, dict[str, int]], Awaitable[None]]
STRIDE = 7


async def eject(bench: Bench, told: dict[str, int]) -> None:
    async with bench.opened() as storage:
        await put(storage, b"x" * 3000)
        told["began"] = bench.disk.call_count
        await storage.operate("eject", {"member": "/b"})
        log = await put(storage, b"y" * 2000)
        told["held"] = log.end


async def replace(bench: Bench, told: dict[str, int]) -> None:
    async with bench.opened() as storage:
        await put(storage, b"x" * 3000)
        await storage.operate("eject", {"member": "/b"})
        told["held"] = (await put(storage, b"y" * 2000)).end
        told["began"] = bench.disk.call_count
        await storage.operate("replace", {"member": "/b", "path": "/c"})
        told["held"] = (await put(storage, b"z" * 1000)).end


async def open_without_a_member(bench: Bench, told: dict[str, int]) -> None:
    async with bench.opened() as storage:
        told["held"] = (await put(storage, b"x" * 3000)).end
    told["began"] = bench.disk.call_count
    bench.take_away("/b")
    async with bench.opened() as storage:
        told["held"] = (await put(storage, b"y" * 2000)).end


async def check(bench: Bench, held: int) -> None:
    """Open it by the URL that is right now, find what is acknowledged, and bring it to two members again."""
    try:
        storage = bench.create()
        await storage.open()
    except ConfigurationError:  # the record says that the new directory is the member, and where to write it
        bench.members = ["/a", "/c"]
        storage = bench.create()
        await storage.open()
    try:
        log = await storage.open_log("log")
        wanted = (b"x" * 3000 + b"y" * 2000 + b"z" * 1000)[:held]
        assert log.end >= held, f"the log ends at {log.end}, {held} was acknowledged"
        assert await read_all(log, held) == wanted
        assert states(storage)[0] == "in-sync"
        await log.truncate(held)
        await log.append([b"later"])
        await storage.flush([log])
    finally:
        await storage.aclose()


@pytest.mark.parametrize("power", [True, False], ids=["power-cut", "kill"])
@pytest.mark.parametrize("work", [eject, replace, open_without_a_member])
def test_g01_an_order_that_is_cut_off_at_any_call_leaves_an_array_that_opens_with_everything(work, power):
    whole, told = Bench(seed=3), {}
    whole.run(work, whole, told)
    last = whole.disk.call_count
    assert last > told["began"]
    for number in range(told["began"] + 1, last, STRIDE):
        bench, told = Bench(seed=3), {"held": 0}
        bench.disk.kill_at(number, power_cut=power)

        async def main(bench=bench, told=told):
            try:
                await work(bench, told)
            except (MqcoreError, OSError):
                assert not bench.disk.alive

        bench.run(main)
        bench.crash(power=power)
        held = max(told["held"], 3000) if work is not open_without_a_member else told["held"]
        try:
            bench.run(check, bench, held)
        except (AssertionError, MqcoreError) as error:
            raise AssertionError(f"call {number}: {error}") from error
