"""Where a group's cursors lie in ZooKeeper's tree, and which operations make up one conditional write. Pure.

A group is a node with its stamp; its cursors are nodes below it, one for each 256 partitions of a topic, since a node
is read and written whole. Every write changes the group's node from the version that was read, and checks a child of
the group that is called at random when the group is made: versions begin anew with a node that was removed meanwhile.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

import attrs
from kazoo.protocol import serialization as wire
from kazoo.security import CREATOR_ALL_ACL, OPEN_ACL_UNSAFE

from mqcore.abc import CommitStamp, Cursor, CursorKey
from mqcore_zookeeper._nodes import Operation

__all__ = ["BLOCK_PARTITIONS", "BlockKey", "GroupNode", "OffsetTree", "block_of", "decode_block", "encode_block"]

BLOCK_PARTITIONS = 256
"""Partitions of one node: 5 KiB at most."""
_VERSION = 1
_ROW = struct.Struct("!QQQ")
_MARKER = ":made-"

BlockKey = tuple[str, int]
"""A topic and which 256 of its partitions."""
Block = Mapping[int, Cursor]
"""Cursors by partition."""


class NotOurNodeError(ValueError):
    """What a node holds is not this store's; the message says what was found. Stays in the part."""


@attrs.frozen
class GroupNode:
    """A group's node as it was read: ``version`` of its data; ``marker``: the child that is called at random."""

    stamp: CommitStamp
    marker: str
    version: int = 0

    def encode(self) -> bytes:
        """Return its data."""
        stamp = [self.stamp.generation, self.stamp.number]
        return json.dumps({"mqcore-offsets": _VERSION, "stamp": stamp, "marker": self.marker}).encode()

    @classmethod
    def decode(cls, data: bytes, version: int) -> GroupNode:
        """Return the node with ``data``. Raises ``NotOurNodeError``."""
        try:
            fields = json.loads(data)
            found = fields["mqcore-offsets"]
            if found != _VERSION:
                raise NotOurNodeError(f"a group of schema version {found!r}, and this mqcore knows {_VERSION}")
            return cls(CommitStamp(*fields["stamp"]), str(fields["marker"]), version)
        except (ValueError, TypeError, KeyError) as error:
            if isinstance(error, NotOurNodeError):
                raise
            raise NotOurNodeError(f"a node that is no group of this store ({data[:40]!r})") from None


def block_of(key: CursorKey) -> BlockKey:
    """Return in which node a cursor lies."""
    return key.topic, key.partition // BLOCK_PARTITIONS


def encode_block(block: Block) -> bytes:
    """Return the data of a node with these cursors."""
    rows = (_ROW.pack(partition, cursor.offset, cursor.epoch) for partition, cursor in sorted(block.items()))
    return bytes([_VERSION]) + b"".join(rows)


def decode_block(data: bytes) -> dict[int, Cursor]:
    """Return the cursors of a node. Raises ``NotOurNodeError``."""
    try:
        if data[:1] != bytes([_VERSION]):
            raise ValueError
        return {partition: Cursor(offset, epoch) for partition, offset, epoch in _ROW.iter_unpack(data[1:])}
    except (struct.error, ValueError):
        raise NotOurNodeError(f"a node that has no cursors of this store ({data[:20]!r})") from None


class OffsetTree:
    """The nodes below ``/PREFIX-offsets``. ``has_user``: they belong to the one who makes them, else to anyone."""

    def __init__(self, prefix: str, has_user: bool) -> None:
        self.root = f"/{prefix}-offsets"
        self._acl = CREATOR_ALL_ACL if has_user else OPEN_ACL_UNSAFE

    def group(self, group: str) -> str:
        """Return the path of a group. A slash, and the names that ZooKeeper takes for steps, are written otherwise."""
        return f"{self.root}/g:{quote(group, safe=' !*()[]{}@,;=+$&')}"

    @staticmethod
    def name(child: str) -> str:
        """Return the group that a child of the root stands for; empty for a child that is none."""
        return unquote(child[2:]) if child.startswith("g:") else ""

    def block(self, group: str, key: BlockKey) -> str:
        """Return the path of the node with the cursors of ``key``."""
        topic, number = key
        return f"{self.group(group)}/{number}:{quote(topic, safe='')}"

    @staticmethod
    def block_key(child: str) -> BlockKey | None:
        """Return what a child of a group has the cursors of; None for one that has none."""
        number, colon, topic = child.partition(":")
        return (unquote(topic), int(number)) if colon and number.isascii() and number.isdigit() else None

    def barrier(self) -> Operation:
        """Return a write that does nothing: it fails, but a majority has to agree that it does."""
        return wire.Delete(f"{self.root}/:barrier", -1)

    def roots(self) -> list[Operation]:
        """Return the operations that create the root and what is above it."""
        parts = self.root.split("/")[1:]
        return [self._create("/" + "/".join(parts[: count + 1]), b"") for count in range(len(parts))]

    def fence(self, group: str, held: GroupNode | None, put: GroupNode) -> list[Operation]:
        """Return the operations that put a group's stamp in the place of the one that was read, or make the group."""
        path = self.group(group)
        marker = f"{path}/{_MARKER}{put.marker}"
        if held is None:
            return [self._create(path, put.encode()), self._create(marker, b"")]
        return [wire.CheckVersion(marker, -1), wire.SetData(path, put.encode(), held.version)]

    def put_block(self, group: str, key: BlockKey, data: bytes, *, exists: bool) -> Operation:
        """Return the operation that writes a node of cursors."""
        path = self.block(group, key)
        return wire.SetData(path, data, -1) if exists else self._create(path, data)

    def remove(self, group: str, children: Sequence[str]) -> list[Operation]:
        """Return the operations that remove ``children`` of a group."""
        path = self.group(group)
        return [wire.Delete(f"{path}/{child}", -1) for child in children]

    def remove_group(self, group: str, held: GroupNode) -> list[Operation]:
        """Return the operations that remove a group without cursors: the node is as it was read, or nothing is done."""
        path = self.group(group)
        return [wire.Delete(f"{path}/{_MARKER}{held.marker}", -1), wire.Delete(path, held.version)]

    def _create(self, path: str, data: bytes) -> Any:
        return wire.Create(path, data, self._acl, 0)
