"""The in-sync set of a reign: which replicas follow it, who is waited for, and how that changes (R6, R7, R8).

The shell around ``mqcore.replication.Membership``: it gives the machine its events, has its changes written, and tells
every partition whom to wait for. Must not know what carries a change, a coordinator or the metadata log.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import trio

from mqcore.abc import Notice
from mqcore.broker._fed_log import FedLog
from mqcore.broker._feeder import Feeder
from mqcore.broker._partition import Partition
from mqcore.config import ClusterTable
from mqcore.errors import CommandNotPossibleError, MqcoreError
from mqcore.guarantees import Level
from mqcore.limits import Limits
from mqcore.log import LogStore
from mqcore.replication import CommitPolicy, FollowerFacts, Member, Membership, SetRecord, SyncState

__all__ = ["ReignSet", "SetAuthority"]

METADATA_KEY: tuple[bytes, int] = (bytes(16), 0)

_HOLD_SHARE = 4
_AT_ONCE_BYTES_PER_S = 1 << 50
_REFUSALS_MAX = 64
"""Refusals that are remembered, so that each is told once: a peer may give itself ever other names."""
_REPLACED_MANY, _REPLACED_S, _TOLD_AGAIN_S = 3, 10.0, 60.0
"""Streams of one node that replace others so often in that time are of two processes; told again after so long."""
_SAME_COPYING_S = 60.0
"""A stream that begins so soon after an unfinished one of the same node goes on with its copying."""


class SetAuthority(Protocol):
    """What keeps the record of a set: a coordinator, or the metadata log where people decide (R1, R16)."""

    is_manual: bool

    async def begin(self, record: SetRecord, *, task_status: trio.TaskStatus[None]) -> None:
        """Keep ``record``, by which the reign has begun, where it is not kept yet; ``task_status``: it is under way."""

    async def change(self, record: SetRecord) -> SetRecord:
        """Write ``record`` in place of the one before it, and return the one that stands: this or another.

        Returns when the outcome is known, and not before (R7). Raises ``MqcoreError`` where no change can be written
        any more, the outcome of this one unknown. If cancelled, it may have been written.
        """
        ...


class ReignSet:
    """The set of the reign that ``record`` names, of which ``own`` is the primary. ``run`` it.

    ``now_us``: monotonic microseconds. ``changed`` is called with each record of this reign that is in force,
    ``carried`` before that with each that is about to be written and that the metadata log has to do with already: its
    batch carries the record, or it has to be on a member that joins. ``came``: whenever a node begins to follow.
    ``silent_us``: as for ``Membership``.
    """

    def __init__(
        self,
        own: Member,
        record: SetRecord,
        authority: SetAuthority,
        *,
        store: LogStore,
        limits: Limits,
        cluster: ClusterTable,
        now_us: Callable[[], int],
        report: Callable[[Notice], None],
        changed: Callable[[SetRecord], None],
        carried: Callable[[SetRecord], None],
        came: Callable[[], None] = lambda: None,
        silent_us: Mapping[bytes, int] = MappingProxyType({}),
    ) -> None:
        self.store = store
        self.limits = limits
        self.is_over = False
        timeout_us = cluster.replica_timeout_ms * 1000
        self._machine = Membership(
            own,
            record,
            now_us(),
            replica_timeout_us=timeout_us,
            hold_us=timeout_us // _HOLD_SHARE,
            is_manual=authority.is_manual,
            silent_us=silent_us,
        )
        self._authority = authority
        self._now_us = now_us
        self._report = report
        self._changed = changed
        self._carried = carried
        self._came = came
        self._partitions: dict[tuple[bytes, int], Partition] = {}
        self._key_of: dict[Partition, tuple[bytes, int]] = {}
        self._feeders: dict[bytes, Feeder] = {}
        self._unfinished: dict[bytes, tuple[float, float]] = {}  # copying of a node: began, was interrupted
        self._applied: tuple[frozenset[Member], frozenset[Member] | None] | None = None
        self._sync_bytes_per_s = cluster.sync_bytes_per_s
        self._sync_rates: dict[bytes, int] = {}
        self._refused: set[tuple[str, str]] = set()  # what was said of whom since it was last taken in
        self._replaced: dict[bytes, tuple[tuple[float, ...], float]] = {}  # when, and when that was told last
        self._blocked: dict[Partition, None] = {}
        self._wake = trio.Event()
        self._report_awaited: trio.Event | None = None
        self._settled = trio.Event()
        self._refused_change = ""  # why the change was wanted that could not be written last
        self._cannot_change: MqcoreError | None = None

    # logs

    @property
    def metadata_partition(self) -> Partition:
        """The metadata log under the commit rule."""
        return self._partitions[METADATA_KEY]

    def name_of(self, node_id: bytes) -> str | None:
        """The name under which the record has a node; None for one that is not in it."""
        return self.record.names.get(node_id)

    def fed_partitions(self) -> Iterable[tuple[tuple[bytes, int], Partition]]:
        """Every partition log that replicas get, by topic id and index."""
        return [(key, each) for key, each in self._partitions.items() if key != METADATA_KEY]

    def began(self, key: tuple[bytes, int], partition: Partition, policy: CommitPolicy) -> None:
        """Take in a log that the reign has opened, or made."""
        log = partition.log
        self._partitions[key] = partition
        self._key_of[partition] = key
        self._machine.log_began(key, policy, log.end_offset, partition.committed_offset, self._now_us())
        partition.watchers = (*partition.watchers, self)
        self._tell(key, partition)
        for feeder in self._feeders.values():
            feeder.opened(*key, partition)

    def held_up_at(self, partition: Partition, hold_max_ms: int) -> int | None:
        """Lowest offset from which a replica that follows still copies a log; None: none does, or for too long."""
        since = trio.current_time() - hold_max_ms / 1000
        young = [each for each in self._feeders.values() if each.began_at > since]
        return min((each.held_offset(partition) for each in young), default=None)

    def gone(self, key: tuple[bytes, int]) -> None:
        """Take in that a log is no more."""
        partition = self._partitions.pop(key, None)
        if partition is not None:
            del self._key_of[partition]
            self._blocked.pop(partition, None)
            self._machine.log_ended(key)
            for feeder in self._feeders.values():
                feeder.gone(partition)

    def unopened_changed(self, number: int) -> None:
        """Take in of how many logs it is not known yet what they hold."""
        self._machine.unopened_changed(number)
        self._wake.set()

    def policy_changed(self, key: tuple[bytes, int], policy: CommitPolicy) -> None:
        """Take over the policy of a log's topic."""
        if key in self._partitions:
            self._machine.policy_changed(key, policy, self._now_us())
            self._wake.set()

    def copies_min_changed(self, copies_min: int) -> None:
        """Take in the largest ``copies`` of the set's topics (R8)."""
        self._machine.copies_min_changed(copies_min)
        self._wake.set()

    def moved(self, partition: Partition) -> None:
        """Take note that a log has grown, or that more of it is committed."""
        key = self._key_of.get(partition)
        if key is not None:
            self._machine.appended(key, partition.log.end_offset, self._now_us())
            self._machine.committed(key, partition.committed_offset)
            if partition.holds_back and partition not in self._blocked:
                self._blocked[partition] = None
                self._wake.set()

    # replicas

    def follower_began(self, feeder: Feeder) -> None:
        """Take in a replica's stream; an older one of the same node is ended. Raises ``RemoteProtocolError``."""
        member = feeder.member
        self._machine.session_opened(member, feeder.session, self._now_us(), feeder.name)
        self._refused = {each for each in self._refused if each[0] != feeder.name}
        older = self._feeders.get(member.node_id)
        self._feeders[member.node_id] = feeder
        if older is not None:
            self._note_unfinished(older)
        began_at, interrupted_at = self._unfinished.pop(member.node_id, (0.0, -_SAME_COPYING_S))
        if feeder.began_at - interrupted_at < _SAME_COPYING_S:
            feeder.began_at = began_at  # a node that comes again and again must not hold up trimming for ever (R15)
        if older is not None and self._runs_twice(feeder, older):
            older.cancel_scope.cancel()
        else:
            if older is not None:
                older.refuse(CommandNotPossibleError("a newer stream of the same node has taken its place"))
            self._report(Notice("replica-follows", f"{feeder.name} at {feeder.peer.address} follows this node"))
        self._tell(METADATA_KEY, self.metadata_partition)
        self._wake.set()
        self._came()

    def _runs_twice(self, feeder: Feeder, older: Feeder) -> bool:
        """Whether streams of a node replace one another again and again, as those of two processes do; told seldom."""
        now, node_id = trio.current_time(), feeder.member.node_id
        replaced, told_at = self._replaced.get(node_id, ((), -math.inf))
        replaced = (*replaced, now)[-_REPLACED_MANY:]
        is_often = len(replaced) == _REPLACED_MANY and now - replaced[0] < _REPLACED_S
        if is_often and now - told_at > _TOLD_AGAIN_S:
            told_at = now
            text = f"two processes follow as node {feeder.name} with the id {node_id.hex()}, the last at"
            text += (
                f" {older.peer.address} and {feeder.peer.address}: what either has is believed of both. Stop the one"
            )
            text += " that runs on a copy of the other's storage, and empty the storage of the copy"
            self._report(Notice("node-runs-twice", text, {"name": feeder.name}))
        self._replaced[node_id] = replaced, told_at
        return is_often

    def follower_refused(self, feeder: Feeder, why: str) -> None:
        """Report that a replica's stream was refused: once for each reason, for it comes again and again."""
        told = feeder.name, why
        if told not in self._refused:
            kept = self._refused if len(self._refused) < _REFUSALS_MAX else set()
            self._refused = {*kept, told}
            who = f"the replica {feeder.name} at {feeder.peer.address}" if feeder.name else feeder.peer.address
            self._report(Notice("follower-refused", f"{who} is refused: {why}"))

    def follower_reported(self, feeder: Feeder, fed: FedLog, counted: Sequence[tuple[int, Level]]) -> None:
        """Take in that a report of one log was counted by its partition."""
        if self._report_awaited is not None:
            self._report_awaited.set()
            self._report_awaited = None
        key = self._key_of.get(fed.partition)
        if key is not None:
            for offset, level in counted:
                self._machine.reported(feeder.member, key, offset, level, self._now_us())
            if feeder.member not in self._machine.record.members:
                self._wake.set()  # it may have everything by now

    def sync_rate_of(self, feeder: Feeder) -> int | None:
        """Bytes a second that a replica is sent while it is filled; None: it gives way to what is appended."""
        asked, record = self._sync_rates.get(feeder.member.node_id, self._sync_bytes_per_s), self._machine.record
        here = 1 + sum(each.member in record.members for each in self._feeders.values())
        # With too few nodes there are sends that wait for just this.
        return _AT_ONCE_BYTES_PER_S if asked is None and here < record.floor else asked

    def waits_for(self, feeder: Feeder, partition: Partition) -> bool:
        """Whether anything waits for what a replica holds of a log: it is in sync, and the log's policy asks for it."""
        key = self._key_of.get(partition)
        return feeder.member in self._machine.record.members and key is not None and self._machine.is_waited_for(key)

    def sync_state_of(self, node_id: bytes) -> SyncState | None:
        """How far a replica is that is being filled, or not in sync yet; None for every other node. Work per log."""
        feeder = self._feeders.get(node_id)
        if feeder is None or (feeder.member in self._machine.record.members and not feeder.is_filling):
            return None
        return feeder.sync_state()

    def follower_fell(self, feeder: Feeder, level: Level) -> None:
        """Take in that a replica holds nothing at more than ``level`` any more: a device was ejected there."""
        self._machine.level_fell(feeder.member, level, self._now_us())
        self._wake.set()

    def follower_ended(self, feeder: Feeder) -> None:
        """Take in that a stream is over."""
        if self._feeders.get(feeder.member.node_id) is feeder:
            del self._feeders[feeder.member.node_id]
            self._note_unfinished(feeder)
            self._report(Notice("replica-left", f"{feeder.name} at {feeder.peer.address} does not follow any more"))
        self._machine.session_ended(feeder.member, feeder.session, self._now_us())
        self._wake.set()

    def _note_unfinished(self, feeder: Feeder) -> None:
        if not feeder.is_level:
            now = trio.current_time()
            known = {node: times for node, times in self._unfinished.items() if now - times[1] < _SAME_COPYING_S}
            self._unfinished = {**known, feeder.member.node_id: (feeder.began_at, now)}

    def close(self) -> None:
        """End every stream: the reign is over."""
        self.is_over = True
        self._wake_settled()
        for feeder in list(self._feeders.values()):
            feeder.cancel_scope.cancel()

    async def next_report(self) -> None:
        """Wait until a replica has reported something."""
        if self._report_awaited is None:
            self._report_awaited = trio.Event()
        await self._report_awaited.wait()

    # the set

    @property
    def record(self) -> SetRecord:
        """The newest record of this reign whose outcome is known."""
        return self._machine.record

    def facts(self) -> list[FollowerFacts]:
        """What is known of every other node."""
        return self._machine.facts()

    def lag_of(self, node_id: bytes) -> int | None:
        """How many messages a replica lacks, over all logs; None while it does not follow."""
        feeder = self._feeders.get(node_id)
        if feeder is None:
            return None
        return sum(max(0, fed.partition.log.end_offset - fed.held_end.offset) for fed in feeder.logs)

    def behind_ms(self, facts: FollowerFacts) -> int | None:
        """For how long a replica lacks something that is waited for; 0 if nothing, None while it does not follow."""
        if facts.gone_since_us is not None:
            return None
        since_us = facts.behind_since_us
        return 0 if since_us is None else max(0, self._now_us() - since_us) // 1000

    def holds_everything(self, node_id: bytes) -> bool:
        """Whether a replica that follows is known to hold every log to its end."""
        feeder = self._feeders.get(node_id)
        return feeder is not None and feeder.is_level

    def heard_ms(self, node_id: bytes) -> int | None:
        """How long ago a replica was last heard of; None while it does not follow."""
        feeder = self._feeders.get(node_id)
        return None if feeder is None else round((trio.current_time() - feeder.heard_at) * 1000)

    def add(self, node_id: bytes, name: str, sync_bytes_per_s: int | None = None) -> None:
        """Take a node into the set, by word of an operator. Raises ``CommandNotPossibleError``.

        ``sync_bytes_per_s``: most that it is sent in this reign while it is filled; of a node that is added already it
        changes that alone. None: what the configuration says.
        """
        if sync_bytes_per_s is None or self._machine.name_of(node_id) != name:
            self._machine.node_added(node_id, name)
        if sync_bytes_per_s is not None:
            self._sync_rates[node_id] = sync_bytes_per_s
            if (feeder := self._feeders.get(node_id)) is not None:
                feeder.pace_anew()
        self._wake.set()

    @property
    def names(self) -> Mapping[bytes, str]:
        """As of ``Membership``."""
        return self._machine.names

    async def cap(self, copies_cap: int | None) -> None:
        """Lower what is waited for (R17), or end that with None; in force when it returns.

        Raises ``CommandNotPossibleError`` for a cap that lowers nothing, and when the reign ends or another order comes
        first: it may be in force all the same. If cancelled, likewise.
        """
        self._machine.capped(copies_cap)
        self._wake.set()
        self._wake_settled()  # an order that this one takes the place of
        while self._machine.record.copies_cap != copies_cap:
            if self.is_over or self._cannot_change or self._machine.copies_cap != copies_cap:
                what = "the reign has ended" if self.is_over else "another order has come"
                what = f"the metadata log has stopped ({self._cannot_change})" if self._cannot_change else what
                raise CommandNotPossibleError(f"{what} before the cap was in force; look at `mqcore cluster describe`")
            await self._settled.wait()

    def remove(self, node_id: bytes) -> None:
        """Take a node out of the set, by word of an operator. Raises ``CommandNotPossibleError``."""
        self._machine.node_removed(node_id)
        self._wake.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Change the set as the rules ask for, until cancelled. Every log has begun when it is called."""
        self._machine.ready()
        async with trio.open_nursery() as nursery:
            self._apply(nursery)
            task_status.started()
            while True:
                await self._change_or_wait(nursery)

    async def _change_or_wait(self, nursery: trio.Nursery) -> None:
        machine = self._machine
        self._wake = trio.Event()
        now_us = self._now_us()
        machine.advance(now_us)
        self._apply(nursery)
        wanted = machine.wanted(now_us)
        if wanted is None:
            with trio.move_on_after(max(0, machine.due_us(now_us) - self._now_us()) / 1e6):
                await self._wake.wait()
            return
        try:
            machine.change_sent(wanted.record)
        except CommandNotPossibleError:
            await trio.lowlevel.checkpoint()
            return  # more was committed since it was found to hold everything
        self._apply(nursery)
        if wanted.reason != self._refused_change:
            self._report(Notice("set-changes", wanted.reason))
        if self._authority.is_manual or len(wanted.record.members) > len(machine.record.members):
            # Before a coordinator can have it, too: from then on the member that joins may reign next.
            self._carried(wanted.record)
        try:
            stands = await self._authority.change(wanted.record)
        except MqcoreError as error:
            # Both sets are waited for as long as this reign lasts: what became of the change the next one reads (R7).
            self._cannot_change = error
            self._report(Notice("set-not-changed", f"the set stays as it is until a node reigns anew: {error}"))
            self._wake_settled()
            await trio.sleep_forever()
        self._refused_change = "" if stands == wanted.record else wanted.reason
        machine.settled(stands, self._now_us())
        self._changed(machine.record)
        self._wake_settled()
        self._apply(nursery)

    def _wake_settled(self) -> None:
        self._settled.set()
        self._settled = trio.Event()

    def _apply(self, nursery: trio.Nursery) -> None:
        machine = self._machine
        now = machine.members, machine.pending
        if now != self._applied:
            self._applied = now
            for key, partition in list(self._partitions.items()):
                self._tell(key, partition)
        for partition in list(self._blocked):
            if partition.may_append:
                del self._blocked[partition]
                nursery.start_soon(partition.append_held_back)

    def _tell(self, key: tuple[bytes, int], partition: Partition) -> None:
        members, pending = self._machine.members, self._machine.pending
        if key == METADATA_KEY and self._authority.is_manual:
            # The change itself is a batch of this log. One that waited for a pair under which a node will never report
            # again, or that was never admitted, would never be committed; nor is such a node promoted.
            members, pending = frozenset(filter(self._can_report, pending or members)), None
        partition.set_changed(members, pending)

    def _can_report(self, member: Member) -> bool:
        feeder = self._feeders.get(member.node_id)
        return member.incarnation > 0 and (feeder is None or feeder.member.incarnation <= member.incarnation)
