"""Members of groups that speak to a broker's groups directly, for the tests of what no client would do by itself."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

import mqcore
from mqcore.broker import Node, open_broker
from mqcore.broker._group_room import GroupRoom
from mqcore.groups import Grant, GroupSession, MemberSync
from mqcore.protocol import Code, Commit, Failed, Message, Sync, Synced
from mqcore.testing import ModelDisk, model_ports

SEGMENTS = "/data/segments/*"
"""Files of logs: written by the name that they were made under, so those of one log are not told from others."""
_REQUESTS = itertools.count(1)


class DirectMember:
    """A member, which syncs when it is told to. ``failures``: codes of the answers that were none."""

    def __init__(
        self, broker: Node, topic_id: bytes, name: str, *, group: str = "g1", session_ms: int = 10_000
    ) -> None:
        self.broker = broker
        self.key = (group, topic_id)
        self.session_ms = session_ms
        self.session = GroupSession(
            name, name.encode().ljust(16), session_us=session_ms * 1000, rebalance_us=60_000_000
        )
        self.failures: list[int] = []
        self.answers = 0
        self.is_gone = False
        self._asked: dict[int, MemberSync] = {}

    @property
    def room(self) -> GroupRoom:
        assert self.broker.reign is not None
        return self.broker.reign.groups

    def sync(self, *, wait_ms: int = 2_500, leaves: bool = False, assignor: str = "") -> None:
        """Say that it lives, or that it leaves."""
        self.is_gone = leaves
        sync = self.session.next_sync(self.now_us)
        number = next(_REQUESTS)
        self._asked[number] = sync
        group, topic_id = self.key
        message = Sync(
            number, topic_id, group, sync.member, sync.token, sync.sequence, sync.is_fresh, leaves, sync.seen,
            self.session_ms, 60_000, wait_ms, assignor, list(sync.held.items()),
        )  # fmt: skip
        try:
            self.room.sync(message, self, "test")
        except mqcore.RejectedError as error:
            self.failures.append(error.code)

    async def stay(self) -> None:
        """Sync again after every answer, until it leaves."""
        while not self.is_gone:
            before = self.answers
            self.sync()
            while self.answers == before:  # noqa: ASYNC110 - virtual time
                await trio.sleep(0.01)
            for partition in list(self.session.ending):
                self.session.finished(partition)

    def commit(self, partition: int, offset: int) -> list[Message | mqcore.MqcoreError]:
        """Commit a position; return where the answer comes."""
        answers: list[Message | mqcore.MqcoreError] = []
        group, topic_id = self.key
        generation = self.session.generation_of(partition)
        assert generation is not None
        entry = (partition, generation, offset, 0)
        message = Commit(next(_REQUESTS), topic_id, group, self.session.member, self.session.token, [entry])
        self.room.commit(message, answers.append)
        return answers

    @property
    def now_us(self) -> int:
        return round(trio.current_time() * 1e6)

    @property
    def reads(self) -> list[int]:
        """What it reads at this moment."""
        self.session.advance(self.now_us)
        return sorted(self.session.held)

    # as a connection's outbox

    def push(self, message: Message) -> None:
        self.answers += 1
        assert isinstance(message, Synced | Failed)
        sync = self._asked.pop(message.request_id)
        if isinstance(message, Failed):
            self.session.unanswered(sync.sequence)
            self.failures.append(Code(message.code))
            return
        granted = None
        if message.granted is not None:
            granted = {number: Grant(by, offset, epoch) for number, by, offset, epoch in message.granted}
        self.session.answered(sync.sequence, message.generation, granted, self.now_us)

    def replied(self, *, now: bool) -> None:
        """Nothing waits to be sent."""


@asynccontextmanager
async def broker_of_groups(
    disk: ModelDisk, *, run: int = 0, partitions: int = 4, **settings: Any
) -> AsyncIterator[tuple[Node, mqcore.Client, bytes]]:
    """A broker on ``disk`` with a topic of 10 messages a partition, and the topic's id."""
    ports = model_ports(run, disk=disk)
    # A flush in a thread: what stalls it stalls nothing else.
    settings["limits"] = {"flush_inline_us_max": 0, **settings.get("limits", {})}
    url = f"inproc://groups-of-{run}"
    async with (
        open_broker(storage="mmap:///data", listen=[url], ports=ports, **settings) as broker,
        mqcore.connect(url) as client,
    ):
        if not run:
            await client.admin.create_topic("lines", partitions=partitions)
            async with client.producer("lines") as producer:
                for number in range(10 * partitions):
                    await producer.send(b"%d" % number, partition=number % partitions)
        await until(lambda: broker.reign is not None and broker.reign.groups.cursors.is_ready)
        topic = await client.admin.resolve_topic("lines")
        for partition in range(partitions):
            await broker.open_partition(bytes.fromhex(topic.id), partition, may_be_copy=False)
        yield broker, client, bytes.fromhex(topic.id)


async def until(holds: Callable[[], object], seconds: float = 600) -> None:
    """Wait, on virtual time, until something holds."""
    with trio.fail_after(seconds):
        while not holds():  # noqa: ASYNC110 - what is waited for is anything that a broker knows
            await trio.sleep(0.01)
