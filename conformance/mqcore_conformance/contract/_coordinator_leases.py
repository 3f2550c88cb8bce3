"""Contract checks of one coordinator under the keeper of a broker: never two primaries, whatever is lost or late.

The keeper is the core's, the same for every part; what is checked is that the part and the keeper together keep R1 and
R11, with faults on the way to the server.
"""

from __future__ import annotations

import random
from collections import deque

import attrs
import trio

from mqcore.errors import (
    CommandNotPossibleError,
    CoordinatorConflictError,
    CoordinatorError,
    CoordinatorOutcomeUnknownError,
)
from mqcore.replication import LeaseTerms
from mqcore.testing import WriteFault
from mqcore_conformance.contract._checks import check, expect, refused
from mqcore_conformance.contract._coordinator_harness import (
    TERMS,
    CoordinatorHarness,
    CoordinatorPlace,
    KeeperNode,
)

LEASE_S = TERMS.lease_ms / 1000
SHORT_TERMS = LeaseTerms(lease_ms=600)
RANDOM_S = 8.0
RANDOM_S_MAX = 60.0
"""A server that is slow for a while makes reigns late; there are to be two that can be compared."""
HINT_S, SLACK_S = 2.0, 3.0
"""By when a watch has hinted at a change, and what a machine under load may add to that."""
RANDOM_NODES = 3
REIGNS_LEAST = 2


def _now_us(node: KeeperNode) -> int:
    return node.clock.boottime_us()


@check("coordinator", "G09")
async def a_promotion_takes_record_and_lease_together(harness: CoordinatorHarness) -> None:
    """Of eight nodes that promote at once one reigns, and its record and its lease are there."""
    async with harness.place() as place:
        nodes = [place.node(letter) for letter in "abcdefgh"]
        for node in nodes:
            await node.look()

        async def promote(node: KeeperNode, letter: str) -> None:
            try:
                await node.keeper.promote(letter.encode(), node.keeper.pair)
            except CoordinatorConflictError:
                return

        async with trio.open_nursery() as nursery:
            for node, letter in zip(nodes, "abcdefgh", strict=True):
                nursery.start_soon(promote, node, letter)
        reigning = [letter for node, letter in zip(nodes, "abcdefgh", strict=True) if node.keeper.holder is not None]
        expect(len(reigning) == 1, f"nodes {reigning} were promoted")
        record = await place.record(nodes[0])
        expect(record == reigning[0].encode(), f"{reigning[0]} was promoted, the record is {record!r}")


@check("coordinator", "G09")
async def a_lost_answer_is_settled_by_writing_again(harness: CoordinatorHarness) -> None:
    """A promotion or change whose answer is lost is known after the next try, and is not another node's."""
    async with harness.place() as place:
        node = place.node("a")
        await node.look()
        node.way.faults = deque([WriteFault.NO_ANSWER])
        await node.keeper.promote(b"epoch 1", node.keeper.pair)
        for number, faults in enumerate(([WriteFault.NO_ANSWER], [WriteFault.NO_REQUEST, WriteFault.NO_ANSWER])):
            node.way.faults = deque(faults)
            await node.keeper.change(b"change %d" % number)
            expect(not node.way.faults, "the faults were not met")
            record = await place.record(node)
            expect(record == b"change %d" % number, f"after a change that was settled the record is {record!r}")
        expect(node.keeper.is_valid, "its own write was taken for another node's")


@check("coordinator", "G09")
async def a_late_request_is_dead_once_it_is_settled(harness: CoordinatorHarness) -> None:
    """A request that reaches the server after its outcome was settled is a conflict there."""
    async with harness.place() as place:
        node = await place.primary()
        node.way.faults = deque([WriteFault.LATE])
        await node.keeper.change(b"change")
        applied = await node.way.deliver_late()
        expect(applied == [False], "a request that was settled was applied all the same")
        record = await place.record(node)
        expect(record == b"change", f"the record is {record!r}")


@check("coordinator", "G09")
async def an_overtaken_promotion_is_a_conflict(harness: CoordinatorHarness) -> None:
    """A promotion whose request is late while another node is promoted is a conflict, for it and at the server."""
    async with harness.place() as place:
        a, b = place.node("a"), place.node("b")
        await a.look()
        await b.look()
        a.way.faults = deque([WriteFault.LATE, *[WriteFault.NO_REQUEST] * 1_000])

        async def overtake() -> None:
            await b.keeper.promote(b"of b", b.keeper.pair)
            a.way.faults.clear()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(overtake)
            with refused("the overtaken promotion", CoordinatorConflictError):
                await a.keeper.promote(b"of a", a.keeper.pair)
        expect(await a.way.deliver_late() == [False], "the late request of the overtaken promotion was applied")
        expect(await place.record(b) == b"of b", "the record is not the winner's")
        expect(not a.keeper.is_valid, "the overtaken node reigns")


@check("coordinator", "G09")
async def a_cancelled_write_is_settled_by_writing_again(harness: CoordinatorHarness) -> None:
    """A write that is cancelled may be applied; the next one on the same expectation settles it, once."""
    async with harness.place() as place:
        client = place.client()
        pair = await place.write_first(client)
        for number in range(20):
            first, second = place.put(b"first %d" % number), place.put(b"second %d" % number)
            with trio.move_on_after(number * 0.0002):
                await client.write(place.name, pair, record=first)
            try:
                settled = await client.write(place.name, pair, record=second)
                wanted = second
            except CoordinatorConflictError:
                settled, wanted = await client.read(place.name), first
            expect(settled.record.write_id == wanted.write_id, "a conflict, and the cancelled write is not there")
            await trio.sleep(0.005)
            later = await client.read(place.name)
            expect(later == settled, "what was settled changed afterwards: the cancelled write was applied later")
            pair = later


@check("coordinator", "G09")
async def what_ended_is_not_revived(harness: CoordinatorHarness) -> None:
    """A renewal that is answered after the lease ended gives nothing back."""
    async with harness.place() as place:
        node = await place.primary(terms=SHORT_TERMS)
        while not node.keeper.is_valid:  # the lease was over before it could be looked at: a machine under load
            node = await place.primary(terms=SHORT_TERMS)
        holder, pair = node.keeper.holder, node.keeper.pair
        assert holder is not None
        assert pair is not None
        put = place.put(b"")
        put = attrs.evolve(put, value=holder.renewal(put.write_id, node.keeper.now()))
        await trio.sleep(max(0, holder.valid_until_us - _now_us(node)) / 1_000_000 + 0.01)
        expect(not node.keeper.is_valid, "the lease goes on after its end")
        # By a client with time: this node's own waits a seventh of a short lease.
        await place.client().write(place.name, pair, lease=put)
        holder.applied(put.write_id, node.keeper.now())
        expect(not node.keeper.is_valid, "an answer that came after the end began the lease anew")
        with refused("a change after the end", CommandNotPossibleError):
            await node.keeper.change(b"zombie")


@check("coordinator", "G09")
async def a_restarted_node_does_not_inherit_its_lease(harness: CoordinatorHarness) -> None:
    """A node of the same name waits for the lease of its earlier run as any other, and ends it by its promotion."""
    async with harness.place() as place:
        old = await place.primary("a")
        began_us = _now_us(old)
        new = await place.primary("a", b"epoch 2")
        waited_ms = (_now_us(old) - began_us) / 1000
        expect(waited_ms >= TERMS.lease_ms * 0.9, f"a node of the same name was promoted after {waited_ms:.0f} ms")
        expect(not old.keeper.is_valid, "the earlier run of the node still reigns")
        expect(new.keeper.is_valid, "the new run does not reign")


@check("coordinator", "G09")
async def a_release_is_vacant_at_once_and_only_ones_own(harness: CoordinatorHarness) -> None:
    """A released lease can be taken at once; a release that comes late does not take another's lease away."""
    async with harness.place() as place:
        a = await place.primary("a")
        a.way.faults = deque([WriteFault.LATE])
        await a.keeper.release()
        expect(not a.keeper.is_valid, "a node that gave up its lease still reigns")
        b = await place.primary("b", b"epoch 2")
        expect(await a.way.deliver_late() == [False], "a late release was applied to another's lease")
        await b.keeper.change(b"epoch 2, set 2")
        await b.keeper.release()
        c = place.node("c")
        await c.look()
        expect(c.keeper.is_vacant, "a released lease is not vacant")


@check("coordinator", "G09")
async def validity_counts_from_the_sending(harness: CoordinatorHarness) -> None:
    """However long the answer to a renewal takes, the lease counts from when it was sent."""
    async with harness.place() as place:
        node = await place.primary()
        holder = node.keeper.holder
        assert holder is not None
        delay_ms = node.way.answer_delay_ms = TERMS.call_timeout_ms * 0.6
        sent_us = _now_us(node)
        await node.keeper.change(b"change")
        counted_ms = (holder.valid_until_us - sent_us) / 1000
        expect(
            counted_ms <= TERMS.lease_ms - TERMS.margin_ms + delay_ms / 2 or not node.keeper.is_valid,
            f"a renewal counts {counted_ms:.0f} ms from its sending, of a lease of {TERMS.lease_ms} ms",
        )


@check("coordinator", "G09")
async def a_suspended_machine_wakes_without_its_lease(harness: CoordinatorHarness) -> None:
    """After a suspension as long as the lease the node does not reign, before it has asked anybody."""
    async with harness.place() as place:
        node = await place.primary()
        node.clock.slept_us += TERMS.lease_ms * 1000
        expect(not node.keeper.is_valid, "a node that slept for as long as its lease still reigns")
        with refused("a change after the suspension", CommandNotPossibleError):
            await node.keeper.change(b"zombie")


@attrs.frozen
class _Belief:
    """A moment at which a node was sure that it reigned."""

    reign_id: bytes
    at_us: int


@check("coordinator", "G09", seconds_max=90)
async def never_two_primaries_at_once(harness: CoordinatorHarness) -> None:
    """Three nodes with lost and late answers, delays and stalls: no two are sure to reign at one moment."""
    beliefs: list[_Belief] = []
    async with harness.place() as place, trio.open_nursery() as nursery:
        for number in range(RANDOM_NODES):
            nursery.start_soon(_live, place, number, random.Random(f"{harness.seed}/{number}"), beliefs)
    beliefs.sort(key=lambda belief: belief.at_us)
    reigns = list(dict.fromkeys(belief.reign_id for belief in beliefs))
    expect(len(reigns) >= REIGNS_LEAST, f"{len(reigns)} reign(s) in {RANDOM_S_MAX:g} s: nothing was put to the test")
    newest = b""
    over: set[bytes] = set()
    for belief in beliefs:
        if belief.reign_id != newest:
            expect(belief.reign_id not in over, "two nodes were sure to reign at once")
            over.add(newest)
            newest = belief.reign_id


async def _live(place: CoordinatorPlace, number: int, rng: random.Random, beliefs: list[_Belief]) -> None:
    node = place.node("abc"[number], SHORT_TERMS)
    keeper, clock = node.keeper, place.ports.clock
    began_us = clock.boottime_us()

    def lasts() -> bool:
        seconds = (clock.boottime_us() - began_us) / 1_000_000
        few = len({belief.reign_id for belief in beliefs}) < REIGNS_LEAST
        return seconds < (RANDOM_S_MAX if few else RANDOM_S)

    while lasts():
        node.way.faults = deque(rng.choices([None, *WriteFault], [5, 1, 1, 1], k=2))
        node.way.answer_delay_ms = rng.choice([0, 0, 0, 60])
        try:
            await keeper.look()
            if keeper.is_vacant and not keeper.is_valid:
                await keeper.promote(b"of %d" % number, keeper.pair)
            elif keeper.is_valid:
                await keeper.change(b"%d" % rng.getrandbits(16))
        except (CoordinatorError, CommandNotPossibleError):
            pass
        at_us = clock.boottime_us()
        if keeper.is_valid and keeper.holder is not None:
            beliefs.append(_Belief(keeper.holder.reign_id, at_us))
        if rng.random() < 0.5:
            await node.way.deliver_late()
        await trio.sleep(rng.random() * 0.1 + (0.9 if rng.random() < 0.08 else 0))


@check("coordinator", "G13")
async def a_cut_off_primary_stops_and_another_goes_on(harness: CoordinatorHarness) -> None:
    """A primary that cannot reach the coordinator is over in time, and another is promoted after that."""
    async with harness.place() as place:
        a = await place.primary("a")
        b = place.node("b")
        await b.look()
        a.way.is_cut = True
        ended_us = [0]

        async def hold() -> None:
            await a.keeper.hold()
            ended_us[0] = _now_us(a)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold)
            await b.take(b"epoch 2")
        expect(0 < ended_us[0] <= _now_us(b), "the primary that was cut off reigns beside the new one")
        expect(b.keeper.is_valid, "no one reigns")


@check("coordinator", "G13")
async def a_watch_hints_at_every_change(harness: CoordinatorHarness) -> None:
    """A watch calls at once, and within two seconds after each change."""
    async with harness.place() as place:
        client, watcher = place.client(), place.client()
        pair = await place.write_first(client)
        hinted = trio.Event()
        hints = [hinted]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watcher.watch, place.name, lambda: hints[0].set())
            with trio.move_on_after(HINT_S + SLACK_S):
                await hinted.wait()
            expect(hinted.is_set(), "a watch that begins does not call at once")
            await trio.sleep(0.2)
            for number in range(5):
                hints[0] = trio.Event()
                what = "record" if number % 2 else "lease"
                pair = await client.write(place.name, pair, **{what: place.put(b"%d" % number)})
                with trio.move_on_after(HINT_S + SLACK_S):
                    await hints[0].wait()
                expect(hints[0].is_set(), f"change {number + 1}, of the {what}, is not hinted at within {HINT_S:g} s")
            nursery.cancel_scope.cancel()


@check("coordinator", "G09")
async def an_unanswered_promotion_is_unknown_and_not_failed(harness: CoordinatorHarness) -> None:
    """A promotion that gets no answer for as long as its lease lasts ends unknown; nobody reigns by it."""
    async with harness.place() as place:
        node = place.node("a", SHORT_TERMS)
        await node.look()
        node.way.faults = deque([WriteFault.NO_REQUEST] * 1_000)
        with refused("a promotion without an answer", CoordinatorOutcomeUnknownError):
            await node.keeper.promote(b"epoch 1", node.keeper.pair)
        expect(not node.keeper.is_valid, "a node whose promotion is unknown reigns")
