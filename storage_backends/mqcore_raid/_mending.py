"""Putting right what some copies hold: which version of a place is right, and writing it over the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from mqcore.abc import Log, Notice
from mqcore.errors import CommandNotPossibleError, StorageError
from mqcore.ports import Buffer
from mqcore_raid._member import ArrayMember

__all__ = ["check_overwrite", "mend_by", "write_over"]

FIRST_LOOK_BYTES = 4096


async def mend_by(
    versions: Callable[[int, int], Awaitable[list[bytes]]],
    settle_on: Callable[[int, bytes], Awaitable[bool]],
    position: int,
    size_max: int,
    whole: Callable[[memoryview], int],
) -> int:
    """Settle on the version at ``position`` that is ``whole``; return how many bytes were put right, 0 for none.

    ``versions(position, size)`` are those that there are, ``settle_on(position, data)`` writes one and says whether
    a copy had another.
    """
    for data in await versions(position, min(FIRST_LOOK_BYTES, size_max)):
        wanted = whole(memoryview(data))
        if not 0 < wanted <= size_max:
            continue
        longer = [data] if wanted <= len(data) else await versions(position, wanted)
        for good in longer:
            if whole(memoryview(good)) == wanted:
                return wanted if await settle_on(position, good[:wanted]) else 0
    return 0


def check_overwrite(log: Log, position: int, data: Buffer) -> bytes:
    """Return ``data``. Raises ``ValueError`` where not all that it would be written over is durable in ``log``."""
    wanted = bytes(data)
    if not log.start <= position <= position + len(wanted) <= log.durable_end:
        raise ValueError(f"{log.name}: {position} to {position + len(wanted)} is not what the log durably holds")
    return wanted


async def write_over(
    name: str,
    copies: Mapping[ArrayMember, Log],
    position: int,
    data: bytes,
    *,
    eject: Callable[[ArrayMember, str], bool],
    report: Callable[[Notice], None],
) -> None:
    """Write ``data`` in ``copies`` of the log called ``name``, and report it; a member that cannot leaves."""
    for member, copy in copies.items():
        try:
            await member.during(copy.overwrite, position, data)
        except (StorageError, CommandNotPossibleError, OSError, ValueError) as error:
            eject(member, f"log {name} is damaged at {position} and cannot be mended ({error})")
            continue
        text = f"log {name}: {len(data)} bytes at {position} on {member.path} were damaged and are mended"
        facts = {"log": name, "position": position, "bytes": len(data), "path": member.path}
        report(Notice("raid-copy-mended", text, facts))
