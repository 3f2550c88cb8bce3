"""The layers below a directory, as values: file system, block devices, arrays; and what they say of copies. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal

import attrs

__all__ = ["MEMORY", "NETWORK", "BlockDevice", "DirectoryGround", "Mirrored"]

MEMORY = frozenset({"tmpfs", "ramfs"})
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "fuse.sshfs", "9p", "glusterfs"})
REDUNDANT_MD = frozenset({"raid1", "raid10", "raid4", "raid5", "raid6"})
REDUNDANT_BTRFS = frozenset({"raid1", "raid1c3", "raid1c4", "raid10", "raid5", "raid6"})

Mirrored = Literal["yes", "no", "unknown"]
"""Whether one disk below may be lost. ``unknown``: a controller or a cloud's volume may mirror and shows one disk."""


@attrs.frozen(kw_only=True)
class BlockDevice:
    """One block device; what the kernel does not say is None. ``below``: the devices that it is made of.

    ``write_cache``: ``write back`` has a cache that loses its content without power unless flushed. ``loop_file``: what
    a loop device shows.
    """

    name: str
    rotational: bool | None = None
    write_cache: str | None = None
    physical_block_bytes: int | None = None
    dm_name: str | None = None
    md_level: str | None = None
    md_chunk_bytes: int | None = None
    md_degraded: int | None = None
    md_mismatches: int | None = None
    loop_file: str | None = None
    below: tuple[BlockDevice, ...] = ()

    def layers(self) -> Iterator[BlockDevice]:
        """This device and all below it."""
        yield self
        for each in self.below:
            yield from each.layers()

    def disks(self) -> frozenset[str]:
        """Names of the lowest devices: what can be lost at once."""
        return frozenset(each.name for each in self.layers() if not each.below)

    @property
    def shared_by_legs(self) -> frozenset[str]:
        """Disks that more than one of the devices just below is on."""
        seen = Counter(name for each in self.below for name in each.disks())
        return frozenset(name for name, times in seen.items() if times > 1)

    @property
    def mirrored(self) -> tuple[Mirrored, str]:
        """Whether one disk may be lost, and why."""
        if self.md_level in REDUNDANT_MD and self.shared_by_legs:
            return (
                "no",
                f"{self.name} ({self.md_level}) has two of its copies on {', '.join(sorted(self.shared_by_legs))}",
            )
        if self.md_level in REDUNDANT_MD:
            if self.md_degraded:
                return "no", f"the array {self.name} ({self.md_level}) is degraded by {self.md_degraded}"
            return "yes", f"the array {self.name} is {self.md_level}"
        # Named so by lvmraid(7).
        if self.dm_name and any("_rimage_" in (each.dm_name or "") or "_mimage_" in (each.dm_name or "")
                                for each in self.below):  # fmt: skip
            return "yes", f"the logical volume {self.dm_name} is made of the images of a raid volume"
        if not self.below:
            return "unknown", f"{self.name} is one disk, as far as the kernel sees"
        answers = [each.mirrored for each in self.below]
        bad = next((why for word, why in answers if word == "no"), "")
        if bad:
            return "no", bad
        if len(self.below) > 1 and self.md_level is not None:
            return "no", f"the array {self.name} is {self.md_level}: it is lost with any one of its disks"
        return answers[0] if len({word for word, _ in answers}) == 1 else ("unknown", f"{self.name} is made of several")


@attrs.frozen(kw_only=True)
class DirectoryGround:
    """What a directory stands on. ``device_number``: of its file system, as ``stat`` has it.

    ``data_profiles``: how btrfs spreads file contents (``raid1``, ``single``); ``missing_devices`` of it.
    """

    directory: str
    mount_point: str
    file_system: str
    source: str
    options: str
    device: BlockDevice | None
    device_number: tuple[int, int]
    data_profiles: tuple[str, ...] = ()
    devices: int = 0
    missing_devices: int = 0

    @property
    def shared_with(self) -> frozenset[str]:
        """What is lost together: names of the disks below, or the file system where no disk is known."""
        if self.device is not None:
            return self.device.disks()
        return frozenset({f"{self.file_system} {self.device_number[0]}:{self.device_number[1]}"})

    @property
    def mirrored(self) -> tuple[Mirrored, str]:
        """Whether one disk below may be lost, and why."""
        if self.file_system in MEMORY:
            return "no", f"{self.directory} is on {self.file_system}, which is memory"
        if self.missing_devices:
            return "no", f"the btrfs of {self.directory} lacks {self.missing_devices} of its devices"
        weak = [profile for profile in self.data_profiles if profile not in REDUNDANT_BTRFS]
        shared = self.device.shared_by_legs if self.device is not None and self.devices > 1 else frozenset()
        if self.data_profiles and not weak and shared:
            return "no", f"the btrfs of {self.directory} has two of its devices on {', '.join(sorted(shared))}"
        if self.data_profiles and not weak:
            return "yes", f"btrfs keeps data as {', '.join(self.data_profiles)}"
        if weak and self.devices > 1:
            return "no", f"btrfs keeps data as {weak[0]} on {self.devices} devices: any one of them takes some"
        if self.device is not None:
            return self.device.mirrored
        return "unknown", f"{self.file_system} does not say"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an operator should know before messages are kept there."""
        return tuple(self._warnings())

    def _warnings(self) -> Iterator[str]:
        if self.file_system in MEMORY:
            yield f"{self.directory} is on {self.file_system}, memory: nothing there outlives a power cut"
        elif self.file_system == "overlay":
            yield f"{self.directory} is on overlay, a layer that goes with its container: mount a volume there"
        elif self.file_system in NETWORK:
            yield f"{self.directory} is on {self.file_system}, over a network: what a flush means there is its server's"
        elif self.file_system == "zfs":
            yield f"{self.directory} is on zfs: `zpool status` says whether its disks are mirrored, the kernel does not"
        elif self.file_system == "btrfs" and not self.data_profiles:
            yield f"{self.directory} is on btrfs: `btrfs filesystem df` says whether it mirrors, the kernel does not"
        if self.missing_devices:
            yield f"the btrfs of {self.directory} lacks {self.missing_devices} of its devices: repair it"
        for each in self.device.layers() if self.device is not None else ():
            if each.md_degraded:
                yield f"the array {each.name} ({each.md_level}) below is degraded by {each.md_degraded}: repair it"
            if each.md_mismatches:
                yield f"the array {each.name} below counts {each.md_mismatches} sectors that differ: check it"
            if each.md_level in ("raid0", "linear"):
                yield f"the array {each.name} below is {each.md_level}: it is lost with any one of its disks"
