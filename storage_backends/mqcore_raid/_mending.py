"""Which version of a place, of those that copies hold, is right: by what the caller of ``Log.mend`` knows of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

__all__ = ["mend_by"]

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
