"""Saboteurs of arrays, each seen by a contract check of what a lost, failed, old or bad member may do.

Knows private names of ``mqcore_raid``; see ``_replacing`` for what happens when one is gone.
"""

from __future__ import annotations

from typing import Any

from mqcore.guarantees import Level
from mqcore_conformance.saboteurs._contracts import ContractSaboteur
from mqcore_conformance.saboteurs._replacing import Replacement, in_place_of, replacing

MIRROR = "raid:///{dir}/a,/{dir}/b?level=1&first_extent_bytes=4096&extent_bytes_max=4096"
GREEN = "everything_is_there_after_a_clean_stop"


@in_place_of(("mqcore_raid._group", "", "_flush"))
def one_member_flushed(original: Any) -> Any:
    """A flush is acknowledged when one member has flushed; the others are left to the kernel."""

    async def flush(member: Any, logs: Any) -> None:
        if member.slot == 0:
            await original(member, logs)

    return flush


@in_place_of(("mqcore_raid._roster", "Roster", "settled"))
def ejection_not_recorded(_: Any) -> Any:
    """A member that failed is left out in memory; no other one records it before the acknowledgement."""

    async def settled(self: Any) -> None:
        pass

    return settled


@replacing
def generation_unchecked() -> tuple[Replacement, ...]:
    """A member with an old generation is taken for one that belongs."""

    def state(_: Any) -> Any:
        return lambda member, record, finding, top: member

    return (("mqcore_raid._assembly", "", "_state", state),)


@in_place_of(("mqcore_raid._log", "MirrorLog", "settle_on"))
def mended_from_the_bad_copy(original: Any) -> Any:
    """Where copies differ, what the first of them holds is written over the others, good or bad."""

    async def settle_on(self: Any, position: int, data: bytes) -> bool:
        first = (await self.versions(position, len(data)))[0]
        done: bool = await original(self, position, first)
        return done

    return settle_on


@in_place_of(("mqcore_raid._rebuild", "Rebuild", "_copy_all"))
def rebuild_done_early(_: Any) -> Any:
    """A rebuild is called done before anything was copied."""

    async def copy_all(self: Any) -> None:
        self.member.joined.clear()

    return copy_all


@in_place_of(("mqcore_raid._group", "MirrorGroup", "level"))
def level_constant(_: Any) -> Any:
    """The level of a log is what the array reaches with all of its members, whoever is left."""
    return property(lambda self: Level.MIRROR)


@replacing
def split_brain_believed() -> tuple[Replacement, ...]:
    """Of two members that were used without each other the one with the higher generation wins, and nothing is said."""

    def newest(_: Any) -> Any:
        return lambda found: max(found.values(), key=lambda record: (record.generation, record.slot))

    def state(_: Any) -> Any:
        import attrs

        return lambda member, record, finding, top: attrs.evolve(member, state="in-sync") if record else member

    return (("mqcore_raid._assembly", "", "_newest_view", newest), ("mqcore_raid._assembly", "", "_state", state))


def _seen(name: str, make: Any, clause: str, check: str) -> ContractSaboteur:
    return ContractSaboteur(name=name, make=make, clause=clause, check=check, green=GREEN, url=MIRROR)


ARRAYS: tuple[ContractSaboteur, ...] = (
    _seen("one-member-flushed", one_member_flushed, "G01", "what_a_flush_reached_is_there_without_any_one_member"),
    _seen("ejection-unrecorded", ejection_not_recorded, "G01", "a_member_that_failed_is_out_when_the_flush_returns"),
    _seen("generation-unchecked", generation_unchecked, "G01", "an_old_copy_of_a_member_never_wins"),
    _seen("mended-from-bad-copy", mended_from_the_bad_copy, "G12", "a_bad_copy_is_mended_from_a_good_one"),
    _seen("rebuild-done-early", rebuild_done_early, "G01", "a_rebuilt_member_counts_when_all_of_it_is_there"),
    _seen("level-constant", level_constant, "G14", "the_level_moves_with_the_members"),
    _seen("split-brain-believed", split_brain_believed, "G05", "two_halves_that_were_used_alone_never_both_win"),
)
"""Saboteurs of arrays."""
