"""Whether the members stand where they stood: an array that a member left or joined is where it was, a copy is not.

Each member keeps where its storage stood, as the storage itself says it, and the number of the array's last move. One
that has no such file is new. One at another place was mounted anew, moved or copied by hand: that is a move.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from mqcore_raid._background import Background
from mqcore_raid._directory import keep_place, read_place
from mqcore_raid._member import ArrayMember

__all__ = ["last_move"]


async def last_move(members: Sequence[ArrayMember], generation: int, background: Background) -> int:
    """The number of the last move of ``members``, which are open: ``generation`` where one has moved since, 0 for none.

    It is on the members when this returns, so that a crash does not forget it. Where that cannot be read or written,
    the member counts as new.
    """
    places = [str(member.storage.facts().get("mount", "")) if member.storage is not None else "" for member in members]
    results = await background.run_all([partial(member.call, read_place, member.directory) for member in members])
    kept = [result.get() if result.is_good else None for result in results]
    has_moved = any(found is not None and found[0] != place for found, place in zip(kept, places, strict=True))
    number = generation if has_moved else max((found[1] for found in kept if found is not None), default=0)
    changed = [
        partial(member.call, keep_place, member.directory, place, number)
        for member, place, found in zip(members, places, kept, strict=True)
        if found != (place, number)
    ]
    await background.run_all(changed)
    return number
