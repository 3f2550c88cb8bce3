"""Where names lie in ZooKeeper's tree, and which operations make up one conditional write. Pure.

A name is a node, which exists if and only if one of its cells was ever written; a cell is a node below it, with the
write id and the value as its data, and one child that is called as the write id: that it exists is the condition.
Versions are none: they begin anew with every node.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from kazoo.protocol import serialization as wire
from kazoo.security import CREATOR_ALL_ACL, OPEN_ACL_UNSAFE

from mqcore.abc import WRITE_ID_BYTES, CellPair, CellWrite, CoordinatorCell
from mqcore.ensembles import ServerFailureError, ServerRefusalError
from mqcore_zookeeper._session import Reply, decode

__all__ = [
    "BAD_VERSION",
    "LEASE",
    "NODE_EXISTS",
    "NO_NODE",
    "RECORD",
    "MultiAnswer",
    "Operation",
    "StoredCell",
    "NodeTree",
    "multi_answer",
    "refusal",
    "stored_cell",
]

Operation = Any
"""A request of kazoo's, which has no types."""

RECORD, LEASE = "record", "lease"
OK, NO_AUTH, NO_NODE, NODE_EXISTS, BAD_VERSION = 0, -102, -101, -110, -103
_RUNTIME_INCONSISTENCY = -2
"""What the operations after the one that failed are answered with."""
_SURE = {NO_AUTH, NO_NODE, NODE_EXISTS, BAD_VERSION, -8, -108, -111, -114, -125}
"""Codes of operations that were looked at and refused; after another, as for a session that ended, nothing is sure."""
_MULTI_HEADER = struct.Struct("!i?i")
_ERROR = struct.Struct("!i")


class NodeTree:
    """The nodes below ``prefix``. ``has_user``: they belong to the one who makes them, else to anyone."""

    def __init__(self, prefix: str, has_user: bool) -> None:
        self.root = f"/{prefix}"
        self._acl = CREATOR_ALL_ACL if has_user else OPEN_ACL_UNSAFE

    def node(self, name: str) -> str:
        """Return the path of a name. ``/`` becomes ``:``, which no name has: a name may begin as another one goes."""
        return f"{self.root}/{name.replace('/', ':')}"

    @staticmethod
    def name(child: str) -> str:
        """Return the name that a child of the root stands for."""
        return child.replace(":", "/")

    def barrier(self) -> Operation:
        """Return a write that does nothing: it fails, but a majority has to agree that it does.

        ZooKeeper's own ``sync`` asks the leader only, and one that has been replaced answers it until it notices.
        """
        return wire.Delete(f"{self.root}/:barrier", -1)

    def roots(self) -> list[Operation]:
        """Return the operations that create the root and what is above it."""
        parts = self.root.split("/")[1:]
        return [self._create("/" + "/".join(parts[: count + 1]), b"") for count in range(len(parts))]

    def write(self, name: str, expect: CellPair, record: CellWrite | None, lease: CellWrite | None) -> list[Operation]:
        """Return the operations of a write; they are done together or not at all."""
        node = self.node(name)
        fresh = expect.record.value is None and expect.lease.value is None
        operations = [self._create(node, b"")] if fresh else []
        for kind, cell, write in ((RECORD, expect.record, record), (LEASE, expect.lease, lease)):
            path = f"{node}/{kind}"
            marker = f"{path}/{cell.write_id.hex()}"
            if write is None:
                if cell.value is not None:
                    operations.append(wire.CheckVersion(marker, -1))
                elif not fresh:
                    # That a node does not exist is no condition that ZooKeeper has; creating it is one.
                    operations += [self._create(path, b""), wire.Delete(path, -1)]
                continue
            data = write.write_id + write.value
            new = self._create(f"{path}/{write.write_id.hex()}", b"")
            if cell.value is None:
                operations += [self._create(path, data), new]
            else:
                operations += [wire.Delete(marker, -1), new, wire.SetData(path, data, -1)]
        return operations

    def _create(self, path: str, data: bytes) -> Operation:
        return wire.Create(path, data, self._acl, 0)


@attrs.frozen
class StoredCell:
    """A cell as it lies in the tree. ``changes``: how often it was written, which a restored backup takes back.

    ``changed_at``: the change of the ensemble that wrote it.
    """

    cell: CoordinatorCell
    changes: int = 0
    changed_at: int = 0


def stored_cell(request: Operation, reply: Reply) -> StoredCell:
    """Return the cell that was read. Raises ``ServerFailureError``, ``ServerRefusalError``."""
    if reply.error == NO_NODE:
        return StoredCell(CoordinatorCell())
    if reply.error:
        raise refusal(reply.error)
    data, stat = decode(request, reply)
    if data is None or len(data) < WRITE_ID_BYTES:
        raise ServerFailureError("a node has no write id: is the prefix another program's?")
    cell = CoordinatorCell(bytes(data[WRITE_ID_BYTES:]), bytes(data[:WRITE_ID_BYTES]))
    return StoredCell(cell, stat.version + 1, stat.mzxid)


@attrs.frozen
class MultiAnswer:
    """What became of a transaction. ``failed``: which operation failed, and its error code; None when all were done.

    ``changes``: of each node whose data it wrote, how often that was written (as in ``StoredCell``).
    """

    failed: tuple[int, int] | None
    changes: Mapping[str, int]


def multi_answer(operations: Sequence[Operation], reply: Reply) -> MultiAnswer:
    """Return what became of ``operations``.

    kazoo's own reading leaves out results that are empty, so that an error could not be told whose it is. Raises
    ``ServerFailureError``.
    """
    changes: dict[str, int] = {}
    offset = reply.offset
    try:
        for index, operation in enumerate(operations):
            kind, done, _ = _MULTI_HEADER.unpack_from(reply.frame, offset)
            offset += _MULTI_HEADER.size
            if kind == -1 and not done:
                error = _ERROR.unpack_from(reply.frame, offset)[0]
                offset += _ERROR.size
                if error not in (OK, _RUNTIME_INCONSISTENCY):
                    return MultiAnswer((index, error), {})
            elif kind != operation.type or done:
                raise ServerFailureError(f"an answer of kind {kind} to an operation of kind {operation.type}")
            elif kind == wire.Create.type:
                _, offset = wire.read_string(reply.frame, offset)
                changes[operation.path] = 1
            elif kind == wire.Delete.type:
                changes.pop(operation.path, None)  # created for the condition only
            elif kind == wire.SetData.type:
                changes[operation.path] = operation.deserialize(reply.frame, offset).version + 1
                offset += wire.stat_struct.size
    except (struct.error, UnicodeDecodeError) as error:
        raise ServerFailureError(f"a transaction's answer is not as it must be ({error!r})") from None
    return MultiAnswer(None, changes)


def refusal(error: int) -> ServerRefusalError:
    """Return what an error code means for what was asked."""
    if error == NO_AUTH:
        text = "not permitted: the nodes belong to another user; check user and password_file"
    else:
        text = f"ZooKeeper's error {error}"
    return ServerRefusalError(text, sure=error in _SURE, elsewhere=error not in _SURE)
