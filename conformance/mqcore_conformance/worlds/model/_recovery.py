"""G17: recover the same crashed disk once, twice, and with a crash inside the recovery; compare the logs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import trio

from mqcore.testing import ModelDisk, seeded
from mqcore_conformance.clients import drain_when_possible, send_once
from mqcore_conformance.histories import DRAIN, Drained, Event, FetchAnswered, FetchFailed, LogRecovered, Probed
from mqcore_conformance.worlds.model._machine import ModelMachine

RECOVERY_S_MAX = 20.0
LAST_SIZES = (3_000, 700, 3_000)
LAST_S_MAX = 1.0


async def check_recovery(world: ModelMachine) -> None:
    """Crash the machine for good and recover copies of its disk."""
    rng = seeded(world.plan.seed, "recovery")
    # a power cut inside the recovery from a kill may take what only the page cache had
    power_cut = rng.random() < 0.5
    await _leave_something_to_tear(world)
    world.closing = True
    if not world.kill("power-cut" if power_cut else "process-kill"):
        return
    base = world.disk.restart()
    for way, crash_at in (("one recovery", None), ("a crash in it, then recovery", rng.randint(1, 60))):
        fork = base.fork()
        if crash_at is not None:
            fork.kill_at(fork.call_count + crash_at, power_cut=power_cut)
        await _recover(world, fork, way, crash_at)


async def _leave_something_to_tear(world: ModelMachine) -> None:
    """Send batches of many sectors to every partition. They come after the drain and are not judged."""
    before = len(world.history)
    for partition in range(world.plan.partitions):
        await send_once(world, f"last-{partition}", partition, LAST_S_MAX, LAST_SIZES, retries=False)
    del world.history[before:]


async def _recover(world: ModelMachine, disk: ModelDisk, way: str, crash_at: int | None) -> None:
    twin = world.twin(disk)
    before = disk.call_count

    def forget(why: str) -> bool:
        twin.history.clear()
        return True

    for once_more in ("", ", then once more"):
        async with trio.open_nursery() as nursery:
            twin.closing = False
            nursery.start_soon(twin.run_broker)
            with trio.move_on_after(RECOVERY_S_MAX):
                await drain_when_possible(twin, forget)
            twin.closing = True
            twin.kill("process-kill")
            nursery.cancel_scope.cancel()
        for partition, content in _content_of(twin.history).items():
            world.note(LogRecovered, group="final", way=way + once_more, partition=partition, content=content)
        twin.history.clear()
    world.witnesses["recoveries"] += 2
    world.witnesses["recovery-crashed"] += crash_at is not None and disk.call_count - before >= crash_at


def _content_of(history: Sequence[Event]) -> dict[str, str]:
    """What a drain found, by partition: messages, ends, and what was reported or served damaged."""
    hashers: dict[str, tuple[list[int], Any]] = {}
    ends: dict[str, str] = {}
    bad = 0
    for event in history:
        if isinstance(event, FetchAnswered) and event.process == DRAIN:
            count, hasher = hashers.setdefault(event.partition, ([0], hashlib.blake2b(digest_size=8)))
            for batch in event.batches:
                count[0] += len(batch.messages)
                hasher.update(repr((batch.base_offset, batch.epoch, batch.messages)).encode())
        elif isinstance(event, FetchFailed):
            _, hasher = hashers.setdefault(event.partition, ([0], hashlib.blake2b(digest_size=8)))
            hasher.update(repr((event.code, event.point, event.until)).encode())
        elif isinstance(event, Drained):
            ends[event.partition] = f"offsets {event.start_offset} to {event.end_offset}"
        bad += isinstance(event, Probed) and not event.holds
    served = f", {bad} batches served damaged" if bad else ""
    return {
        name: f"{ends.get(name, 'no end')}, {count[0]} messages ({hasher.hexdigest()}){served}"
        for name, (count, hasher) in hashers.items()
    }
