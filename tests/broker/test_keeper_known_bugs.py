"""Bugs that other projects had with their coordinators, each shown to be absent: the name of each test is the bug."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import pytest
import trio

from mqcore.abc import CellPair, CoordinatorContext
from mqcore.broker import Keeper
from mqcore.errors import CommandNotPossibleError, CoordinatorOutcomeUnknownError
from mqcore.registry import create_coordinator
from mqcore.replication import LeaseTerms
from mqcore.testing import FaultyCoordinator, WriteFault, model_ports, run_simulation

TERMS = LeaseTerms(lease_ms=1_200)
LEASE_S = TERMS.lease_ms / 1000
NAME = "sets/a"


def node(letter: str, seed: int = 0) -> tuple[Keeper, FaultyCoordinator]:
    ports = model_ports(1_000 * seed + ord(letter))
    context = CoordinatorContext(ports=ports, call_timeout_ms=TERMS.call_timeout_ms)
    way = FaultyCoordinator(create_coordinator("memory://bugs", context))
    return Keeper(way, NAME, node_id=letter.encode() * 16, terms=TERMS, ports=ports), way


async def take(keeper: Keeper, record: bytes) -> None:
    pair = await keeper.look()
    while not keeper.is_vacant:
        await trio.sleep(0.05)
        pair = await keeper.look()
    await keeper.promote(record, pair)


def simulated(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        run_simulation(test, seconds_max=300)

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@simulated
async def test_etcd_15247_12528_a_lease_is_vacated_although_it_is_renewed() -> None:
    """A server that stalls, for nearly as long as renewals can wait, never makes a renewed lease vacant."""
    a, way = node("a")
    b, _ = node("b")
    await take(a, b"epoch 1")
    vacant = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.hold)
        nursery.start_soon(b.follow, lambda pair: vacant.append(b.is_vacant))
        for _ in range(40):
            await trio.sleep(0.7)
            await way.operate("freeze", {})
            await trio.sleep(0.35)
            await way.operate("thaw", {})
            assert a.is_valid
        nursery.cancel_scope.cancel()
    assert len(vacant) > 100
    assert not any(vacant)


@pytest.mark.parametrize("fault", list(WriteFault))
def test_pravega_4721_bookkeeper_2006_kafka_5101_its_own_lost_write_is_taken_for_another_s(fault: WriteFault) -> None:
    async def main() -> None:
        a, way = node("a")
        pair = await a.look()
        way.faults = deque([fault])
        await a.promote(b"epoch 1", pair)
        for number in range(10):
            way.faults = deque([fault])
            await a.change(b"set %d" % number)
            assert a.is_valid
            assert (await way.read(NAME)).record.value == b"set %d" % number
            await way.deliver_late()

    run_simulation(main)


@simulated
async def test_patroni_316_a_stale_read_is_taken_for_still_mine() -> None:
    """Reads that show its own lease, from a member that was cut off, do not keep a primary that cannot write."""
    a, way = node("a")
    await take(a, b"epoch 1")
    mine = await way.inner.read(NAME)

    async def stale(name: str) -> CellPair:
        await trio.lowlevel.checkpoint()
        return mine

    async def unanswered(*_: object, **__: object) -> CellPair:
        await trio.lowlevel.checkpoint()
        raise CoordinatorOutcomeUnknownError("no answer")

    way.read, way.write = stale, unanswered  # type: ignore[method-assign]
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.follow, lambda pair: None)
        await a.hold()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began < LEASE_S
    with pytest.raises(CommandNotPossibleError):
        await a.change(b"still mine")


@simulated
async def test_kafka_1387_7165_14845_its_own_earlier_run_confuses_a_restarted_node() -> None:
    """A node that comes back again and again neither takes its old lease over nor fails by it; the old run ends."""
    old, _ = node("a")
    await take(old, b"epoch 0")
    for number in range(1, 6):
        began = trio.current_time()
        new, _ = node("a", seed=number)
        await take(new, b"epoch %d" % number)
        assert trio.current_time() - began >= LEASE_S
        assert new.is_valid
        assert not old.is_valid
        await old.release()  # what the old run does on its way out is nothing to the new one
        await new.change(b"epoch %d, set 2" % number)
        old = new


@simulated
async def test_patroni_1981_a_primary_reigns_on_while_the_coordinator_is_out_of_reach() -> None:
    a, way = node("a")
    b, _ = node("b")
    await take(a, b"epoch 1")
    await b.look()
    way.is_cut = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.hold)
        while not b.is_vacant:
            await trio.sleep(0.05)
            await b.look()
        assert not a.is_valid
        await b.promote(b"epoch 2", b.pair)
        assert b.is_valid


@simulated
async def test_patroni_3335_a_primary_cannot_renew_because_one_call_in_two_hangs() -> None:
    """A sick member of an ensemble costs the calls that go to it their time, and no reign."""
    a, way = node("a")
    await take(a, b"epoch 1")
    calls = 0

    async def hang(*arguments: object, **puts: object) -> CellPair:
        nonlocal calls
        calls += 1
        if calls % 2:
            await trio.sleep_forever()
        return await way.inner.write(*arguments, **puts)  # type: ignore[arg-type]

    way.write = hang  # type: ignore[method-assign]
    with trio.move_on_after(60):
        await a.hold()
    assert a.is_valid
    assert calls > 100
