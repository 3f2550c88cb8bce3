"""What the ground below a storage means for a build: why it is refused, and what its operator should know. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm

import attrs

from mqcore.abc import Notice, StoredAt
from mqcore.guarantees import Build, Fault, Refusal, SyncReplication
from mqcore.ports import DirectoryGround

__all__ = ["GroundVerdict", "judge"]

SECTOR_BYTES = 512


@attrs.frozen
class GroundVerdict:
    """``refusals``: the build does not start. ``notices``: it starts, and this is said each time."""

    refusals: tuple[Refusal, ...] = ()
    notices: tuple[Notice, ...] = ()


def judge(build: Build, places: Sequence[tuple[StoredAt, DirectoryGround]]) -> GroundVerdict:
    """Hold ``build`` against what its directories stand on."""
    refusals = [refusal for _, ground in places for refusal in _contradiction(build, ground)]
    notices = [Notice("storage-ground", text, {"path": ground.directory})
               for _, ground in places for text in ground.warnings]  # fmt: skip
    notices += _shared(build, places)
    notices += [notice for stored, ground in places for notice in _unaligned(stored, ground)]
    return GroundVerdict(tuple(refusals), tuple(notices))


def _contradiction(build: Build, ground: DirectoryGround) -> list[Refusal]:
    """A mirror below that the configuration declares and the kernel contradicts; believed where it says nothing."""
    mirrored, why = ground.mirrored
    if not build.array_below or mirrored != "no":
        return []
    return [
        Refusal(
            name="array-is-none",
            message=f'storage.array = "mirror", but {why} (below {ground.directory})',
            remedy="repair it, or leave the key out: then replication or a mirror of mqcore has to meet `survive`",
        )
    ]


def _shared(build: Build, places: Sequence[tuple[StoredAt, DirectoryGround]]) -> list[Notice]:
    """Members of one mirror group that are lost together."""
    notices = []
    for number, (stored, ground) in enumerate(places):
        for other, other_ground in places[:number]:
            common = ground.shared_with & other_ground.shared_with
            if stored.mirror_group is None or stored.mirror_group != other.mirror_group or not common:
                continue
            text = f"{other.directory} and {stored.directory} are on one device ({', '.join(sorted(common))})"
            text += ": a mirror of them survives no loss of that device"
            if Fault.DISK_LOSS in build.survive and not isinstance(build.replication, SyncReplication):
                text += ', so survive = "disk-loss" does not hold for it'
            notices.append(Notice("storage-one-device", text, {"paths": [other.directory, stored.directory]}))
    return notices


def _unaligned(stored: StoredAt, ground: DirectoryGround) -> list[Notice]:
    """Segments that do not begin and end where the blocks and chunks of the layers below do."""
    layers = list(ground.device.layers()) if ground.device is not None else []
    units = [each.physical_block_bytes or SECTOR_BYTES for each in layers]
    units += [each.md_chunk_bytes for each in layers if each.md_chunk_bytes]
    unit = lcm(*units) if units else SECTOR_BYTES
    if not stored.segment_bytes or stored.segment_bytes % unit == 0:
        return []
    better = max(unit, stored.segment_bytes // unit * unit)
    text = (
        f"segments of {stored.directory} are of {stored.segment_bytes} bytes, blocks and chunks below of {unit}: each "
        f"ends inside of one, which is written twice; write segment_bytes={better}"
    )
    return [Notice("storage-unaligned", text, {"path": stored.directory, "unit_bytes": unit, "better_bytes": better})]
