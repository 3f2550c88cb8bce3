"""A member that hangs or cannot be used at a start: the others open without it, after its time and no later."""

from __future__ import annotations

import subprocess

import pytest
import trio
from array_parts import Bench, put, read_all, states
from test_raid_real_directories import array, tmpfs

from mqcore.testing import DiskCall

CALLS = ("stat", "list", "open", "lock", "pread", "pwritev", "flush")


@pytest.mark.parametrize("state", ["in-sync", "rebuilding"])
@pytest.mark.parametrize("call", CALLS)
def test_g13_a_member_that_hangs_at_any_call_of_a_start_holds_it_up_for_its_time(call, state):
    bench = Bench(options="level=1&member_timeout_ms=2000")

    async def main():
        async with bench.opened() as storage:
            await put(storage, b"x" * 200_000)
            if state == "rebuilding":
                await storage.operate("eject", {"member": "/b"})
                await storage.operate("rebuild", {"member": "/b", "rate_bytes": 10_000})
                await trio.sleep(3)
        bench.disk.stall_next(call, 5000, path="/b*")
        began = trio.current_time()
        async with bench.opened() as storage:
            await put(storage, b"y")
            assert states(storage)[0] == "in-sync"
        assert trio.current_time() - began < 20

    bench.run(main)


def test_the_status_does_not_wait_for_a_member_that_hangs_and_asks_it_once():
    bench = Bench(options="level=1&member_timeout_ms=2000")
    asked = 0

    def on_call(call: DiskCall) -> None:
        nonlocal asked
        asked += call.operation == "stat" and call.path == "/b"

    async def main():
        async with bench.opened() as storage:
            await put(storage, b"x")
            bench.disk.on_call = on_call
            bench.disk.stall_next("stat", 100, path="/b")
            began = trio.current_time()
            for _ in range(5):
                await storage.operate("status", {})
            assert trio.current_time() - began < 5
            assert states(storage) == ["in-sync", "in-sync"], "how it is, the next flush says"
            await trio.sleep(60)
            assert asked == 1
            await trio.sleep(60)
            assert asked > 1

    bench.run(main)


@pytest.mark.parametrize("call", ["stat", "lock"])
def test_a_member_that_hangs_while_an_array_is_refused_does_not_hold_the_refusal_up(call):
    bench = Bench(options="level=1&member_timeout_ms=2000&min_members=2")

    async def main():
        async with bench.opened() as storage:
            await put(storage, b"x")
        bench.disk.stall_next(call, 5000, path="/b*")
        began = trio.current_time()
        with pytest.raises(Exception, match=r"min_members is 2 \(/b is missing: it cannot be read \(it "):
            async with bench.opened():
                pass
        assert trio.current_time() - began < 20

    bench.run(main)


@pytest.mark.needs("root", "linux")
def test_an_array_opens_without_a_member_that_cannot_be_locked_and_names_it(tmp_path):
    async def before() -> None:
        async with array(tmp_path) as storage:
            await put(storage, b"x" * 3000)

    async def after() -> None:
        async with array(tmp_path) as storage:
            (_, member) = storage.facts()["members"]
            assert (member["state"], member["path"]) == ("missing", f"{tmp_path}/b")
            assert "Read-only file system" in member["reason"]
            assert await read_all(await put(storage, b"y")) == b"x" * 3000 + b"y"

    with tmpfs(tmp_path / "b", "8m"):
        trio.run(before)
        subprocess.run(["mount", "-o", "remount,ro", tmp_path / "b"], check=True, timeout=120)
        trio.run(after)
