"""Who is late: a peer is let go for its own silence, never for ours; and what waits is bounded and forgotten."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mqcore.abc import Notice
from mqcore.protocol import Code, Failed, Fetch, Fetched, Produced
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

STORAGE = "mmap:///data?segment_bytes=4MiB"


@pytest.mark.parametrize(("stall_s", "let_go"), [(90.0, False), (0.0, True)], ids=["our-disk", "the-peer"])
def test_g20_half_a_frame_ends_a_connection_only_when_the_peer_is_late(
    open_setup: Any, stall_s: float, let_go: bool
) -> None:
    notices: list[Notice] = []

    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        keys = {"limits": {"frame_timeout_ms": 10_000}, "report": notices.append}
        async with open_setup(STORAGE, ports=model_ports(1, disk), flush="sync", **keys) as setup:
            async with setup.client() as client:
                topic = await client.create("lines")
                assert isinstance(await client.produce(topic, [b"first"]), Produced)
                if stall_s:
                    disk.stall_next("pwritev", stall_s)  # it needs more room
                frames = [
                    b"".join(bytes(part) for part in client.connection.send(client.produce_message(topic, [value])))
                    for value in (b"large" * 60_000, b"second")
                ]
                await client.stream.send_all(frames[0] + frames[1][:40])
                if not stall_s:
                    assert isinstance(await client.receive(), Produced)
                await trio.sleep(60)
                if let_go:
                    assert (await client.receive()).code == Code.STALLED
                else:
                    await client.stream.send_all(frames[1][40:])
                    assert [type(await client.receive()) for _ in range(2)] == [Produced, Produced]
        assert ("connection-stalled" in [notice.kind for notice in notices]) is let_go

    run_simulation(main, seed=1, seconds_max=1000)


def test_g20_fetches_that_wait_are_bounded_and_leave_nothing_behind(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup(limits={"fetches_parked_max": 50}) as setup, setup.client() as writer:
            topic = await writer.create("lines")
            async with setup.client() as reader:
                fetches = [Fetch(reader.id(), topic, 0, 0, 0, 1 << 20, 5_000) for _ in range(60)]
                await reader.send(*fetches)
                refused = [await reader.receive() for _ in range(10)]
                assert {(type(reply), reply.code) for reply in refused} == {(Failed, Code.LIMIT_REACHED)}
                (partition,) = setup.broker.reign.partitions.values()
                assert len(partition._parked) == 50
                started = trio.current_time()
                assert {type(await reader.receive()) for _ in range(50)} == {Fetched}
                assert trio.current_time() - started <= 5.1
                assert not partition._parked
                await reader.send(*[fetch._replace(request_id=reader.id()) for fetch in fetches[:20]])
                await trio.sleep(1)
                assert isinstance(await writer.produce(topic, [b"x"]), Produced)
                assert [len((await reader.receive()).batches) for _ in range(20)] == [1] * 20
                assert not partition._parked
                await reader.send(*[fetch._replace(request_id=reader.id(), offset=1) for fetch in fetches[:20]])
                await trio.sleep(1)
                assert len(partition._parked) == 20
            await trio.sleep(1)
            assert not partition._parked, "a connection that ended left its fetches behind"

    run_virtual(main)
