"""The shell of record and lease: what a write that was not answered means, and when this node may act as primary."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Awaitable, Callable

import pytest
import trio

from mqcore.abc import CellPair, CoordinatorContext, Notice
from mqcore.broker import Keeper
from mqcore.errors import (
    CommandNotPossibleError,
    CoordinatorConflictError,
    CoordinatorOutcomeUnknownError,
    CoordinatorUnreachableError,
    CoordinatorWentBackError,
    CorruptionError,
)
from mqcore.ports import Ports
from mqcore.registry import create_coordinator
from mqcore.replication import LeaseTerms
from mqcore.testing import FaultyCoordinator, ModelClock, WriteFault, model_ports, run_simulation

TERMS = LeaseTerms(lease_ms=1_200)
NAME = "sets/a"


class Place:
    """Nodes on one coordinator, each with its own way to it."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []

    def node(self, letter: str) -> tuple[Keeper, FaultyCoordinator, ModelClock]:
        clock = ModelClock()
        ports: Ports = model_ports(ord(letter), clock=clock)
        context = CoordinatorContext(ports=ports, call_timeout_ms=TERMS.call_timeout_ms)
        way = FaultyCoordinator(create_coordinator("memory://place", context))
        keeper = Keeper(way, NAME, node_id=letter.encode() * 16, terms=TERMS, ports=ports, report=self.notices.append)
        return keeper, way, clock

    async def primary(self, letter: str = "a") -> tuple[Keeper, FaultyCoordinator, ModelClock]:
        keeper, way, clock = self.node(letter)
        await take(keeper, b"epoch 1")
        return keeper, way, clock


def simulated(test: Callable[[Place], Awaitable[None]]) -> Callable[[], None]:
    """Make a test of virtual time out of an async one."""

    def run() -> None:
        run_simulation(test, Place(), seconds_max=120)

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


async def take(keeper: Keeper, record: bytes) -> None:
    """Look until the lease is vacant, then promote."""
    await keeper.look()
    while not keeper.is_vacant:
        await trio.sleep(0.05)
        await keeper.look()
    await keeper.promote(record, keeper.pair)


@simulated
async def test_a_promotion_takes_record_and_lease_in_one_write(place: Place) -> None:
    a, way, _ = place.node("a")
    await take(a, b"epoch 1")
    assert a.is_valid
    pair = await way.inner.read(NAME)
    assert pair.record.value == b"epoch 1"
    assert pair.lease.value is not None
    assert a.pair == pair


@simulated
async def test_a_lease_that_is_not_vacant_is_not_taken(place: Place) -> None:
    await place.primary()
    b, _, _ = place.node("b")
    with pytest.raises(CommandNotPossibleError, match="not vacant"):
        await b.promote(b"never looked", b.pair)
    await b.look()
    with pytest.raises(CommandNotPossibleError, match="not vacant"):
        await b.promote(b"too early", b.pair)


@simulated
async def test_a_lost_answer_of_a_promotion_is_settled_by_writing_again(place: Place) -> None:
    a, way, _ = place.node("a")
    await a.look()
    way.faults = deque([WriteFault.NO_ANSWER])
    await a.promote(b"epoch 1", a.pair)
    assert a.is_valid
    assert a.pair is not None
    assert a.pair.record.value == b"epoch 1"


@simulated
async def test_a_late_request_is_dead_once_the_change_is_settled(place: Place) -> None:
    a, way, _ = await place.primary()
    way.faults = deque([WriteFault.LATE])
    await a.change(b"set 2")
    assert await way.deliver_late() == [False]
    assert (await way.read(NAME)).record.value == b"set 2"
    assert a.is_valid


@simulated
async def test_a_promotion_that_another_overtook_is_a_conflict(place: Place) -> None:
    a, way, _ = place.node("a")
    b, _, _ = place.node("b")
    await a.look()
    await b.look()
    way.faults = deque([WriteFault.LATE])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(b.promote, b"of b", b.pair)
        with pytest.raises(CoordinatorConflictError):
            await a.promote(b"of a", a.pair)
    assert await way.deliver_late() == [False]
    assert (await way.read(NAME)).record.value == b"of b"
    assert not a.is_valid
    assert b.is_valid


@simulated
async def test_a_promotion_without_an_answer_gives_up_when_its_lease_would_be_over(place: Place) -> None:
    a, way, _ = place.node("a")
    await a.look()
    way.is_cut = True
    began = trio.current_time()
    with pytest.raises(CoordinatorUnreachableError, match="was not written"):
        await a.promote(b"epoch 1", a.pair)
    assert trio.current_time() - began == pytest.approx(1.2, abs=0.01)
    way.is_cut = False
    await a.look()
    way.faults = deque([WriteFault.NO_REQUEST] * 100)
    with pytest.raises(CoordinatorOutcomeUnknownError, match="may be written still"):
        await a.promote(b"epoch 1", a.pair)
    assert not a.is_valid


@simulated
async def test_a_change_is_also_a_renewal(place: Place) -> None:
    a, _, _ = await place.primary()
    await trio.sleep(1)
    await a.change(b"set 2")
    await trio.sleep(1)
    assert a.is_valid


@simulated
async def test_a_change_goes_on_from_a_renewal_of_its_own_that_was_applied_unseen(place: Place) -> None:
    a, way, _ = await place.primary()
    async with trio.open_nursery() as nursery:
        way.faults = deque([WriteFault.NO_ANSWER])
        nursery.start_soon(a.hold)
        await trio.sleep(0.401)  # the renewal of 0.4 s has reached the server, and its answer is lost
        assert not way.faults
        await a.change(b"set 2")
        nursery.cancel_scope.cancel()
    assert a.is_valid
    assert (await way.read(NAME)).record.value == b"set 2"


@simulated
async def test_a_change_that_meets_another_reign_ends_the_lease(place: Place) -> None:
    a, way, _ = await place.primary()
    await way.operate("restore", {"copy": {}})
    with pytest.raises(CoordinatorConflictError):
        await a.change(b"set 2")
    assert not a.is_valid
    with pytest.raises(CommandNotPossibleError, match="does not hold the lease"):
        await a.change(b"set 2")


@simulated
async def test_a_held_lease_lasts_while_the_coordinator_answers_and_ends_in_time_when_it_does_not(place: Place) -> None:
    a, way, _ = await place.primary()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.hold)
        await trio.sleep(60)
        assert a.is_valid
        nursery.cancel_scope.cancel()
    await a.change(b"set 2")
    began = trio.current_time()
    await way.operate("freeze", {})
    await a.hold()
    assert trio.current_time() - began == pytest.approx(TERMS.lease_ms * 0.9 / 1000, abs=0.01)
    assert not a.is_valid
    assert {notice.kind for notice in place.notices} == {"coordinator-trouble"}


@simulated
async def test_lost_and_late_renewals_do_not_end_a_reign(place: Place) -> None:
    a, way, _ = await place.primary()
    way.faults = deque([WriteFault.NO_ANSWER, None, WriteFault.LATE, WriteFault.NO_REQUEST] * 20)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.hold)
        for _ in range(100):
            await trio.sleep(0.3)
            await way.deliver_late()
            assert a.is_valid
        assert not way.faults
        nursery.cancel_scope.cancel()


@simulated
async def test_a_look_that_was_served_before_a_change_does_not_hide_it(place: Place) -> None:
    """A read that is answered after a later write must not make the next renewal expect what is gone."""
    a, way, _ = await place.primary()
    async with trio.open_nursery() as nursery:
        way.answer_delay_ms = 100
        nursery.start_soon(a.look)
        await trio.sleep(0.05)
        way.answer_delay_ms = 0
        await a.change(b"set 2")
        await trio.sleep(0.1)
    assert a.pair is not None
    assert a.pair.record.value == b"set 2"
    with trio.move_on_after(5):
        await a.hold()
    assert a.is_valid


@simulated
async def test_r14_a_look_shows_what_was_there_when_it_began_whichever_other_look_is_answered_meanwhile(
    place: Place,
) -> None:
    """Else the record could be older than what a node has said before, as if it had gone back."""
    a, _, _ = await place.primary("a")
    b, way, _ = place.node("b")
    async with trio.open_nursery() as nursery:
        way.answer_delay_ms = 100
        nursery.start_soon(b.look)  # served with the first record, and answered when the second one is there
        await trio.sleep(0.05)
        await a.change(b"set 2")
        pair = await b.look()
    assert pair.record.value == b"set 2"
    assert b.pair == pair


@simulated
async def test_a_restarted_node_waits_for_the_lease_of_its_own_earlier_run(place: Place) -> None:
    old, _, _ = await place.primary("a")
    began = trio.current_time()
    again, _, _ = place.node("a")
    await take(again, b"epoch 2")
    assert trio.current_time() - began >= 1.2
    assert not old.is_valid
    await old.hold()
    assert again.is_valid


@simulated
async def test_a_release_is_vacant_at_once_and_a_late_one_is_only_ones_own(place: Place) -> None:
    a, way, _ = await place.primary()
    way.faults = deque([WriteFault.LATE])
    await a.release()
    assert not a.is_valid
    b, _, _ = place.node("b")
    await take(b, b"epoch 2")
    assert await way.deliver_late() == [False]
    assert b.is_valid
    await b.change(b"epoch 2, set 2")
    await b.release()
    c, _, _ = place.node("c")
    await c.look()
    assert c.is_vacant


@simulated
async def test_a_release_goes_on_from_a_renewal_that_was_not_answered(place: Place) -> None:
    a, way, _ = await place.primary()
    with trio.move_on_after(0.401):
        way.answer_delay_ms = 100
        await a.hold()  # cancelled while a renewal, which the server has, is not answered yet
    way.answer_delay_ms = 0
    await a.release()
    b, _, _ = place.node("b")
    await b.look()
    assert b.is_vacant


@simulated
async def test_a_node_that_slept_wakes_without_its_lease(place: Place) -> None:
    a, _, clock = await place.primary()
    clock.suspend(2)
    assert not a.is_valid
    b, _, paused = await place.primary("b")
    paused.jump_wall(1)  # the boot-time clock did not count what the hypervisor took
    assert not b.is_valid


@simulated
async def test_followers_see_a_change_by_hint_or_by_poll(place: Place) -> None:
    a, _, _ = await place.primary()
    b, way, _ = place.node("b")
    seen: list[tuple[float, bytes | None]] = []

    def saw(pair: CellPair) -> None:
        seen.append((trio.current_time(), pair.record.value))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(b.follow, saw)
        await trio.sleep(0.3)
        changed = trio.current_time()
        await a.change(b"set 2")
        await trio.sleep(0.3)
        assert min(moment for moment, record in seen if record == b"set 2") - changed < 0.02
        assert max(later[0] - first[0] for first, later in itertools.pairwise(seen)) < 0.2
        way.is_cut = True
        await trio.sleep(1)
        assert not b.is_vacant  # nothing was seen of late
        way.is_cut = False
        count = len(seen)
        await trio.sleep(0.2)
        assert len(seen) > count
        nursery.cancel_scope.cancel()
    assert [notice.kind for notice in place.notices] == ["coordinator-trouble"]


@simulated
async def test_a_coordinator_that_went_back_ends_the_reign(place: Place) -> None:
    """R14: nobody reigns on a record that is older than what was seen."""
    a, way, _ = await place.primary()

    async def went_back(*_: object, **__: object) -> CellPair:
        raise CoordinatorWentBackError("older than what was seen")

    way.write = went_back  # type: ignore[method-assign]
    began = trio.current_time()
    await a.hold()
    assert trio.current_time() - began < 0.5


@simulated
async def test_bytes_that_are_no_lease_are_loud_and_not_vacant(place: Place) -> None:
    _, way, _ = await place.primary()
    pair = await way.read(NAME)
    assert pair.lease.value is not None
    await way.operate("restore", {"copy": {NAME: CellPair(pair.record, type(pair.lease)(b"?", b"x" * 16))}})
    b, _, _ = place.node("b")
    with pytest.raises(CorruptionError):
        await b.look()
    assert not b.is_vacant


@simulated
async def test_a_record_made_from_what_was_replaced_since_is_not_written(place: Place) -> None:
    """Another's whole reign, begun and given up meanwhile, must not have its epoch taken again (R3)."""
    a, way, _ = place.node("a")
    made_from = await a.look()
    b, _, _ = await place.primary("b")
    await b.release()
    await a.look()
    assert a.is_vacant
    with pytest.raises(CoordinatorConflictError, match="changed since"):
        await a.promote(b"epoch 1 again", made_from)
    assert (await way.read(NAME)).record.value == b"epoch 1"


@simulated
async def test_a_promotion_that_is_known_only_after_its_lease_gives_no_reign(place: Place) -> None:
    a, way, clock = place.node("a")
    await a.look()

    async def sleep_in_it(*arguments: object, **puts: object) -> CellPair:
        pair = await way.inner.write(*arguments, **puts)  # type: ignore[arg-type]
        clock.suspend(2)
        return pair

    way.write = sleep_in_it  # type: ignore[method-assign]
    with pytest.raises(CoordinatorOutcomeUnknownError, match="its lease is over"):
        await a.promote(b"epoch 1", a.pair)
    assert not a.is_valid
