"""Saboteurs of sets: what a primary waits for, who may reign, what a replica believes and keeps.

Knows names of ``mqcore.replication``, ``mqcore.broker`` and ``mqcore.log``; see ``_replacing``.
"""

from __future__ import annotations

import hashlib
from typing import Any

import attrs

from mqcore.log import Mended, MendTry
from mqcore.replication import Candidacy
from mqcore_conformance.saboteurs._replacing import Replacement, in_place_of, replacing

BROKER, REPLICATION, LOG = "mqcore.broker", "mqcore.replication", "mqcore.log"
MORE_THAN_ANY_OFFSET = 1 << 62
MISSED_S = 0.4
"""Silence after which a replica takes its primary for dead."""


# ---- what is waited for ------------------------------------------------------------------------------------------


@in_place_of((f"{REPLICATION}._members", "InSyncSet", "held_by_others"))
def replicas_not_awaited(_: Any) -> Any:
    """A synchronous set acknowledges without waiting for its replicas (MySQL semi-sync, RocketMQ)."""
    return lambda *_: MORE_THAN_ANY_OFFSET


@in_place_of((f"{REPLICATION}._members", "InSyncSet", "held_by_others"))
def anybody_counts(_: Any) -> Any:
    """Some other node holds it, in the set or removed from it: that is counted (NATS JetStream #7545)."""
    return lambda own_set, level: max((each.offsets[level] for each in own_set._reported.values()), default=0)


@in_place_of((f"{REPLICATION}._policy", "CommitPolicy", "copies_min"))
def copies_are_a_hint(_: Any) -> Any:
    """A set that has lost its replicas goes on alone (KIP-966, RocketMQ): it shrinks below ``copies``."""
    return property(lambda policy: 1)


@in_place_of((f"{REPLICATION}._membership", "Membership", "change_sent"))
def change_taken_for_done(original: Any) -> Any:
    """A member stops counting when its removal is asked for, before the answer has come."""

    def sent(membership: Any, record: Any) -> None:
        original(membership, record)
        membership.record, membership._sent = record, None

    return sent


@in_place_of((f"{REPLICATION}._progress", "CountedLog", "target"))
def joins_too_early(_: Any) -> Any:
    """A node joins the set before it holds what is committed (KAFKA-7128)."""
    return property(lambda log: 0)


@in_place_of((f"{BROKER}._follow_session", "FollowSession", "_report_of"))
def replica_reports_page_cache(original: Any) -> Any:
    """A replica reports as flushed what it has written (RocketMQ)."""

    def report_of(session: Any, number: int) -> Any:
        report = original(session, number)
        return None if report is None else report._replace(flushed=report.end)

    return report_of


@replacing
def bogus_offset_believed() -> tuple[Replacement, ...]:
    """A replica reports more than it was sent, and is believed (RocketMQ #3015)."""

    def bogus(original: Any) -> Any:
        def report_of(session: Any, number: int) -> Any:
            report, reported = original(session, number), session.__dict__.setdefault("reported", set())
            if report is None or number not in reported:  # the first report has to find where the histories meet
                reported.add(number)
                return report
            return report._replace(end=MORE_THAN_ANY_OFFSET, flushed=MORE_THAN_ANY_OFFSET)

        return report_of

    def believed(original: Any) -> Any:
        def count(fed: Any, report: Any, *others: Any) -> Any:
            end = min(report.end, fed.position)
            return original(fed, report._replace(end=end, flushed=min(report.flushed, end)), *others)

        return count

    return (
        (f"{BROKER}._follow_session", "FollowSession", "_report_of", bogus),
        (f"{BROKER}._fed_log", "FedLog", "count", believed),
    )


@in_place_of((f"{BROKER}._fed_log", "FedLog", "judge"))
def only_the_number_compared(original: Any) -> Any:
    """A replica's log is taken for the same if the primary knows the epoch of its last batch (KIP-279)."""

    async def judge(fed: Any, report: Any) -> Any:
        log = fed.partition.log
        known = {entry.number for entry in log.history}
        if report.epoch not in known or not log.start_position < report.end <= log.end_position:
            return await original(fed, report)
        fed.position = report.end
        fed._sent.clear()
        fed._held.clear()
        return None

    return judge


# ---- what has rotted ---------------------------------------------------------------------------------------------


@replacing
def mended_from_rot() -> tuple[Replacement, ...]:
    """What has rotted is written over with the copy of the first node that has one, whole or not."""

    def believed(_: Any) -> Any:
        return lambda *_: None

    return (
        (f"{LOG}._mending", "", "check_body", believed),
        (f"{BROKER}._good_copies", "", "verify_body", believed),
    )


@in_place_of((f"{LOG}._mending", "", "mend_batch"), (f"{LOG}._readable", "", "mend_batch"))
def nobody_is_asked(_: Any) -> Any:
    """A node reports as damaged what it has rotten, and does not ask the others (a broker that is alone)."""

    async def mend(*_: Any, **__: Any) -> MendTry:
        return MendTry(Mended.NO)

    return mend


@in_place_of((f"{LOG}._mending", "", "mend_batch"), (f"{LOG}._readable", "", "mend_batch"))
def nobody_has_it(_: Any) -> Any:
    """A node takes for lost what it has rotten, without asking the others, and has that replicated."""

    async def mend(*_: Any, **__: Any) -> MendTry:
        return MendTry(Mended.NO, is_complete=True)

    return mend


@in_place_of((f"{LOG}._collect", "", "control_kind"))
def lost_passed_over(_: Any) -> Any:
    """What no node has whole is passed over, like every batch that is not a client's, and no reader is told."""
    return lambda _: 0


@in_place_of((f"{LOG}._facts", "LogFacts", "damage_of"), (f"{LOG}._producers", "ProducerTable", "mark"))
def lost_acknowledged(_: Any) -> Any:
    """What stands for a batch that no node has whole counts as a copy of it: who waits is told that it is stored."""
    return lambda *_, **__: None


@in_place_of((f"{LOG}._store", "", "check_owner"))
def clone_accepted(_: Any) -> Any:
    """A node starts on a copy of another node's storage, and there are two of that one."""
    return lambda *_, **__: None


# ---- who reigns --------------------------------------------------------------------------------------------------


@in_place_of((f"{LOG}._starting", "", "next_identity"))
def electable_after_a_power_cut(original: Any) -> Any:
    """A node that may have lost what it reported is the member that it was: the last replica standing (KIP-966)."""

    def same_incarnation(old: Any, **facts: Any) -> Any:
        return attrs.evolve(original(old, **facts), incarnation=old.incarnation)

    return same_incarnation


@replacing
def flushed_only_claimed() -> tuple[Replacement, ...]:
    """A node's identity says that it reports flushed positions only, and it reports what is in the page cache."""

    def claimed(original: Any) -> Any:
        return lambda node_name, **facts: attrs.evolve(original(node_name, **facts), flushed_only=True)

    async def not_changed(store: Any, _: bool) -> bool:
        return bool(store.flushed_only)

    return (
        (f"{LOG}._starting", "", "first_identity", claimed),
        (f"{LOG}._store", "LogStore", "report_flushed_only", lambda _: not_changed),
        (f"{BROKER}._follower", "", "vouched_level", lambda _: lambda store: store.backend.capabilities.append_level),
    )


def _by_name(original: Any) -> Any:
    def first_identity(node_name: str, **facts: Any) -> Any:
        node_id = hashlib.blake2b(node_name.encode(), digest_size=16).digest()
        return attrs.evolve(original(node_name, **facts), node_id=node_id, set_id=bytes(range(16)))

    return first_identity


@in_place_of((f"{LOG}._starting", "", "first_identity"))
def emptied_not_noticed(original: Any) -> Any:
    """A node that has lost its disk comes back as the member that it was (BookKeeper #544)."""
    return _by_name(original)


@replacing
def empty_primary_goes_on() -> tuple[Replacement, ...]:
    """A primary that comes back empty goes on reigning, and its replicas follow it into that (Redis)."""

    def judge(_: Any) -> Any:
        def goes_on(record: Any, own: Any, others: Any) -> Any:
            is_it = record.primary == own.member.node_id
            return Candidacy(rank=0 if is_it else None, reason="who reigned goes on")

        return goes_on

    return (
        (f"{LOG}._starting", "", "first_identity", _by_name),
        (f"{BROKER}._elected", "", "judge_candidacy", judge),
    )


@replacing
def lease_not_heeded() -> tuple[Replacement, ...]:
    """A primary whose lease is over goes on until it hears of another one (BookKeeper #2614)."""

    def lost(original: Any) -> Any:
        def unless_over(keeper: Any, why: str) -> None:
            if "lease is over" not in why:
                original(keeper, why)

        return unless_over

    def begin(original: Any) -> Any:
        def without_lease(partition: Any, *positional: Any, **named: Any) -> None:
            original(partition, *positional, **{**named, "may_reply": None})

        return without_lease

    return (
        (f"{BROKER}._elected", "ElectedKeeper", "lease_lost", lost),
        (f"{BROKER}._partition", "Partition", "__init__", begin),
    )


@replacing
def heartbeat_is_enough() -> tuple[Replacement, ...]:
    """A replica that does not hear of its primary takes its place, whatever the lease says (Artemis)."""

    def decide(original: Any) -> Any:
        async def decided(keeper: Any) -> None:
            follower = keeper.follower
            age_ms = 0 if follower is None else follower.known_age_ms
            keeper.keeper.heartbeat_lost = MISSED_S * 1000 < age_ms < 60_000
            await original(keeper)

        return decided

    def vacant(original: Any) -> Any:
        return property(lambda keeper: original.fget(keeper) or getattr(keeper, "heartbeat_lost", False))

    def reign(original: Any) -> Any:
        async def on_what_is_there(keeper: Any, record: Any, _: Any, found: Any) -> None:
            await original(keeper, record, await keeper.keeper.look(), found)

        return on_what_is_there

    return (
        (f"{BROKER}._elected", "ElectedKeeper", "_decide", decide),
        (f"{BROKER}._elected", "ElectedKeeper", "_reign", reign),
        (f"{BROKER}._keeper", "Keeper", "is_vacant", vacant),
    )


@replacing
def epoch_of_the_own_log() -> tuple[Replacement, ...]:
    """A reign takes the number after the last one in its own log: one without a write comes again (KAFKA-7415)."""

    def number(_: Any) -> Any:
        return property(lambda store: store.metadata.last_batch[0])

    def promoted(_: Any) -> Any:
        def by(record: Any, member: Any, *, epoch: int, reign_id: bytes, unclean: bool = False) -> Any:
            return attrs.evolve(record, epoch=epoch, reign_id=reign_id, primary=member.node_id)

        return by

    def own(original: Any) -> Any:
        return lambda keeper, record, epoch, **facts: original(keeper, record, keeper.store.newest_epoch + 1, **facts)

    return (
        (f"{LOG}._store_identity", "StoreIdentity", "newest_epoch", number),
        (f"{REPLICATION}._record", "SetRecord", "promoted", promoted),
        (f"{BROKER}._elected", "ElectedKeeper", "_promoted", own),
    )


# ---- what a replica does with its copy ---------------------------------------------------------------------------


@in_place_of((f"{BROKER}._follower", "Follower", "_open_copy"))
def cut_at_the_watermark(original: Any) -> Any:
    """A replica that begins to follow cuts what it does not know to be committed (KIP-101)."""

    async def open_copy(follower: Any, *which: Any) -> Any:
        copy = await original(follower, *which)
        if copy is not None and copy.log.end_offset > copy.committed_offset and copy is not follower._metadata:
            await copy.log.truncate(copy.committed_offset)
        return copy

    return open_copy


@in_place_of((f"{LOG}._repaired", "RepairedLog", "keep_aside"))
def cut_and_discarded(_: Any) -> Any:
    """What the newer reign has not got is cut off and gone (RabbitMQ mirrored queues)."""

    async def discard(log: Any, position: int, **facts: Any) -> str:
        return ""

    return discard


@in_place_of((f"{BROKER}._copy", "PartitionCopy", "commit"))
def replica_shows_everything(original: Any) -> Any:
    """A replica shows what it has, committed or not (MySQL AFTER_COMMIT)."""
    return lambda copy, offset: original(copy, copy.log.end_offset)


@in_place_of((f"{BROKER}._copy", "PartitionCopy", "part_at"))
def watermark_before_truncation(original: Any) -> Any:
    """A replica takes its own end for committed before it has cut what its primary lacks (KAFKA-14704)."""

    async def part_at(copy: Any, position: int) -> Any:
        copy.commit(copy.log.end_offset)
        return await original(copy, position)

    return part_at


@in_place_of((f"{BROKER}._follower", "Follower", "known_age_ms"))
def age_not_told(_: Any) -> Any:
    """A replica that has lost its primary says that what it knows is new."""
    return property(lambda follower: 0)
