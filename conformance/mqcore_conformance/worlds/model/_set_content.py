"""What the logs of a node hold, as stored bytes, and what is kept beside them: for the comparison of replicas (G10)."""

from __future__ import annotations

import hashlib

from mqcore.broker import Node
from mqcore.errors import CorruptionError
from mqcore.log import QUARANTINE_MARK, side_file_batches
from mqcore_conformance.clients import read_batches

READ_BYTES = 1 << 20


async def content_of(node: Node) -> dict[str, str]:
    """Return by log its positions and a checksum of all stored bytes in them; of what is damaged, of its place.

    A log that is there and that nothing has opened is of no topic, and of no copy: its place is all that is told.
    """
    found = dict.fromkeys(await node.store.list_logs(), "not open")
    for name, log in sorted(node.store._logs.items()):
        hasher, position = hashlib.blake2b(digest_size=8), log.start_position
        while position < log.end_position:
            try:
                stored = await log.read_stored(position, READ_BYTES, log.end_position)
            except CorruptionError:
                damaged = [each.end_position for each in log.damages if each.position <= position < each.end_position]
                end = damaged[0] if damaged else log.end_position
                hasher.update(f"damaged from {position} to {end}".encode())
                position = end
                continue
            for chunk in stored.chunks:
                hasher.update(chunk)
            position = stored.next_position
        found[name] = f"positions {log.start_position} to {log.end_position} ({hasher.hexdigest()})"
    return found


async def kept_aside(node: Node) -> list[tuple[str, tuple[str, ...]]]:
    """Return for each side file of a node the log that it is of, and the messages in it, as the history names them."""
    found: list[tuple[str, tuple[str, ...]]] = []
    backend = node.store.backend
    for name in sorted(await backend.list_logs()):
        log_name, mark, _ = name.partition(QUARANTINE_MARK)
        if not mark:
            continue
        side, messages = await backend.open_log(name), list[str]()
        following: int | None = 0
        while following is not None:
            batches, following = await side_file_batches(side, following, READ_BYTES)
            messages += [each for data in batches for read in read_batches(data) for each in read.messages]
        await side.aclose()
        found.append((log_name, tuple(messages)))
    return found
