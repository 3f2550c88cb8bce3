"""A set with a coordinator, whose record and lease say who reigns; one that lost its primary takes another (R1, R9).

The lease is kept by ``Keeper``, who may reign is judged by ``mqcore.replication``; this module looks, asks the other
nodes, and turns both into the role of this node.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from mqcore.abc import CellPair, Coordinator, Notice
from mqcore.broker._coordinated_record import CoordinatedAuthority
from mqcore.broker._keeper import Keeper
from mqcore.broker._peers import NodeCaller
from mqcore.broker._reach import check_reach
from mqcore.broker._reign import Reign, SetUp
from mqcore.broker._roles import Following, FoundStates, Reigning, RoleKeeper, Waiting, describe_role
from mqcore.broker._rotten_ends import gave_up_rotten_ends, mend_rotten_ends
from mqcore.config import BrokerConfig, NodeTable
from mqcore.errors import (
    CommandNotPossibleError,
    CoordinatorConflictError,
    CoordinatorError,
    CorruptionError,
    MqcoreError,
    StorageError,
)
from mqcore.log import LogStore
from mqcore.ports import Ports
from mqcore.replication import (
    Candidacy,
    LeaseTerms,
    RecoveredRecord,
    SetRecord,
    first_record,
    judge_candidacy,
    no_record,
    recovered_record,
)

__all__ = ["ElectedKeeper"]

_ORDER_TIMEOUT_S = 10.0


class ElectedKeeper(RoleKeeper):
    """Keeps the role of a node whose set has a coordinator, which is closed when ``run`` ends."""

    def __init__(
        self,
        config: BrokerConfig,
        store: LogStore,
        *,
        ports: Ports,
        peers: NodeCaller,
        report: Callable[[Notice], None],
        pause: Callable[[str | None], None],
        coordinator: Coordinator,
    ) -> None:
        super().__init__(config, store, ports=ports, peers=peers, report=report, pause=pause)
        cluster = self.cluster
        if coordinator.capabilities.one_host:
            check_reach(f"the coordinator {coordinator.url}", self.set)  # every node could reign by its own (R1)
        self._coordinator = coordinator
        self._terms = LeaseTerms(lease_ms=cluster.lease_ms, clock_drift_ppm_max=cluster.clock_drift_ppm_max)
        self._where = f"{coordinator.url} sets/{self.set.name}"
        self._keeper: Keeper | None = None
        self._seen = trio.Event()
        self._has_seen_held = False  # a lease that lasts, of whichever reign
        self._released: tuple[bytes, float] = b"", 0.0
        self._deciding = trio.Lock()
        """Held by whatever may make this node reign: two attempts of one node would outrun each other."""

    @property
    def keeper(self) -> Keeper:
        """This node's dealings with the record and the lease; not before ``run``, which knows the node's id."""
        if self._keeper is None:
            self._keeper = Keeper(
                self._coordinator,
                f"sets/{self.set.name}",
                node_id=self.store.node_id,
                terms=self._terms,
                ports=self._ports,
                report=self._report,
            )
        return self._keeper

    async def run(self) -> None:
        """Look, and decide, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.keeper.follow, self._saw)
                nursery.start_soon(self._hold)
                while True:
                    self._seen = self._hint = trio.Event()
                    await self._decide()
                    with trio.move_on_after(self._terms.poll_ms / 1000):
                        await self._seen.wait()
        finally:
            with trio.CancelScope(shield=True):
                with trio.move_on_after(self._terms.call_timeout_ms / 1000):
                    await self.keeper.release()
                await self._coordinator.aclose()

    def _saw(self, pair: CellPair) -> None:
        lease = self.keeper.observer.holder
        if lease is not None and not lease.released:
            self._has_seen_held = True
        self._seen.set()

    async def _hold(self) -> None:
        """Keep the lease of each reign until it is over, and end the reign with it (R11)."""
        while True:
            while not isinstance(self.role, Reigning):
                await self._next_role()
            role = self.role
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hold_until_over)
                while self.role is role:
                    await self._next_role()
                # Renewed by a node that does not reign, as after a failed disk, it would keep the others from reigning.
                nursery.cancel_scope.cancel()
            if self._failed_role is role:
                while self.playing is role:
                    await self.played.wait()
                await self.keeper.release()  # nothing of it acts any more: nobody has to wait until it runs out

    async def _hold_until_over(self) -> None:
        await self.keeper.hold()
        self.lease_lost("its lease is over")

    def lease_lost(self, why: str) -> None:
        """End the reign: nothing may be acknowledged any more."""
        if isinstance(self.role, Reigning):
            self._become(Waiting(f"{why}; it looks for the next primary"))

    def _record(self) -> SetRecord | None:
        pair = self.keeper.pair
        if pair is None or pair.record.value is None:
            return None
        return SetRecord.unpack(pair.record.value, where=self._where)

    async def _decide(self) -> None:
        try:
            record = self._record()
        except CorruptionError as error:
            return self._become(Waiting(f"R14: {error}"))
        if self.keeper.pair is None:
            if not isinstance(self.role, Reigning | Following):
                self._become(Waiting(f"the coordinator {self._coordinator.url} has not answered yet"))
            return
        if record is None:
            self._become(Waiting(no_record(self._where, self.store.newest_epoch)))
            return
        if isinstance(self.role, Reigning):
            reign = self.role.set_up.record
            if (record.epoch, record.reign_id) != (reign.epoch, reign.reign_id):
                self.lease_lost(f"{record.name_of(record.primary or b'')} reigns in epoch {record.epoch}")
            return self.give_way()
        if record.epoch < self.store.newest_epoch:
            self._become(Waiting(f"R14: the record, of epoch {record.epoch}, went back: this node has seen "
                                 f"{self.store.newest_epoch}; `mqcore cluster recover`"))  # fmt: skip
        elif not self.keeper.is_vacant:
            if not self._deciding.locked():  # else an order is under way, which may have the logs to itself
                self._follow(record)
        elif self.cluster.fails_over and not self._is_being_handed_over():
            async with self._deciding:
                try:
                    await self._try_to_reign()
                except (CoordinatorError, CorruptionError) as error:
                    self._report(Notice("not-promoted", f"this node does not reign: {error}"))
                except CommandNotPossibleError as error:
                    self._become(Waiting(str(error)))

    def _is_being_handed_over(self) -> bool:
        """Whether who gave the lease up did so for a node that takes it by order in a moment, this one perhaps.

        Or before this process ever saw one held: then others may be starting, too, and have more than this node. A
        reign that failed as it began need not have been seen by one that was there before.
        """
        lease = self.keeper.observer.holder
        if lease is None or not lease.released or (not lease.to and self._has_seen_held):
            return False
        now = trio.current_time()
        if self._released[0] != lease.reign_id:
            self._released = lease.reign_id, now
        return now - self._released[1] < 2 * self._terms.poll_ms / 1000

    def _follow(self, record: SetRecord) -> None:
        if record.primary is None or record.primary == self.store.node_id:
            self._become(Waiting(self.keeper.trouble or "its own earlier reign has a lease that is not over yet"))
            return
        name = record.name_of(record.primary)
        node = self.set.node(name)
        if node is None:
            self._become(Waiting(f"{name} reigns, which is no node of this set in this node's configuration"))
            return
        self._become(Following(record.set_id, record.epoch, record.reign_id, record.primary, name, node.urls))

    async def _try_to_reign(self) -> None:
        """Reign if this node is the one that lacks least; the write of the record decides (R9).

        Raises ``CoordinatorError``, ``CorruptionError``, ``CommandNotPossibleError`` where what rotted stays: it does
        not reign, and nothing was written.
        """
        if not self.keeper.is_vacant or isinstance(self.role, Reigning):
            return
        # Before the others are asked: what came after its answer would be of a reign that is over (R4).
        await self._leave_role("the lease of the last primary is over")
        found, _ = await self._states_when_mended()
        record, seen = await self._record_now()
        if record is None or not self.keeper.is_vacant:
            return  # another one was faster
        own, *others = [state for _, state in found]
        candidacy = judge_candidacy(record, own, others)
        if candidacy.rank is None:
            self._become(Waiting(candidacy.reason))
            return
        if rank := candidacy.rank + self._places_back:
            # The ones before it get their time; when they are gone the next look finds the lease vacant still.
            await trio.sleep(rank * self._terms.poll_ms / 1000)
            if not self.keeper.is_vacant:
                return
        if await gave_up_rotten_ends(self.store, self._report):
            return  # judged anew as what it is now
        if not await self._fetch_surplus(record, candidacy, found):
            return
        await self._reign(self._promoted(record, record.epoch + 1, unclean=candidacy.unclean), seen, found)

    async def _record_now(self) -> tuple[SetRecord | None, CellPair | None]:
        """The record, and the pair that it is of, read after the other nodes have answered.

        One of them may have reigned since it was read before: its epoch would look as if the record had gone back.
        Raises ``CoordinatorError``, ``CorruptionError``.
        """
        await self.keeper.look()
        return self._record(), self.keeper.pair

    async def _fetch_surplus(self, record: SetRecord, candidacy: Candidacy, found: FoundStates) -> bool:
        """Fetch what others have more of before this node reigns; return whether it may reign (guarantees, section 5).

        A member in its incarnation has all that was acknowledged synchronously: it goes on without what it cannot get.
        Where no member has kept its own, each may have what was acknowledged, and it does not.
        """
        if not candidacy.fetch:
            return True
        try:
            await self._fetch_before_reigning(found, candidacy.fetch, record.epoch, record.reign_id)
        except CommandNotPossibleError as error:
            if candidacy.unclean:
                self._become(Waiting(str(error)))
                return False
            self._report(Notice("promotion-may-lose", f"{error}; it is kept aside there"))
        await self.keeper.look()  # it may have taken longer than the last look is good for
        return self.keeper.is_vacant

    def _promoted(self, record: SetRecord, epoch: int, *, unclean: bool) -> SetRecord:
        reign_id = self._ports.random.randbytes(16)
        return record.promoted(self.own_member, epoch=epoch, reign_id=reign_id, unclean=unclean)

    async def _reign(self, record: SetRecord, seen: CellPair | None, found: FoundStates) -> None:
        """Write the record, made from what was ``seen``, with the lease, and reign; another may be faster."""
        silent_us = self._silent_us(found)
        try:
            await self._join_set_of(record)
            await self.keeper.promote(record.pack(), seen)
        except (CoordinatorError, CommandNotPossibleError, StorageError) as error:
            kind = "outrun" if isinstance(error, CoordinatorConflictError) else "not-promoted"
            self._report(Notice(kind, f"this node does not reign in epoch {record.epoch}: {error}"))
            return
        authority = CoordinatedAuthority(self.keeper, self.lease_lost)

        def authority_of(_: Reign) -> CoordinatedAuthority:
            return authority

        came = self.damage.node_came
        self._become(Reigning(SetUp(record, self.cluster, authority_of, lambda: self.keeper.is_valid, came, silent_us)))

    def _silent_us(self, found: FoundStates) -> dict[bytes, int]:
        """For how long the last holder of the lease has been silent, unless it answered: not counted twice (R7)."""
        lease = self.keeper.observer.holder
        if lease is None or any(state.member.node_id == lease.node_id for _, state in found):
            return {}
        return {lease.node_id: self.keeper.observer.silent_us(self.keeper.now())}

    def set_record(self) -> SetRecord | None:
        """The newest record that this node has seen."""
        return super().set_record() or self._readable_record()

    def _readable_record(self) -> SetRecord | None:
        try:
            return self._record()
        except CorruptionError:
            return None

    async def _stored_record(self) -> SetRecord | None:
        return None

    # orders

    async def _asked(self) -> tuple[FoundStates, dict[bytes, str], dict[str, str]]:
        """States of the nodes that answer, this one first, their names by id; and of the others, by name, why not."""
        found, silent = await self._states()
        names = {state.member.node_id: told.name for told, state in found}
        return found, names, self._missing(found, silent)

    async def init(self) -> None:
        """Write the first record of the set, and reign by it (R14)."""
        await self.keeper.look()
        found, names, missing = await self._asked()
        own, *others = [state for _, state in found]
        seen = self.keeper.pair
        record = first_record(
            self._record(),
            own,
            others,
            set_id=self.store.set_id,
            reign_id=self._ports.random.randbytes(16),
            names=names,
            missing=missing,
        )
        await self._reign_or_refuse(record, seen, found)

    async def recover(self, *, missing_are_lost: bool) -> SetRecord:
        """Write the record anew, above every epoch that a node has seen (R14). Raises ``CommandNotPossibleError``."""
        async with self._deciding:
            await self.keeper.look()
            await self._recovered(missing_are_lost)  # one that is refused leaves a primary that reigns alone
            await self._leave_role("its record is made anew")
            await self.keeper.release()
            await self.keeper.look()
            await gave_up_rotten_ends(self.store, self._report)
            recovered, found, seen = await self._recovered(missing_are_lost)
            record = recovered.record
            if recovered.fetch:
                # Under the number that the record would have had: every batch of any node is of an older reign.
                await self._fetch_before_reigning(found, recovered.fetch, record.epoch, record.reign_id)
                await self.keeper.look()
                record = attrs.evolve(record, epoch=record.epoch + 1)
            await self._reign_or_refuse(record, seen, found)
            return record

    async def _recovered(self, missing_are_lost: bool) -> tuple[RecoveredRecord, FoundStates, CellPair | None]:
        """What a recovery would write, of what all nodes say now. Raises ``CommandNotPossibleError``."""
        found, names, missing = await self._asked()
        own, *others = [state for _, state in found]
        seen = self.keeper.pair
        recovered = recovered_record(
            self._readable_record(),
            attrs.evolve(own, reigns=False),  # not when it comes to that
            others,
            set_id=self.store.set_id,
            reign_id=self._ports.random.randbytes(16),
            names=names,
            missing=missing,
            missing_are_lost=missing_are_lost,
        )
        return recovered, found, seen

    async def _reign_or_refuse(self, record: SetRecord, seen: CellPair | None, found: FoundStates) -> None:
        await self._reign(record, seen, found)
        if not isinstance(self.role, Reigning):
            raise CommandNotPossibleError(f"this node {describe_role(self.role)}: the record was not written")

    async def promote(self, *, old_primary_is_stopped: bool, unclean: bool) -> None:
        """Make this node the primary: the present one hands over, or its lease is over (R9)."""
        await self.keeper.look()
        reigning = self._primary_elsewhere(self._record())
        if reigning is not None:
            # Without the lock: the primary hands over by an order to promote this node, which takes it.
            await self._ask_to_hand_over(reigning)
            return
        async with self._deciding:
            await self._promote(unclean=unclean)

    def _primary_elsewhere(self, record: SetRecord | None) -> str | None:
        """Return the name of the other node whose lease is not over, or None."""
        if record is None or record.primary in (None, self.store.node_id) or self.keeper.is_vacant:
            return None
        return record.name_of(record.primary)

    async def _promote(self, *, unclean: bool) -> None:
        await self.keeper.look()
        if isinstance(self.role, Reigning):
            return
        record = self._record()
        if record is None:
            raise CommandNotPossibleError(no_record(self._where, self.store.newest_epoch))
        reigning = self._primary_elsewhere(record)
        if reigning is not None:
            raise CommandNotPossibleError(f"{reigning} has begun to reign meanwhile: ask again")
        await self._leave_role("it is about to reign")
        await mend_rotten_ends(self.store, self._report)
        found, _, missing = await self._asked()
        asked_for, (record, _) = record, await self._record_now()
        if record != asked_for or record is None:
            raise CommandNotPossibleError("the record was changed meanwhile: ask again")
        own, *others = [state for _, state in found]
        candidacy = judge_candidacy(record, own, others)
        if candidacy.rank is None and not unclean:
            with self._saying_why(missing):
                raise CommandNotPossibleError(f"{candidacy.reason}; or accept the loss with --unclean")
        if await gave_up_rotten_ends(self.store, self._report) and not unclean:
            raise CommandNotPossibleError("R2: it had to give up what rotted; promote another, or with --unclean")
        await self._until_vacant()
        if not await self._fetch_surplus(record, candidacy, found):
            raise CommandNotPossibleError(f"this node {describe_role(self.role)}")
        # A renewal may have come in between; another record, after which the candidacy is another, may not.
        seen = self.keeper.pair
        if self._record() != record:
            raise CommandNotPossibleError("the record was changed meanwhile: ask again")
        epoch = max(record.epoch, *(each.seen_epoch for each in (own, *others))) + 1
        promoted = self._promoted(record, epoch, unclean=unclean or candidacy.unclean)
        await self._reign_or_refuse(promoted, seen, found)

    async def _until_vacant(self) -> None:
        with trio.move_on_after(2 * self._terms.lease_ms / 1000):
            while not self.keeper.is_vacant:
                await trio.sleep(self._terms.poll_ms / 1000)
                await self.keeper.look()
            return
        raise CommandNotPossibleError("the lease of the present primary does not end")

    async def _ask_to_hand_over(self, name: str) -> None:
        node = self.set.node(name)
        if node is None:
            raise CommandNotPossibleError(f"{name} reigns and is no node of this set in this node's configuration")
        arguments = {"to": self.config.name}
        await self._peers.call(node.urls, "set.switchover", arguments, timeout_s=_ORDER_TIMEOUT_S)

    async def hand_over(self, node: NodeTable, node_id: bytes) -> None:
        """Stop reigning, give the lease up, and have ``node`` reign at once."""
        await self._leave_role(f"it hands the set over to {node.name}")
        await self.keeper.release(to=node_id)
        try:
            await self._peers.call(node.urls, "set.promote", {}, timeout_s=_ORDER_TIMEOUT_S)
        except MqcoreError as error:
            # Whoever is the best candidate reigns then, by itself; perhaps this node again.
            self._report(Notice("switchover-failed", f"{node.name} does not reign: {error}"))
            raise

    async def demote(self, epoch: int, reign_id: bytes) -> None:
        """Stop the reign that is named, and give its lease up."""
        if self.reign is None or (self.store.epoch, self.store.reign_id) != (epoch, reign_id):
            raise CommandNotPossibleError(f"this node does not reign in epoch {epoch}: it {describe_role(self.role)}")
        await self._leave_role("it was ordered to stop")
        await self.keeper.release()
