"""A reign that is cancelled anywhere, under load, leaves a store on which the next one keeps every clause.

One seeded run is counted in steps of tasks; then the same run is played again and again, each time with the reign left
at another step, and the next one opened on the same store in the same process. The process lives on, so that nothing
excuses a loss.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio

import mqcore
from mqcore.abc import Notice
from mqcore.client import Client
from mqcore.config import make_config
from mqcore.errors import MqcoreError, OutcomeUnknownError, RejectedError, StorageError
from mqcore.log import LogStore
from mqcore.protocol import Code
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

URL = "inproc://reigns"
CONFIG: dict[str, Any] = {
    "storage": "mmap:///data?segment_bytes=1MiB",
    "listen": [URL],
    "flush": "async(max_messages=8)",
}
POLICIES = ("topic", "none", "async", "sync")
SENDS = 12
STRIDE = 4
"""Every step is tried by one of the offsets; four seeds would be as many plans and four times the time."""


class LeaveAt(trio.abc.Instrument):
    """Counts the steps of all tasks and leaves the node's reign before the chosen ones."""

    def __init__(self, *steps: int) -> None:
        self.node: mqcore.Node | None = None
        self.steps = 0
        self.left = 0
        self._at = {*steps}

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.node is not None:
            self.steps += 1
            if self.steps in self._at:
                self.left += 1
                self.node.leave_reign()


class Load:
    """Producers of every policy, a reader, and topics that come and go, at one node; and what they saw."""

    def __init__(self, seed: int, leaving: LeaveAt) -> None:
        self.seed = seed
        self.leaving = leaving
        self.notices: list[Notice] = []
        self.acknowledged: dict[bytes, mqcore.Receipt] = {}
        self.rejected: set[bytes] = set()
        self.attempted: set[bytes] = set()
        self.seen: list[tuple[int, bytes]] = []
        self.final: list[bytes] = []
        self.again: list[bytes] = []
        self.reigns: list[Any] = []
        self.disk = ModelDisk(seeded(seed, "disk"))

    async def play(self) -> None:
        ports = model_ports(self.seed, self.disk)
        async with mqcore.open_broker(**CONFIG, ports=ports, report=self.notices.append) as node:
            self.reigns.append(node.reign)
            async with mqcore.connect(URL, ports=ports, retry_ms_max=50) as client:
                await client.admin.create_topic("t", config={"weakest_send": "none"})
                self.leaving.node = node
                async with trio.open_nursery() as reading:
                    reading.start_soon(self.read, client)
                    async with trio.open_nursery() as acting:
                        acting.start_soon(self.change_topics, client)
                        for policy in POLICIES:
                            acting.start_soon(self.write, client, policy)
                    reading.cancel_scope.cancel()
                self.leaving.node = None
                self.reigns.append(node.reign)
                self.final = await drain(client)
                await self.check_the_dead(self.reigns[0], node)
        self.disk = self.disk.restart()
        ports = model_ports(self.seed + 1, self.disk)
        async with mqcore.open_broker(**CONFIG, ports=ports) as node, mqcore.connect(URL, ports=ports) as client:
            self.again = await drain(client)

    async def write(self, client: Client, policy: Any) -> None:
        async with client.producer("t", batch_messages=2) as producer:
            for number in range(SENDS):
                value = b"%s/%d" % (policy.encode(), number)
                self.attempted.add(value)
                try:
                    self.acknowledged[value] = await producer.send(value, policy=policy)
                except RejectedError:
                    self.rejected.add(value)
                except OutcomeUnknownError:
                    pass

    async def read(self, client: Client) -> None:
        async with client.consumer("t", start="start") as consumer:
            async for message in consumer:
                self.seen.append((message.offset, message.value))

    async def change_topics(self, client: Client) -> None:
        for number in range(4):
            for change in (client.admin.create_topic, client.admin.delete_topic):
                try:
                    await change(f"other-{number}")
                except MqcoreError as error:
                    assert not isinstance(error, StorageError), "what is told of a reign that ended is not its storage"

    async def check_the_dead(self, old: Any, node: mqcore.Node) -> None:
        """Nothing of an ended reign acts: its logs are closed, its partitions answer not-primary."""
        if old is node.reign:
            return
        for partition in old.partitions.values():
            assert partition.closure[0] in (Code.NOT_PRIMARY, Code.UNKNOWN_TOPIC)
            with pytest.raises(StorageError) as caught:
                await partition.log.append_control(())
            assert caught.value.kind == "closed"


async def drain(client: Client) -> list[bytes]:
    end = (await client.admin.look_up_offset("t", 0, "end"))[0]
    values: list[bytes] = []
    async with client.consumer("t", start="start") as consumer:
        while len(values) < end:
            values += (await consumer.next_batch()).values
    return values


def played(seed: int, *steps: int) -> Load:
    leaving = LeaveAt(*steps)
    load = Load(seed, leaving)
    run_simulation(load.play, seed=seed, seconds_max=600, instruments=[leaving])
    assert leaving.left == len(steps)
    return load


def check(load: Load) -> None:
    final = load.final
    assert len(set(final)) == len(final), "G15: doubled"
    assert set(final) <= load.attempted, "G04: phantom"
    assert load.rejected.isdisjoint(final), "G07: rejected and read"
    for value, receipt in load.acknowledged.items():
        assert final[receipt.offset] == value, f"G01: {value!r} was acknowledged and is gone"
    for policy in POLICIES:
        numbers = [int(value.split(b"/")[1]) for value in final if value.startswith(policy.encode() + b"/")]
        assert numbers == sorted(numbers), "order of one producer"
    assert [offset for offset, _ in load.seen] == list(range(len(load.seen))), "G06: skipped or went back"
    assert [value for _, value in load.seen] == final[: len(load.seen)], "G05: two contents"
    assert load.again == final, "G17: an orderly stop afterwards keeps all of it"
    assert not [notice for notice in load.notices if notice.kind in ("defect", "connection-failed")], load.notices


@pytest.mark.slow
@pytest.mark.parametrize("offset", range(STRIDE))
def test_a_reign_left_at_any_step_loses_nothing_and_doubles_nothing(offset: int) -> None:
    whole = played(3)
    check(whole)
    assert len(whole.acknowledged) == SENDS * len(POLICIES)
    assert whole.leaving.steps > 400
    epochs = set()
    for step in range(1 + offset, whole.leaving.steps, STRIDE):
        load = played(3, step)
        check(load)
        assert len(load.acknowledged) == SENDS * len(POLICIES), "clients go on by themselves"
        epochs |= {receipt.epoch for receipt in load.acknowledged.values()}
    assert epochs == {1, 2}, "both reigns acknowledged"


def test_two_reigns_left_in_a_row_are_as_good_as_one() -> None:
    steps = played(7).leaving.steps
    for first in range(20, steps // 2, steps // 12):
        check(played(7, first, first + 3))


@pytest.mark.parametrize("step", range(1, 25))
def test_a_first_reign_that_is_left_while_it_is_opened_is_followed_by_one_that_serves(
    step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaving = LeaveAt(step)
    open_store = LogStore.open

    async def open_and_count(store: LogStore) -> None:
        await open_store(store)
        leaving.node = node

    async def main() -> None:
        nonlocal node
        node = mqcore.Node(make_config(**CONFIG), ports=model_ports(1, ModelDisk(seeded(1, "disk"))))
        async with trio.open_nursery() as nursery:
            with trio.fail_after(10):
                await nursery.start(node.serve)
            await trio.sleep(1)
            assert node.reign is not None
            node.stop()

    node: Any = None
    monkeypatch.setattr(LogStore, "open", open_and_count)
    run_simulation(main, seed=1, instruments=[leaving])
    assert leaving.left == 1


def test_r13_a_deletion_that_is_told_not_primary_has_not_happened(open_setup: Any) -> None:
    told = set()
    for step in range(1, 40):
        leaving = LeaveAt(step)

        async def main(leaving: LeaveAt = leaving) -> None:
            ports = model_ports(1, ModelDisk(seeded(1, "disk")))
            async with open_setup(CONFIG["storage"], ports=ports, flush="sync") as setup, setup.client() as client:
                await client.create("t")
                leaving.node = setup.broker
                reply = await client.call("topic.delete", name="t")
                leaving.node = None
                await trio.sleep(1)
                told.add((getattr(reply, "code", 0), "t" in setup.broker.reign.topics.by_name))

        run_simulation(main, seed=1, instruments=[leaving])
    assert (
        {(0, False), (Code.NOT_PRIMARY, True)}
        <= told
        <= {(0, False), (Code.NOT_PRIMARY, True)} | {(Code.APPEND_FAILED, there) for there in (False, True)}
    )
