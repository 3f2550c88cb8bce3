"""Client, broker and mmap storage on model network, disk and clock: killed, cut off and reset, from one seed.

What must hold is the oracle of the specification for one node under ``sync``: everything acknowledged is read (G01),
nothing is read that was not sent (G04) or that was rejected (G07), nothing twice (G15), and each producer's messages in
their order; and a reader sees every offset once (G06) with one content (G05), through all of it.
"""

from __future__ import annotations

import contextlib

import pytest
import trio

import mqcore
from mqcore.client import Client
from mqcore.errors import MqcoreError, OutcomeUnknownError, RejectedError
from mqcore.testing import ModelClock, ModelDisk, ModelNetwork, model_ports, run_simulation, seeded

URL = "tcp://10.0.0.1:7400"
STORAGE = "mmap:///data?segment_bytes=1MiB"
CLIENT = {"connect_timeout_ms": 60_000, "keepalive_ms": 2_000}


class Story:
    """What was sent, with which outcome, and what a reader saw meanwhile."""

    def __init__(self, seed: int) -> None:
        self.source = seeded(seed, "story")
        self.disk = ModelDisk(seeded(seed, "disk"))
        self.clock = ModelClock()
        self.network = ModelNetwork(seeded(seed, "network"), latency_s=0.001, jitter_s=0.002, pieces=True)
        self.seed = seed
        self.lives = 0
        self.attempted: list[bytes] = []
        self.acknowledged: dict[bytes, int] = {}
        self.rejected: set[bytes] = set()
        self.seen: list[tuple[int, bytes]] = []
        self.writers_done = 0

    async def live(self, how_it_ends: str | None, *, task_status: trio.TaskStatus[None]) -> None:
        """Run the broker for a while, then let it die; without ``how_it_ends`` until cancelled."""
        self.lives += 1
        ports = model_ports(self.seed * 1_000 + self.lives, self.disk, clock=self.clock)
        with contextlib.suppress(MqcoreError, ExceptionGroup), self.network.host("broker"), trio.CancelScope() as life:
            async with mqcore.open_broker(storage=STORAGE, listen=[URL], insecure=True, flush="sync", ports=ports):
                task_status.started()
                if how_it_ends is None:
                    await trio.sleep_forever()
                await trio.sleep(self.source.uniform(0.2, 1.5))
                if how_it_ends == "stop":
                    return
                if how_it_ends == "power-cut":
                    self.disk.power_cut()
                else:
                    self.disk.process_kill()
                self.network.kill_host("broker")
                life.cancel()

    async def brokers(self, nursery: trio.Nursery) -> None:
        """Several lives of one broker, the last one without end."""
        for _ in range(4):
            ending = self.source.choice(["stop", "power-cut", "process-kill"])
            async with trio.open_nursery() as life:
                await life.start(self.live, ending)
            if ending != "stop":
                self.disk = self.disk.restart()
            await trio.sleep(self.source.uniform(0, 1))
        await nursery.start(self.live, None)

    async def trouble(self) -> None:
        """Reset and cut connections now and then."""
        while True:
            await trio.sleep(self.source.uniform(0.05, 0.5))
            if self.source.random() < 0.6:
                self.network.reset()
            else:
                self.network.cut("*", "broker", both_ways=self.source.random() < 0.5)
                await trio.sleep(self.source.uniform(0, 3))
                self.network.heal()

    async def write(self, client: Client, writer: int) -> None:
        async with client.producer("t", batch_messages=4, delivery_timeout_ms=20_000) as producer:
            for number in range(60):
                value = b"%d/%d" % (writer, number)
                self.attempted.append(value)
                try:
                    self.acknowledged[value] = (await producer.send(value)).offset
                except RejectedError:
                    self.rejected.add(value)
                except OutcomeUnknownError:
                    pass
                await trio.sleep(self.source.uniform(0, 0.1))
            assert not producer.losses
        self.writers_done += 1

    async def read(self, client: Client) -> None:
        async with client.consumer("t", start="start") as consumer:
            async for message in consumer:
                self.seen.append((message.offset, message.value))

    async def play(self) -> list[bytes]:
        """Play the story and return what the log holds at its end."""
        with self.network.installed():
            async with trio.open_nursery() as nursery:
                ports = model_ports(self.seed * 1_000 + 999, clock=self.clock)
                async with trio.open_nursery() as first:
                    await first.start(self.live, None)
                    async with mqcore.connect(URL, ports=ports, **CLIENT) as client:
                        await client.admin.create_topic("t")
                    first.cancel_scope.cancel()
                nursery.start_soon(self.brokers, nursery)
                async with mqcore.connect(URL, ports=ports, **CLIENT) as client:
                    async with trio.open_nursery() as acting:
                        acting.start_soon(self.read, client)
                        acting.start_soon(self.trouble)
                        async with trio.open_nursery() as writing:
                            for writer in range(3):
                                writing.start_soon(self.write, client, writer)
                        acting.cancel_scope.cancel()
                    self.network.calm()
                    final = await self.drain(client)
                nursery.cancel_scope.cancel()
        return final

    async def drain(self, client: Client) -> list[bytes]:
        end, _ = await client.admin.look_up_offset("t", 0, "end")
        values: list[bytes] = []
        async with client.consumer("t", start="start") as consumer:
            while len(values) < end:
                values += (await consumer.next_batch()).values
        return values


@pytest.mark.parametrize("seed", range(4))
def test_g01_g04_g05_g06_g07_g15_hold_through_kills_power_cuts_and_broken_networks(seed: int) -> None:
    story = Story(seed)
    final = run_simulation(story.play, seed=seed, seconds_max=3_600)
    assert story.writers_done == 3
    assert story.lives == 6
    assert len(set(final)) == len(final), "G15: doubled"
    assert set(final) <= set(story.attempted), "G04: phantom"
    assert story.rejected.isdisjoint(final), "G07: rejected and read"
    for value, offset in story.acknowledged.items():
        assert final[offset] == value, "G01: acknowledged and lost"
    for writer in range(3):
        numbers = [int(value.split(b"/")[1]) for value in final if value.startswith(b"%d/" % writer)]
        assert numbers == sorted(numbers), "order of one producer"
    assert [offset for offset, _ in story.seen] == list(range(len(story.seen))), "G06: skipped or went back"
    assert [value for _, value in story.seen] == final[: len(story.seen)], "G05: two contents"
    assert len(story.acknowledged) > 100
