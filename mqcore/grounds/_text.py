"""What ``mqcore explain`` prints of the ground: on what a promise relies; array or replicas, compared for the build."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from mqcore.abc import StoredAt
from mqcore.guarantees import (
    Build,
    Fault,
    Level,
    NoReplication,
    Promise,
    SyncReplication,
    promise_table,
)
from mqcore.ports import DirectoryGround

__all__ = ["ground_lines"]

DISK_COPIES = SyncReplication(copies=2, level=Level.DISK)


def ground_lines(build: Build, places: Sequence[tuple[StoredAt, DirectoryGround]]) -> list[str]:
    """Notes: what the directories stand on, what the loss of a disk is met by, and the ways to meet it compared."""
    if build.flush_level < Level.DISK:
        return []
    notes = [_below(ground) for _, ground in places]
    return [*notes, _relies_on(build), *_comparison(build)]


def _below(ground: DirectoryGround) -> str:
    device = ground.device
    what = f"{ground.directory} is on {ground.file_system or 'an unknown file system'}"
    if device is not None:
        kinds = {True: "rotating", False: "solid state", None: ""}
        facts = [f"{each.name} ({', '.join(filter(None, [each.md_level, kinds[each.rotational], each.write_cache]))})"
                 for each in device.layers()]  # fmt: skip
        what += f", on {' over '.join(facts)}".replace(" ()", "")
    word, why = ground.mirrored
    told = {"yes": "mirrored below", "no": "not mirrored below", "unknown": "no mirror below is known"}
    return f"{what}: {told[word]}, {why}."


def _relies_on(build: Build) -> str:
    """Name what meets the loss of a disk: array, array below, replication, or nothing."""
    means = []
    if build.flush_level is Level.MIRROR:
        means.append("the array of this storage (level mirror)")
    if build.array_below:
        means.append('an array below, which storage.array = "mirror" declares')
    if isinstance(build.replication, SyncReplication):
        means.append(f"synchronous replication to {build.replication.copies} nodes")
    loss = promise_table(build).promise(Fault.DISK_LOSS)
    if not means:
        return "The loss of a disk is met by nothing here: no array, none below that was declared, no replication."
    return f"The loss of a disk ({loss.text}) is met by {' and by '.join(means)}."


def _comparison(build: Build) -> list[str]:
    """The sources' three ways, for the flush policy of this build: computed, like every promise."""
    bare = attrs.evolve(build, topics=(), survive=(), array_below=False, coordinator=False, failover="manual")
    alone = attrs.evolve(bare, flush_level=Level.MIRROR, replication=NoReplication(), nodes=1)
    spread = attrs.evolve(bare, flush_level=Level.DISK, replication=DISK_COPIES, nodes=2)
    both = attrs.evolve(spread, flush_level=Level.MIRROR)
    ways = (
        ("array only", alone, "unread while the host is down", "every byte written twice on one host"),
        ("replicas only", spread, "read after a failover", "a second host, a round trip per acknowledgement"),
        ("array plus one replica", both, "read after a failover", "both; but a lost disk is no failover"),
    )
    lines = ["Array or replicas, under this flush policy (`mqcore bench raid` measures what each costs here):"]
    for name, way, when_down, cost in ways:
        table = promise_table(way)
        disk_loss, host_loss = table.promise(Fault.DISK_LOSS), table.promise(Fault.HOST_LOSS)
        lines.append(
            f"- {name}: a lost disk takes {_takes(disk_loss)}, a lost host {_takes(host_loss)}; {when_down}; it costs "
            f"{cost}."
        )
    lines.append("Advised for what must not be lost nor stand still: an array plus one replica.")
    return lines


def _takes(promise: Promise) -> str:
    return promise.text.replace("nothing lost", "nothing")
