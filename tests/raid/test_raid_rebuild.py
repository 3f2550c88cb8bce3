"""Replacing and rebuilding a member while the array serves: it counts when all of it is there, flushed and recorded."""

from __future__ import annotations

import pytest
import trio
from array_parts import Bench, put, read_all, states

from mqcore.errors import CommandNotPossibleError, ConfigurationError, MqcoreError
from mqcore.guarantees import Level
from mqcore_raid import _behind, _rebuild

CONTENT = bytes(range(256)) * 40


async def rebuilt(storage, slot: int = 1) -> None:
    with trio.fail_after(600):
        while states(storage)[slot] == "rebuilding":  # noqa: ASYNC110 - what an operator does
            await trio.sleep(0.05)


async def degraded(bench: Bench, storage, lost: str = "/b") -> None:
    """An array with three logs, one of them trimmed, that has lost a member."""
    log = await put(storage, CONTENT, "first")
    await put(storage, b"x" * 50_000, "second")
    await log.truncate(9000)
    for number in range(10):
        log = await put(storage, bytes([number]) * 4000, "trimmed")
    assert await log.trim(20_000) > 0
    bench.disk.fail_next_flush(path=f"{lost}/storage/*")
    await put(storage, b"after", "first")
    assert "ejected" in states(storage)


async def contents(storage) -> dict[str, tuple[int, bytes]]:
    found = {}
    for name in await storage.list_logs():
        log = await storage.open_log(name)
        found[name] = log.start, await read_all(log)
    return found


@pytest.mark.parametrize(("operation", "path"), [("replace", "/c"), ("rebuild", "/b")])
def test_g01_a_rebuilt_member_alone_has_everything(operation, path):
    bench = Bench()

    async def main():
        async with bench.opened() as storage:
            await degraded(bench, storage)
            await storage.operate(operation, {"member": "/b", "path": path})
            log = await put(storage, b"meanwhile", "first")
            new = await put(storage, b"new log", "fourth")
            assert log.level is new.level is Level.DISK, "counts before it is whole"
            await rebuilt(storage)
            assert states(storage) == ["in-sync", "in-sync"]
            assert log.level is Level.MIRROR
            await put(storage, b"then", "second")
            wanted = await contents(storage)
            assert wanted["first"][1].endswith(b"aftermeanwhile")
        bench.members = ["/a", path]
        bench.take_away("/a")
        async with bench.opened() as storage:
            found = await contents(storage)
            assert {name: each[1][-9000:] for name, each in found.items()} == {
                name: each[1][-9000:] for name, each in wanted.items()
            }
            assert all(found[name][0] >= start for name, (start, _) in wanted.items())

    bench.run(main)


def test_appends_truncations_and_deletions_go_on_while_a_member_is_rebuilt():
    bench = Bench()

    async def main():
        async with bench.opened() as storage:
            await degraded(bench, storage)
            await storage.operate("rebuild", {"member": "1", "rate_bytes": 100_000})
            logs = {name: await storage.open_log(name) for name in ("first", "second", "trimmed")}
            for number in range(30):
                await logs["first"].append([b"%d," % number * 200])
                if number == 5:
                    await logs["second"].truncate(30_000)
                if number == 10:
                    await storage.delete_log("trimmed")
                    await put(storage, b"again", "trimmed")
                if number % 7 == 0:
                    await storage.flush([logs["first"], logs["second"]])
                await trio.sleep(0.05)
            await rebuilt(storage)
            assert states(storage) == ["in-sync", "in-sync"]
            wanted = await contents(storage)
        bench.take_away("/a")
        async with bench.opened() as storage:
            assert await contents(storage) == wanted

    bench.run(main)


def test_the_rate_limit_holds():
    bench = Bench()

    async def main():
        async with bench.opened() as storage:
            await put(storage, b"x" * 3_000_000)
            bench.disk.fail_next_flush(path="/b/storage/*")
            await put(storage, b"y")
            began = trio.current_time()
            await storage.operate("rebuild", {"member": "1", "rate_bytes": 1_000_000})
            await rebuilt(storage)
            assert 2.5 < trio.current_time() - began < 4

    bench.run(main)


def test_a_member_that_fails_while_it_is_rebuilt_is_out_and_takes_nothing_with_it():
    bench = Bench()

    async def main():
        async with bench.opened() as storage:
            await degraded(bench, storage)
            bench.disk.fail_next("pwritev", path="/c/storage/segments/*", after=8)
            await storage.operate("replace", {"member": "1", "path": "/c"})
            log = await put(storage, b"goes on", "first")
            await rebuilt(storage)
            assert states(storage) == ["in-sync", "ejected"]
            assert (await read_all(log)).endswith(b"aftergoes on")
            await storage.operate("rebuild", {"member": "1"})
            await rebuilt(storage)
            assert states(storage) == ["in-sync", "in-sync"]

    bench.run(main)


def test_an_ejected_member_is_the_operators_to_eject_and_the_last_one_is_not():
    bench = Bench()

    async def main():
        async with bench.opened() as storage:
            await put(storage, b"x")
            await storage.operate("eject", {"member": "/b"})
            assert states(storage) == ["in-sync", "ejected"]
            with pytest.raises(CommandNotPossibleError, match="ejected already"):
                await storage.operate("eject", {"member": "/b"})
            with pytest.raises(CommandNotPossibleError, match="last member"):
                await storage.operate("eject", {"member": "/a"})

    bench.run(main)


@pytest.mark.parametrize(
    ("operation", "arguments", "words"),
    [
        ("replace", {"member": "/a", "path": "/c"}, "in sync; .*eject it first"),
        ("replace", {"member": "/x", "path": "/c"}, "no member '/x'; the array has 0 .* 1 "),
        ("replace", {"member": "1", "path": "/a/inner"}, "another member"),
        ("replace", {"member": "1", "path": "c"}, "not an absolute path"),
        ("rebuild", {"member": "1", "rate_bytes": 0}, "rate_bytes = 0"),
        ("defragment", {"member": "1"}, "no operation 'defragment'"),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(operation, arguments, words):
    bench = Bench()

    async def main():
        async with bench.opened() as storage:
            await degraded(bench, storage)
            before = storage.facts()
            with pytest.raises((CommandNotPossibleError, ConfigurationError), match=words):
                await storage.operate(operation, arguments)
            assert storage.facts() == before

    bench.run(main)


def test_a_url_that_names_the_replaced_member_is_refused_with_the_new_place():
    bench = Bench()

    async def main():
        async with bench.opened() as storage:
            await degraded(bench, storage)
            await storage.operate("replace", {"member": "1", "path": "/c"})
            await rebuilt(storage)
        with pytest.raises(ConfigurationError, match=r"member 1 .* is at /c.*in the place of /b"):
            async with bench.opened():
                pass
        bench.members = ["/a", "/c"]
        async with bench.opened() as storage:
            assert states(storage) == ["in-sync", "in-sync"]

    bench.run(main)


@pytest.mark.parametrize("pieces", [False, True], ids=["at once", "in pieces"])
@pytest.mark.parametrize("power", [True, False], ids=["power-cut", "kill"])
def test_g17_a_crash_at_any_call_of_a_rebuild_goes_on_and_takes_nothing(power, pieces, monkeypatch):
    if pieces:  # one is read while another is written and those before are flushed
        monkeypatch.setattr(_rebuild, "COPY_BYTES", 4096)
        monkeypatch.setattr(_rebuild, "PIECE_BYTES", 1024)
        monkeypatch.setattr(_rebuild, "LOOK_BYTES", 1024)
        monkeypatch.setattr(_behind, "FLUSH_BYTES", 8192)

    async def work(bench, told):
        async with bench.opened() as storage:
            await degraded(bench, storage)
            told["first"] = await read_all(await storage.open_log("first"))
            told["began"] = bench.disk.call_count
            await storage.operate("rebuild", {"member": "1"})
            log = await put(storage, b"meanwhile", "first")
            told["first"] = await read_all(log)
            await rebuilt(storage)
            log = await put(storage, b"then", "first")
            told["first"] = await read_all(log)
            told["level"] = log.level

    async def goes_on(bench, told):
        async with bench.opened() as storage:
            log = await storage.open_log("first")
            assert await read_all(log, len(told["first"])) == told["first"]
            await log.truncate(len(told["first"]))
            await storage.flush([log])
            await rebuilt(storage)
            if states(storage)[1] != "in-sync":
                await storage.operate("rebuild", {"member": "1"})
                await rebuilt(storage)
            assert states(storage) == ["in-sync", "in-sync"]
        bench.take_away("/a")
        async with bench.opened() as storage:
            log = await storage.open_log("first")
            assert await read_all(log) == told["first"]

    whole, told = Bench(seed=1), {}
    whole.run(work, whole, told)
    for number in range(told["began"] + 1, whole.disk.call_count, 9):
        bench, told = Bench(seed=1), {}
        bench.disk.kill_at(number, power_cut=power)

        async def main(bench=bench, told=told):
            try:
                await work(bench, told)
            except (MqcoreError, OSError):
                assert not bench.disk.alive

        bench.run(main)
        bench.crash(power=power)
        try:
            bench.run(goes_on, bench, told)
        except AssertionError as error:
            raise AssertionError(f"call {number}: {error}") from error


def test_g13_a_member_of_a_log_that_is_never_quiet_is_rebuilt_all_the_same():
    bench, length = Bench(), 0

    async def main():
        nonlocal length
        async with bench.opened() as storage:
            log = await put(storage, b"x" * 20_000)
            await storage.operate("eject", {"member": "/a"})
            await storage.operate("rebuild", {"member": "/a"})
            appends = 0
            while states(storage)[0] != "in-sync":  # the next append begins where the last one ends
                await log.append([b"y" * 500])
                appends += 1
                assert appends < 1000
            await storage.flush([log])
            length = log.end
        bench.take_away("/b")
        async with bench.opened() as storage:
            assert await read_all(await storage.open_log("log")) == b"x" * 20_000 + b"y" * (length - 20_000)

    bench.run(main)


def test_a_member_that_hangs_at_the_end_of_its_rebuild_holds_appends_up_for_its_time_only():
    bench = Bench(options="level=1&member_timeout_ms=2000")

    async def main():
        async with bench.opened() as storage:
            log = await put(storage, b"x" * 20_000)
            await storage.operate("eject", {"member": "/a"})
            await storage.operate("rebuild", {"member": "/a"})
            bench.disk.stall_next("pwritev", 60, path="/a/storage/segments/*")
            await trio.sleep(0.5)
            began = trio.current_time()
            await log.append([b"y"])
            assert trio.current_time() - began < 3
            await storage.flush([log])
            assert states(storage)[0] == "ejected"

    bench.run(main)


def test_of_two_orders_for_one_member_at_a_time_the_second_is_refused():
    bench = Bench()

    async def main():
        async with bench.opened() as storage:
            await put(storage, b"x" * 20_000)
            await storage.operate("eject", {"member": "/b"})
            refused = []

            async def replace(path: str) -> None:
                try:
                    await storage.operate("replace", {"member": "1", "path": path})
                except CommandNotPossibleError as error:
                    refused.append(str(error))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(replace, "/c")
                nursery.start_soon(replace, "/d")
            await trio.sleep(5)
            assert len(refused) == 1
            assert "is being rebuilt already" in refused[0]
            assert states(storage) == ["in-sync", "in-sync"]

    bench.run(main)


def test_a_member_that_hangs_in_the_middle_of_its_rebuild_holds_no_removal_up_and_no_close():
    bench = Bench(options="level=1&member_timeout_ms=2000")

    async def main():
        async with bench.opened() as storage:
            log = await put(storage, b"x" * 3_000_000)
            await storage.operate("eject", {"member": "/a"})
            await storage.operate("rebuild", {"member": "/a", "rate_bytes": 1_000_000})
            bench.disk.stall_next("pwritev", 5000, path="/a/storage/segments/*")
            await trio.sleep(0.5)
            began = trio.current_time()
            await log.truncate(1000)
            assert states(storage) == ["ejected", "in-sync"]
        assert trio.current_time() - began < 10

    bench.run(main)


def test_g13_a_disk_that_takes_long_to_flush_what_was_copied_holds_no_acknowledgement_up():
    bench = Bench(options="level=1&member_timeout_ms=2000")

    async def main():
        async with bench.opened() as storage:
            log = await put(storage, b"x" * 20_000)
            await storage.operate("eject", {"member": "/a"})
            group, copied = storage._groups[0], trio.Event()
            flush = group.flush_joined

            async def flush_joined(member):
                group.flush_joined = flush
                bench.disk.stall_next("flush", 30, path="/a/storage/segments/*")
                copied.set()
                await flush(member)

            group.flush_joined = flush_joined
            await storage.operate("rebuild", {"member": "/a"})
            await copied.wait()
            began = trio.current_time()
            await log.append([b"y"])
            await storage.flush([log])
            assert trio.current_time() - began < 1
            await trio.sleep(60)
            assert states(storage) == ["in-sync", "in-sync"]

    bench.run(main)
