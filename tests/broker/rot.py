"""Bits that rot in the files of a node, and a storage that is set back to what a kill would have left: for tests."""

from __future__ import annotations

from pathlib import Path

from sets import SetOfNodes

from mqcore.batch import HEADER_BYTES
from mqcore.log import PartitionLog


def log_of(nodes: SetOfNodes, node: str, name: str) -> PartitionLog:
    return nodes.node(node).store._logs[name]


class Byte:
    """A byte of a file, to be changed and put right again."""

    def __init__(self, path: Path, at: int) -> None:
        self.path = path
        self.at = at

    def flip(self) -> None:
        with self.path.open("r+b") as file:
            file.seek(self.at)
            (byte,) = file.read(1)
            file.seek(self.at)
            file.write(bytes([byte ^ 0xFF]))


async def damage(nodes: SetOfNodes, node: str, name: str, offset: int, *, at: int = HEADER_BYTES) -> Byte:
    """Change a byte of the batch at ``offset``, the first of its body by default, where a node's storage has it."""
    log = log_of(nodes, node if node in nodes.runs else next(iter(nodes.runs)), name)
    found = await log.batch_of(offset)
    assert found is not None
    return await damage_at(nodes, node, log, found.position, at)


async def damage_at(nodes: SetOfNodes, node: str, log: PartitionLog, position: int, at: int) -> Byte:
    """Change a byte of the batch that ``log``, which is whole there, has at ``position``."""
    (byte,) = await damage_copies(nodes, node, log, position, at)
    return byte


async def damage_copies(
    nodes: SetOfNodes, node: str, log: PartitionLog, position: int, at: int = HEADER_BYTES, copies: int = 1
) -> list[Byte]:
    """Change that byte in each of so many files that have the batch."""
    stored = await log.read_stored(position, 1, log.end_position)
    header = bytes(stored.chunks[0][:HEADER_BYTES])
    files = [path for path in (nodes.root / node).rglob("*") if path.is_file()]
    found = [Byte(path, begin + at) for path in files if (begin := path.read_bytes().find(header)) >= 0][:copies]
    assert len(found) == copies, f"{len(found)} files of {node} have the batch at {position}"
    for byte in found:
        byte.flip()
    return found


async def set_back(nodes: SetOfNodes, node: str, name: str, *offsets: int) -> None:
    """Stop a node, leave its storage as if it had been killed before, and have the headers of batches rot in it."""
    folder = nodes.root / node
    killed = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    log = log_of(nodes, node, name)
    points = [await log.batch_of(offset) for offset in offsets]
    headers = [
        bytes((await log.read_stored(point.position, 1, log.end_position)).chunks[0][:HEADER_BYTES])
        for point in points
        if point is not None
    ]
    await nodes.stop(node)
    for path in [path for path in folder.rglob("*") if path.is_file() and path not in killed]:
        path.unlink()
    for path, data in killed.items():
        path.write_bytes(data)  # in place, as it would be found: of another file the incarnation is another one
    for header in headers:
        found = [path for path in killed if header in path.read_bytes()]
        assert found
        for path in found:  # a journal may have it, too
            Byte(path, path.read_bytes().find(header)).flip()
