"""Rule R2 on an array: what may know more and is not there raises the incarnation, however clean the stop was."""

from __future__ import annotations

from array_parts import Bench

from mqcore.limits import Limits
from mqcore.log import LogStore
from mqcore.testing import model_ports


async def incarnation_after(bench: Bench) -> int:
    store = LogStore(
        bench.create(),
        ports=model_ports(len(bench.notices), bench.disk),
        limits=Limits(),
        node_name="node",
        report=bench.notices.append,
    )
    await store.open()
    try:
        await store.reign()
        return store.incarnation
    finally:
        await store.aclose()


def test_r2_a_member_that_is_missing_at_a_start_raises_the_incarnation_once():
    bench = Bench()
    first = bench.run(incarnation_after, bench)
    assert bench.run(incarnation_after, bench) == first, "a clean stop with all members raises nothing"
    bench.take_away("/b")
    assert bench.run(incarnation_after, bench) == first + 1
    assert bench.run(incarnation_after, bench) == first + 1, "the member that is missing is known to be"


def test_r2_a_member_that_was_ejected_while_in_use_raises_nothing():
    bench = Bench()
    first = bench.run(incarnation_after, bench)
    bench.disk.fail_next_flush(path="/b/storage/*")
    bench.run(incarnation_after, bench)
    bench.take_away("/b")
    assert bench.run(incarnation_after, bench) == first
