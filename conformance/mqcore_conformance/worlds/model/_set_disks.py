"""What befalls the disks of a simulated set: bits rot in logs, on several nodes in the same batch; a disk is a copy.

A batch is found by the bytes of its header, which are the same on every node, not by how a storage lays out files. Must
not know what is promised.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import attrs

from mqcore.batch import HEADER_BYTES, BatchHeader, unpack_header
from mqcore.errors import CorruptionError, StorageError
from mqcore.log import PartitionLog
from mqcore.testing import ModelDisk
from mqcore_conformance.folders import remove_folder
from mqcore_conformance.worlds.model._machine import DATA, ModelMachine

__all__ = ["RotPlace", "empty_disk", "files_of", "place_to_rot", "put_files", "rot_batch"]

READ_BYTES = 1 << 16
IN_HEADER = 20
"""Byte of a header that rots."""


@attrs.frozen
class RotPlace:
    """A batch of a ``partition``: its ``header``, and whether bits of that rot, or bits of what follows."""

    partition: str
    header: bytes
    batch: BatchHeader
    in_header: bool


async def place_to_rot(machine: ModelMachine, where: str, rng: random.Random, *, in_header: bool) -> RotPlace | None:
    """Return a flushed batch that a node has: ``middle``, ``tail`` (the last one) or ``opening`` (of a reign).

    None where there is none, or the node does not serve.
    """
    broker = machine.broker
    logs = [] if broker is None else sorted(broker.store._logs.items())
    rng.shuffle(logs)
    for name, log in logs:
        topic_id, _, index = name.partition("-")
        if not index or log.failed is not None or broker is None or broker.topic_name(bytes.fromhex(topic_id)) is None:
            continue
        batches = await _flushed_batches(log)
        messages = [each for each in batches if each[1].count and not each[1].is_control]
        match where:
            case "tail":
                chosen = messages[-1:] if messages and messages[-1] is batches[-1] else []
            case "opening":
                chosen = [each for each in batches[1:] if each[1].is_control]
            case _:
                chosen = messages[:-1]
        if chosen and messages:
            header, batch = rng.choice(chosen)
            partition = f"{machine.name_topic(topic_id)}/{int(index)}"
            return RotPlace(partition, header, batch, in_header)
    return None


async def _flushed_batches(log: PartitionLog) -> list[tuple[bytes, BatchHeader]]:
    """The batches of a log that are flushed, as far as they are whole, each with the bytes of its header."""
    found: list[tuple[bytes, BatchHeader]] = []
    position = log.start_position
    try:
        while position < log.durable_position:
            stored = await log.read_stored(position, READ_BYTES, log.durable_position, asks=False)
            if stored.next_position == position:
                break
            position = stored.next_position
            for chunk in stored.chunks:
                at = 0
                while at < len(chunk):
                    header = unpack_header(chunk[at:], log.name)
                    found.append((bytes(chunk[at : at + HEADER_BYTES]), header))
                    at += header.size
    except (CorruptionError, StorageError, ValueError):
        pass  # what rotted before, or was trimmed or cut just now
    return found


def rot_batch(disk: ModelDisk, place: RotPlace, size: int, rng: random.Random) -> str:
    """Flip bits of that batch wherever a disk's device has it, but for what will be copied over it; where, or empty."""
    for path in disk.paths():
        if "journal" in path or "quarantine" in path:
            continue
        at = disk.content(path, durable=True).find(place.header)
        if at >= 0:
            first = IN_HEADER if place.in_header else HEADER_BYTES
            disk.rot(path, at + first, 1 if place.in_header else min(size, place.batch.size - HEADER_BYTES), rng)
            return f"{path} at {at + first}"
    return ""


def files_of(disk: ModelDisk) -> Mapping[str, bytes]:
    """What a backup of a node's folder would hold now: of each file what its device has."""
    return {path: disk.content(path, durable=True) for path in disk.paths() if path.startswith(f"{DATA}/")}


def empty_disk(disk: ModelDisk) -> None:
    """Put an empty disk in the place of the node's."""
    if DATA.rpartition("/")[2] in disk.list(DATA.rpartition("/")[0]):
        remove_folder(disk, DATA)


def put_files(files: Mapping[str, bytes], disk: ModelDisk) -> None:
    """Have a node's folder hold ``files`` and nothing else, durably."""
    empty_disk(disk)
    made: set[str] = set()
    for path, content in sorted(files.items()):
        _make_folders(disk, path.split("/")[1:-1], made)
        file = disk.open(path, create=True)
        if content:
            file.pwritev([content], 0)
        file.flush()
        file.close()
    for folder in sorted(made, key=len, reverse=True):
        disk.flush_directory(folder)
    disk.flush_directory(DATA.rpartition("/")[0])


def _make_folders(disk: ModelDisk, names: Sequence[str], made: set[str]) -> None:
    path = ""
    for name in names:
        parent, path = path or "/", f"{path}/{name}"
        if path.startswith(DATA) and path not in made:
            if name not in disk.list(parent):
                disk.make_directory(path)
            made.add(path)
