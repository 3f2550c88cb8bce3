"""A replica set of real nodes, with every event of one partition's log traced against the model.

The nodes are those of ``tests/broker/sets.py``, by hand or with the coordinator ``memory``. What they do is seen where
their shells call: the log, the copy, the report that counts, the change of the set, the record that is written. That a
process has ended is noted when it starts again: until then what it sent is on its way still, and a node that does
nothing is allowed everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from set_state import Members, SetNode, SetRecordModel, SetState
from set_traces import SetTrace
from sets import NodeRun, SetOfNodes

from mqcore.broker._copy import PartitionCopy
from mqcore.broker._fed_log import FedLog
from mqcore.broker._partition import Partition
from mqcore.broker._roles import Following, Reigning, RoleKeeper
from mqcore.log import METADATA_NAME, PartitionLog
from mqcore.replication import Member, Membership, SetRecord
from mqcore_memory_coordinator._server import MemoryServer

__all__ = ["BrokerTracer"]


class BrokerTracer:
    """Traces the only partition of ``nodes``, whose steps are in ``trace`` once the set has begun. Make it before."""

    def __init__(self, nodes: SetOfNodes, monkeypatch: pytest.MonkeyPatch, *, is_manual: bool) -> None:
        self.nodes = nodes
        self._is_manual = is_manual
        self.begun: SetTrace | None = None
        self._values = 0
        # Where each batch of each node's log ends; the bytes of all copies are the same, but for what is cut.
        self._ends: dict[str, list[int]] = {name: [] for name in nodes.names}
        self._ids: dict[bytes, str] = {}
        # Where people promote, two reigns may have one number; the model's epochs stand for reigns.
        self._epochs: dict[bytes, int] = {}
        self._runs: dict[str, NodeRun] = {}
        self._watch_logs(monkeypatch)
        self._watch_partitions(monkeypatch)
        self._watch_sets(monkeypatch)
        self._watch_records(monkeypatch)

    @property
    def trace(self) -> SetTrace:
        assert self.begun is not None, "the set has not begun"
        return self.begun

    async def restart(self, name: str) -> None:
        """Start a node again whose process was ended."""
        self.trace.take("kill", name)
        self.trace.take("start", name)
        await self.nodes.start(name)

    # who and where

    def name_of(self, node_id: bytes) -> str:
        if node_id not in self._ids:
            self._ids.update({run.node.store.node_id: name for name, run in self.nodes.runs.items()})
        return self._ids[node_id]

    def owner_of(self, log: PartitionLog) -> str:
        self._runs.update(self.nodes.runs)  # one that is ending is not among them any more
        return next(name for name, run in self._runs.items() if run.node.store._logs.get(log.name) is log)

    def pairs(self, members: Iterable[Member]) -> Members:
        return frozenset((self.name_of(member.node_id), member.incarnation) for member in members)

    def primary_of(self, name: str) -> str:
        """The node whose reign ``name`` follows."""
        nodes = dict(self.trace.state.nodes)
        reigning = {node.epoch: other for other, node in nodes.items() if node.role == "primary"}
        return reigning[nodes[name].epoch]

    def batches_to(self, name: str, position: int) -> int:
        return sum(end <= position for end in self._ends[name])

    # hooks

    def _watch_logs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        append, foreign, part = PartitionLog.append, PartitionCopy.append, PartitionCopy.part_at
        commit = PartitionCopy.commit

        async def appended(log: PartitionLog, batches: Any) -> Any:
            begin, before = log.end_position, len(log.history)
            try:
                return await append(log, batches)
            finally:
                # Whether or not its caller was cancelled: what is in the log is there.
                self._appended(log, batches, begin, len(log.history) > before)

        async def received(copy: PartitionCopy, batches: Sequence[Any], *where: int) -> None:
            await foreign(copy, batches, *where)
            if copy.log.name != METADATA_NAME:
                name = self.owner_of(copy.log)
                primary = self.primary_of(name)
                number = self.batches_to(primary, copy.log.end_position)
                self._ends[name] = self._ends[primary][:number]
                self.trace.take("receive", name, primary, number)

        async def parted(copy: PartitionCopy, position: int) -> str | None:
            found = await part(copy, position)
            if copy.log.name != METADATA_NAME:
                name = self.owner_of(copy.log)
                number = self.batches_to(name, copy.log.end_position)
                self._ends[name] = self._ends[name][:number]
                self.trace.take("cut", name, self.primary_of(name), number)
            return found

        def committed(copy: PartitionCopy, offset: int) -> None:
            before = copy.committed_offset
            commit(copy, offset)
            if copy.log.name != METADATA_NAME and copy.committed_offset > before:
                name = self.owner_of(copy.log)
                number = self.trace.batches_below(name, copy.committed_offset)
                if number > self.trace.state.node(name).committed:  # a process that began anew learns it again
                    self.trace.take("learn", name, self.primary_of(name), number)

        monkeypatch.setattr(PartitionLog, "append", appended)
        monkeypatch.setattr(PartitionCopy, "append", received)
        monkeypatch.setattr(PartitionCopy, "part_at", parted)
        monkeypatch.setattr(PartitionCopy, "commit", committed)

    def _appended(self, log: PartitionLog, batches: Any, begin: int, has_epoch_batch: bool) -> None:
        if log.name == METADATA_NAME or log.end_position == begin:
            return
        name = self.owner_of(log)
        sizes = [batch.header.size for batch in batches]
        if has_epoch_batch:
            begin = log.end_position - sum(sizes)
            self._ends[name].append(begin)
        for batch, size in zip(batches, sizes, strict=True):
            begin += size
            self._ends[name].append(begin)
            self._values += 1
            self.trace.take("append", name, value=f"v{self._values}", messages=batch.header.count)

    def _watch_partitions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settle, count = Partition._settle, FedLog.count

        def settled(partition: Partition, *facts: Any) -> None:
            settle(partition, *facts)
            if partition.log.name != METADATA_NAME:
                name = self.owner_of(partition.log)
                number = self.trace.batches_below(name, partition.committed_offset)
                if number > self.trace.state.node(name).committed:
                    self.trace.take("commit", name, number=number)

        def counted(fed: FedLog, report: Any, member: Member, append_level: Any, replied: Any) -> Any:
            if fed.partition.log.name != METADATA_NAME:
                name = self.name_of(member.node_id)
                number = self.batches_to(name, report.end)
                self.trace.take("report", name, self.owner_of(fed.partition.log), number)
            return count(fed, report, member, append_level, replied)

        monkeypatch.setattr(Partition, "_settle", settled)
        monkeypatch.setattr(FedLog, "count", counted)

    def _watch_sets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        become, change_sent, settled = RoleKeeper._become, Membership.change_sent, Membership.settled

        def became(keeper: RoleKeeper, role: Any) -> None:
            is_new = role != keeper.role
            become(keeper, role)
            name = keeper.config.name
            if is_new and isinstance(role, Reigning) and self._is_manual:
                self._reigns(role.set_up.record)
            elif is_new and isinstance(role, Following) and self.begun is not None:
                node = self.trace.state.node(name)
                if node.role == "idle" or node.epoch < self._epochs[role.reign_id]:
                    self.trace.take("follow", name)

        def sent(machine: Membership, record: SetRecord) -> None:
            change_sent(machine, record)
            if record.members != machine.members:
                self.trace.take("send", self.name_of(machine.own.node_id), members=self.pairs(record.members))

        def known(machine: Membership, record: SetRecord, now_us: int) -> None:
            is_other = record.members != machine.members
            settled(machine, record, now_us)
            name = self.name_of(machine.own.node_id)
            if machine.is_over or self.trace.state.node(name).pending is None:
                return
            if is_other and self._is_manual:
                self.trace.take("apply", name)
            self.trace.take("settle" if is_other else "withdraw", name)

        monkeypatch.setattr(RoleKeeper, "_become", became)
        monkeypatch.setattr(Membership, "change_sent", sent)
        monkeypatch.setattr(Membership, "settled", known)

    def _watch_records(self, monkeypatch: pytest.MonkeyPatch) -> None:
        put = MemoryServer.put

        def written(server: MemoryServer, name: str, expect: Any, record: Any, lease: Any) -> Any:
            before = server.pair(name).record.value
            pair = put(server, name, expect, record, lease)
            if pair is not None and record is not None and name.startswith("sets/"):
                now = SetRecord.unpack(record.value, where=name)
                old = None if before is None else SetRecord.unpack(before, where=name)
                if old is None or old.reign_id != now.reign_id:
                    self._reigns(now)
                elif old.members != now.members:
                    self.trace.take("apply", self.name_of(now.primary or b""))
            return pair

        monkeypatch.setattr(MemoryServer, "put", written)

    def _reigns(self, record: SetRecord) -> None:
        """Take in the record by which a node begins to reign."""
        members, name = self.pairs(record.members), self.name_of(record.primary or b"")
        if self.begun is None:
            incarnations = {each: run.node.store.incarnation for each, run in self.nodes.runs.items()}
            nodes = {each: SetNode(incarnation=incarnations[each]) for each in self.nodes.names}
            nodes[name] = nodes[name]._replace(
                role="primary",
                epoch=record.epoch,
                members=members,
                reported=(((name, incarnations[name]), 0),),
                has_lease=True,
            )
            begin = SetState(SetRecordModel(record.epoch, name, members), tuple(nodes.items()))
            self.begun = SetTrace("".join(nodes), "", begin=begin, has_leases=not self._is_manual)
            self._epochs[record.reign_id] = record.epoch
            return
        if members != self.trace.state.record.members and self.trace.state.write is not None:
            self.trace.take("apply", self.trace.state.write.node)  # the change was in the log that this node has
        if self.trace.state.record.primary == name and self.trace.state.node(name).role == "primary":
            self.trace.take("leave", name)
        epoch = self._epochs[record.reign_id] = self.trace.state.record.epoch + 1
        self.trace.take("elect", name, number=epoch)
        assert members == self.trace.state.record.members, "R8: a promotion changes epoch and primary only"
