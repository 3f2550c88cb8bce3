"""A set without a coordinator: people decide who is primary, and the set keeps its record itself (rules R14, R16).

The in-sync set is the configured one; its record is a batch of the metadata log. A node that reigned last reigns again
when it starts, unless one of the others says that there was a later reign.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import trio

from mqcore.abc import Notice
from mqcore.broker._reign import Reign, SetUp
from mqcore.broker._roles import Following, FoundStates, Reigning, Role, RoleKeeper, Waiting, describe_role
from mqcore.broker._rotten_ends import gave_up_rotten_ends, mend_rotten_ends
from mqcore.config import NodeTable
from mqcore.errors import CommandNotPossibleError, MqcoreError
from mqcore.log import MetadataLog
from mqcore.operations import SetDescription
from mqcore.replication import (
    SetRecord,
    first_record,
    judge_promotion,
    logs_to_fetch,
    newest_record,
    reason_to_wait,
)

__all__ = ["ManualKeeper", "MetadataAuthority"]

_DEMOTE_TIMEOUT_S = 10.0
_AGAIN_S = 0.5
"""Pause before a record that was refused is written again."""


class MetadataAuthority:
    """Keeps the record of a set in the metadata log of ``reign``."""

    is_manual = True

    def __init__(self, reign: Reign, report: Callable[[Notice], None]) -> None:
        self._topics = reign.topics
        self._report = report
        self._stands: SetRecord | None = None
        self._is_refused = False

    async def begin(self, record: SetRecord, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write ``record``, under way once it is in the log: all that is written in the reign comes after it.

        Not before: what a set without a record had acknowledged nobody could reign over. Raises ``MqcoreError`` when
        the log stops first.
        """
        self._stands = record
        written = _Written(task_status.started)
        try:
            await self._is_written(record, written)
            while not written.is_appended:
                await trio.sleep(_AGAIN_S)
                await self._is_written(record, written)
        except MqcoreError:
            if not written.is_appended:
                raise  # else: what became of it the next reign reads

    async def change(self, record: SetRecord) -> SetRecord:
        """Write ``record`` into the metadata log; it stands once the set holds it.

        What is refused before it is written, as by a full disk, leaves the record before it, after a pause. Raises
        ``MqcoreError`` where the outcome is unknown for the rest of the reign: the log has stopped.
        """
        assert self._stands is not None
        written = _Written()
        while not await self._is_written(record, written):
            await trio.sleep(_AGAIN_S)
            if not written.is_appended:
                return self._stands
            # It was there, and has rotted here. Other members may hold it: the outcome is known once it is written.
        self._stands = record
        return record

    async def _is_written(self, record: SetRecord, written: _Written) -> bool:
        """Write ``record``, and return whether it is committed; what ``written`` does not know of is not in the log.

        Raises ``MqcoreError`` once the log has stopped.
        """
        try:
            await self._topics.write_set_record(record, written.appended)
        except MqcoreError as error:
            if self._topics.failed is not None:
                raise
            if not self._is_refused:
                text = f"the record of the set cannot be written, and is tried again until it can: {error}"
                self._report(Notice("set-not-changed", text))
            self._is_refused = True
            return False
        self._is_refused = False
        return True


class _Written:
    """Whether a record has come into the log; ``then`` is called the first time."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.is_appended = False
        self._then = then

    def appended(self) -> None:
        """Take in that it has."""
        if not self.is_appended:
            self.is_appended = True
            self._then()


class ManualKeeper(RoleKeeper):
    """Keeps the role of a node whose set has no coordinator."""

    async def run(self) -> None:
        """Look at the others again and again, until cancelled."""
        while True:
            self._hint = trio.Event()
            await self._look()
            with trio.move_on_after(self.cluster.replica_timeout_ms / 1000):
                await self._hint.wait()

    async def _look(self) -> None:
        before = self.role
        described = (await self._described()).values()
        reigning = [each for each in described if self._is_reign_of_ours(each)]
        if self.role is not before:
            return  # an operator's order came meanwhile
        newest = max(reigning, key=lambda each: each.epoch, default=None)
        if isinstance(self.role, Reigning):
            self._look_at_rival(newest)
        elif newest is not None and newest.epoch >= self.store.newest_epoch:
            self._become(self._following(newest))
        elif isinstance(self.role, Waiting) and not self.store.newest_epoch:
            self._become(Waiting(self._why_not_begun([each.name for each in described if each.epoch])))
        elif isinstance(self.role, Waiting):
            await self._reign_again()

    def _why_not_begun(self, begun: Sequence[str]) -> str:
        if not begun:
            return "the set has not begun: `mqcore cluster init` on the node that is to be its primary"
        return (
            f"it is empty, and {', '.join(sorted(begun))} hold what the set has: once one of them reigns "
            f"(`mqcore cluster promote`), `mqcore replica add {self.config.name} --wait` takes this node in"
        )

    def _is_reign_of_ours(self, description: SetDescription) -> bool:
        if description.role != "primary" or description.set_name != self.set.name:
            return False
        own = self.store
        if description.set_id == own.set_id.hex():
            return True
        # Another set's: this node joins it as long as it holds nothing, and only where it is expected.
        return not own.metadata.bytes_total and any(each.node_id == own.node_id.hex() for each in description.members)

    def _following(self, description: SetDescription) -> Role:
        node = self.set.node(description.name)
        if node is None:
            return Waiting(f"{description.name} reigns, which is no node of this set in this node's configuration")
        return Following(
            bytes.fromhex(description.set_id),
            description.epoch,
            bytes.fromhex(description.reign_id),
            bytes.fromhex(description.node_id),
            node.name,
            node.urls,
        )

    def _look_at_rival(self, newest: SetDescription | None) -> None:
        if newest is None or newest.epoch < self.store.epoch:
            return
        if newest.epoch == self.store.epoch and newest.reign_id == self.store.reign_id.hex():
            return
        text = f"{newest.name} reigns in epoch {newest.epoch}, this node in {self.store.epoch}"
        if newest.epoch == self.store.epoch:
            self._report(Notice("two-primaries", f"{text}: demote one of them"))
            return
        self._report(Notice("reign-overtaken", f"{text}: it stops"))
        self._become(self._following(newest))

    async def _reign_again(self) -> None:
        """Reign if the last known reign was this node's, and nothing that it had acknowledged may be missing."""
        record = await self._stored_record()
        if not self.store.reigned_last or record is None:
            self._become(Waiting("no node reigns that it can reach: `mqcore cluster promote` on the node that is to"))
            return
        await mend_rotten_ends(self.store, self._report)
        before = self.role
        found, _ = await self._states()
        own, *others = [state for _, state in found]
        if self.role is not before:
            return  # an operator's order came meanwhile
        if (reason := reason_to_wait(record, own, others)) is not None:
            self._become(Waiting(reason))
            return
        try:
            if await gave_up_rotten_ends(self.store, self._report):
                return  # judged anew as what it is now
        except CommandNotPossibleError as error:
            self._become(Waiting(str(error)))
            return
        alone = len(record.members) == 1 and record.member_of(self.store.node_id) is not None
        try:
            record = self._promoted(record, self.store.newest_epoch + 1, unclean=alone)
        except CommandNotPossibleError as error:
            self._become(Waiting(f"{error}; `mqcore cluster promote` on a node that has everything"))
            return
        self._reign(record)

    def _promoted(self, record: SetRecord, epoch: int, *, unclean: bool) -> SetRecord:
        reign_id = self._ports.random.randbytes(16)
        return record.promoted(self.own_member, epoch=epoch, reign_id=reign_id, unclean=unclean)

    def _reign(self, record: SetRecord) -> None:
        authority_of = partial(MetadataAuthority, report=self._report)
        self._become(Reigning(SetUp(record, self.cluster, authority_of, node_came=self.damage.node_came)))

    async def _stored_record(self) -> SetRecord | None:
        known = self.set_record()
        if known is not None:
            return known
        if not self.store.metadata.bytes_total:
            return None
        found: SetRecord | None = None
        for fields in await MetadataLog(self.store).replay():
            if fields.get("type") == "set-record":
                found = SetRecord.unpack(str(fields["record"]).encode(), where="metadata log")
        return found

    # orders

    async def recover(self, *, missing_are_lost: bool) -> SetRecord:
        """Refuse: there is no record beside the logs that could be lost or go back."""
        raise CommandNotPossibleError(
            "a set without a coordinator keeps its record in its own logs, where it is not lost by itself: "
            "`mqcore cluster promote` on the node that has most"
        )

    async def init(self) -> None:
        """Begin the set: every configured node must answer, and none may hold anything (R14)."""
        found, silent = await self._states()
        names = {state.member.node_id: told.name for told, state in found}
        if len(names) != len(found):
            raise CommandNotPossibleError("two nodes have one id: the storage of one is a copy; start it with its own")
        (_, own), *others = found
        record = first_record(
            await self._stored_record(),
            own,
            [state for _, state in others],
            set_id=self.store.set_id,
            reign_id=self._ports.random.randbytes(16),
            names=names,
            missing=self._missing(found, silent),
        )
        self._reign(record)

    async def promote(self, *, old_primary_is_stopped: bool, unclean: bool) -> None:
        """Make this node the primary: ask all nodes, order one that reigns to stop, then reign (R16)."""
        fetched = False
        await mend_rotten_ends(self.store, self._report)
        while True:
            found, silent = await self._states()
            states = [state for _, state in found]
            if not fetched and not any(state.reigns for state in states):
                fetched = True
                if await self._fetch_surplus(found):
                    continue
            with self._saying_why(self._missing(found, silent)):
                judged = judge_promotion(
                    newest_record(states),
                    self.store.node_id,
                    states,
                    old_primary_is_stopped=old_primary_is_stopped,
                    unclean=unclean,
                )
            if not judged.stop:
                break
            for node_id in judged.stop:
                await self._order_to_stop(node_id, judged.record)
        for loss in judged.losses:
            self._report(Notice("promotion-may-lose", loss))
        # It stops fetching before the record is written: what came afterwards would be of a reign that is over (R4).
        await self._leave_role("it is about to reign")
        if await gave_up_rotten_ends(self.store, self._report) and not judged.unclean:
            raise CommandNotPossibleError("R2: it had to give up what rotted; promote another node, or with --unclean")
        self._reign(self._promoted(judged.record, judged.epoch, unclean=judged.unclean))

    async def _fetch_surplus(self, found: FoundStates) -> bool:
        """Fetch what others have more of, once nobody reigns; return whether anything was (guarantees, section 5).

        Of two nodes each may have more of some log: without it neither could be promoted. What cannot be fetched is
        judged as it is.
        """
        own, *others = [state for _, state in found]
        record = newest_record([own, *others])
        fetch = logs_to_fetch(own, others)
        if record is None or not fetch or own.member not in record.members:
            return False
        await self._leave_role("it is about to reign")
        epoch = max(state.seen_epoch for state in (own, *others)) + 1
        try:
            await self._fetch_before_reigning(found, fetch, epoch, self._ports.random.randbytes(16))
        except CommandNotPossibleError as error:
            self._report(Notice("suffix-not-fetched", str(error)))
        return True

    async def _order_to_stop(self, node_id: bytes, record: SetRecord) -> None:
        name = record.name_of(node_id)
        node = self.set.node(name)
        if node is None:
            raise CommandNotPossibleError(f"{name} reigns and is no node of this set in this node's configuration")
        arguments = {"epoch": record.epoch, "reign_id": record.reign_id.hex(), "primary": self.store.node_id.hex()}
        await self._peers.call(node.urls, "set.demote", arguments, timeout_s=_DEMOTE_TIMEOUT_S)

    async def hand_over(self, node: NodeTable, node_id: bytes) -> None:
        """Stop reigning and have ``node`` reign; when that fails, this node reigns again."""
        await self.demote(self.store.epoch, self.store.reign_id)
        try:
            await self._peers.call(node.urls, "set.promote", {}, timeout_s=_DEMOTE_TIMEOUT_S)
        except MqcoreError as error:
            self._report(Notice("switchover-failed", f"{node.name} does not reign: {error}"))
            await self.promote(old_primary_is_stopped=True, unclean=False)
            raise
        self.hint()

    async def demote(self, epoch: int, reign_id: bytes) -> None:
        """Stop the reign that is named, for good: this node does not begin another by itself.

        Raises ``CommandNotPossibleError`` where it is not the present one, nor the one before one whose record is not
        written: nobody else knows of that yet.
        """
        named = (epoch, reign_id)
        before = await self._stored_record() if self.reign is None else None
        is_before = before is not None and (before.epoch, before.reign_id) == named
        if not isinstance(self.playing, Reigning) or not (
            is_before or (self.store.epoch, self.store.reign_id) == named
        ):
            raise CommandNotPossibleError(f"this node does not reign in epoch {epoch}: it {describe_role(self.role)}")
        await self._leave_role("it was ordered to stop")
        # A number that no reign has: to the next start the newest reign is another node's.
        await self.store.note_epoch(max(epoch, self.store.newest_epoch) + 1)
