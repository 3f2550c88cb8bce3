"""Saboteurs of coordinators, of the keeper and of the lease: plausible mistakes, each seen by one contract check.

Knows private names of ``mqcore_memory_coordinator``, ``mqcore.broker`` and ``mqcore.replication``; see ``_replacing``
for what happens when one is gone.
"""

from __future__ import annotations

from typing import Any

import attrs

from mqcore.abc import CellPair, CoordinatorCell
from mqcore.errors import CoordinatorConflictError, CoordinatorOutcomeUnknownError, CoordinatorUnreachableError
from mqcore.replication import ClockReading
from mqcore_conformance.saboteurs._contracts import ContractSaboteur
from mqcore_conformance.saboteurs._replacing import in_place_of

_SERVER = ("mqcore_memory_coordinator._server", "MemoryServer")
_CLIENT = ("mqcore_memory_coordinator._coordinator", "MemoryCoordinator")
_KEEPER = ("mqcore.broker._keeper", "Keeper")
_HOLDER = ("mqcore.replication._lease", "LeaseHolder")
_OBSERVER = ("mqcore.replication._lease", "LeaseObserver")


# ---- the server ----------------------------------------------------------------------------------------------------


@in_place_of((*_SERVER, "put"))
def lease_is_no_condition(put: Any) -> Any:
    """A write is applied whatever the lease cell has become."""
    return lambda it, name, expect, record, lease: put(
        it, name, CellPair(expect.record, it.pair(name).lease), record, lease
    )


@in_place_of((*_SERVER, "put"))
def record_is_no_condition(put: Any) -> Any:
    """A write is applied whatever the record has become."""
    return lambda it, name, expect, record, lease: put(
        it, name, CellPair(it.pair(name).record, expect.lease), record, lease
    )


@in_place_of((*_SERVER, "put"))
def nothing_is_compared(put: Any) -> Any:
    """The last writer wins."""
    return lambda it, name, expect, record, lease: put(it, name, it.pair(name), record, lease)


@in_place_of((*_SERVER, "put"))
def renewal_is_unconditional(put: Any) -> Any:
    """A renewal or release is applied to whatever lease is there."""
    return lambda it, name, expect, record, lease: put(
        it, name, it.pair(name) if record is None else expect, record, lease
    )


@in_place_of((*_SERVER, "put"))
def versions_are_compared(put: Any) -> Any:
    """The condition is on the server's own versions, which recur after a restore."""

    def write(it: Any, name: str, expect: CellPair, record: Any, lease: Any) -> CellPair | None:
        now = it.pair(name)
        if (now.record.hint, now.lease.hint) != (expect.record.hint, expect.lease.hint):
            return None
        if put(it, name, now, record, lease) is None:
            return None
        versioned = CellPair(_next(now.record, record), _next(now.lease, lease))
        it._pairs[name] = versioned
        return versioned

    return write


def _next(cell: CoordinatorCell, put: Any) -> CoordinatorCell:
    version = cell.hint if isinstance(cell.hint, int) else 0
    return cell if put is None else CoordinatorCell(put.value, put.write_id, version + 1)


@in_place_of((*_SERVER, "_tell"))
def watchers_are_not_told(_: Any) -> Any:
    """A watch hints at nothing after its beginning."""
    return lambda it, name: None


# ---- the client ----------------------------------------------------------------------------------------------------


@in_place_of((*_CLIENT, "read"))
def reads_are_stale(read: Any) -> Any:
    """Every second read is answered from what this client saw before."""

    async def answer(it: Any, name: str) -> CellPair:
        seen: dict[str, CellPair] = it.__dict__.setdefault("_seen", {})
        if name in seen:
            return seen.pop(name)
        seen[name] = await read(it, name)
        return seen[name]

    return answer


@in_place_of((*_CLIENT, "write"))
def unknown_is_called_failed(write: Any) -> Any:
    """A write without an answer is said not to be applied."""

    async def put(it: Any, *arguments: Any, **puts: Any) -> Any:
        try:
            return await write(it, *arguments, **puts)
        except CoordinatorOutcomeUnknownError as error:
            raise CoordinatorUnreachableError(str(error)) from error

    return put


@in_place_of(("mqcore.abc._coordinator", "Coordinator", "check_write"))
def limits_are_not_kept(_: Any) -> Any:
    """Nothing is refused before it is sent."""
    return lambda it, name, record, lease: None


# ---- the keeper ----------------------------------------------------------------------------------------------------


@in_place_of((*_KEEPER, "_give_up_when_late"))
def settled_by_reading(give_up: Any) -> Any:
    """What a read does not show is taken for not applied, though it may be on its way."""

    def decide(it: Any, attempt: Any, until_us: int, error: Exception) -> None:
        give_up(it, attempt, until_us, error)
        if attempt.is_unknown:
            raise CoordinatorUnreachableError(str(error)) from error

    return decide


@in_place_of((*_KEEPER, "_settled_by_read"))
def own_write_is_another_s(_: Any) -> Any:
    """A conflict with one's own lost write is taken for another node's."""

    async def settle(it: Any, attempt: Any, until_us: int) -> CellPair:
        raise CoordinatorConflictError("another was faster")

    return settle


@in_place_of((*_KEEPER, "_saw"))
def own_name_is_own_lease(saw: Any) -> Any:
    """A restarted node takes the lease of its earlier run for its own."""

    def see(it: Any, pair: CellPair, sent: ClockReading) -> None:
        saw(it, pair, sent)
        holder = it.observer.holder
        if holder is not None and holder.node_id == it._node_id:
            it.observer.holder = attrs.evolve(holder, released=True)

    return see


@in_place_of((*_KEEPER, "now"))
def suspension_is_not_counted(_: Any) -> Any:
    """A clock that stands still while the machine sleeps is asked, and no other."""
    return lambda it: ClockReading(it._clock.monotonic_us(), 0)


# ---- the lease -----------------------------------------------------------------------------------------------------


@in_place_of((*_HOLDER, "applied"))
def counts_from_the_answer(applied: Any) -> Any:
    """Validity is counted from the answer to a renewal, not from its sending."""

    def apply(it: Any, write_id: bytes, now: ClockReading) -> None:
        it._pending[write_id] = now
        applied(it, write_id, now)

    return apply


@in_place_of((*_HOLDER, "applied"))
def late_answer_revives(applied: Any) -> Any:
    """An answer that comes after the end begins the lease anew."""

    def apply(it: Any, write_id: bytes, now: ClockReading) -> None:
        applied(it, write_id, now)
        it._sent, it.is_over = now, False

    return apply


@in_place_of((*_HOLDER, "_holds"))
def reigns_on_without_coordinator(_: Any) -> Any:
    """A primary that cannot reach the coordinator reigns on until another tells it."""
    return lambda it, sent, now: True


@in_place_of((*_OBSERVER, "vacant_at_us"))
def vacant_at_half_time(vacant_at_us: Any) -> Any:
    """Vacancy is counted by the observer's own, shorter time."""

    def decide(it: Any) -> int | None:
        whole: int | None = vacant_at_us.fget(it)
        return whole if whole is None else it._since_us + (whole - it._since_us) // 2

    return property(decide)


def _one(name: str, make: Any, clause: str, check: str, green: str = "calls_run_side_by_side") -> ContractSaboteur:
    return ContractSaboteur(name=name, make=make, clause=clause, check=check, green=green, url="memory")


COORDINATOR_SABOTEURS: tuple[ContractSaboteur, ...] = (
    _one("lease-not-compared", lease_is_no_condition, "G09", "record_and_lease_are_one_condition"),
    _one("record-not-compared", record_is_no_condition, "G09", "record_and_lease_are_one_condition"),
    _one("write-unconditional", nothing_is_compared, "G09", "one_of_eight_writers_wins"),
    _one("renewal-unconditional", renewal_is_unconditional, "G09", "a_release_is_vacant_at_once_and_only_ones_own"),
    _one("versions-compared", versions_are_compared, "G09", "a_restored_backup_revives_nothing"),
    _one("watch-silent", watchers_are_not_told, "G13", "a_watch_hints_at_every_change"),
    _one("read-stale", reads_are_stale, "G05",
         "a_read_through_another_client_shows_what_was_written", "names_are_those_that_were_written"),
    _one("unknown-called-failed", unknown_is_called_failed, "G20",
         "a_frozen_server_ends_the_reign_in_time_and_blocks_nothing"),
    _one("limit-not-kept", limits_are_not_kept, "G18", "what_it_cannot_keep_is_refused_before_it_is_sent"),
    _one("settled-by-reading", settled_by_reading, "G09", "a_late_request_is_dead_once_it_is_settled"),
    _one("own-write-another-s", own_write_is_another_s, "G09", "a_lost_answer_is_settled_by_writing_again"),
    _one("own-name-own-lease", own_name_is_own_lease, "G09", "a_restarted_node_does_not_inherit_its_lease"),
    _one("suspension-not-counted", suspension_is_not_counted, "G09", "a_suspended_machine_wakes_without_its_lease"),
    _one("renewal-from-answer", counts_from_the_answer, "G09", "validity_counts_from_the_sending"),
    _one("late-answer-revives", late_answer_revives, "G09", "what_ended_is_not_revived"),
    _one("reigns-on-alone", reigns_on_without_coordinator, "G13", "a_cut_off_primary_stops_and_another_goes_on"),
    _one("vacant-too-early", vacant_at_half_time, "G09", "a_restarted_node_does_not_inherit_its_lease"),
)  # fmt: skip
"""Saboteurs of coordinators, on the part ``memory``."""
