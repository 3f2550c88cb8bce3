"""Consumers of ``mqcore.client`` under test: every batch or message that they give, every gap that they report."""

from __future__ import annotations

from typing import Any

import trio

from mqcore import client as library
from mqcore.errors import BatchUndecodableError, MessagesMissingError, RejectedError
from mqcore_conformance.clients._consumer import PlannedConsumer, wait_ms_of
from mqcore_conformance.clients._library import GONE, Watcher, connected, watched
from mqcore_conformance.clients._session import Pauses
from mqcore_conformance.histories import FetchAnswered, FetchFailed, ReadBatch, Seeked, digest_of
from mqcore_conformance.plans import TOPIC, ConsumerPlan
from mqcore_conformance.world import World


class LibraryConsumer(PlannedConsumer):
    """A consumer of ``mqcore.client``."""

    gone = GONE

    def __init__(self, world: World, plan: ConsumerPlan) -> None:
        super().__init__(world, plan)
        self._topic_id = ""
        self._positions: dict[int, tuple[int, int]] = {}
        """Where it goes on when it comes back."""
        self._names: dict[int, str] = {}
        self._watcher: Watcher | None = None
        self._consumer: library.Consumer | None = None

    @property
    def positions(self) -> dict[int, int]:
        """See ``PlannedConsumer``."""
        known = self._positions if self._consumer is None else self._consumer.positions
        return {partition: offset for partition, (offset, _) in known.items()}

    async def _use(self, backoff: Pauses) -> None:
        with watched(self.world) as self._watcher:
            async with connected(self.world, self._watcher, self.plan.name) as client:
                await self._use_client(client)

    async def _use_client(self, client: library.Client) -> None:
        found = await client.admin.resolve_topic(TOPIC)
        if found.id != self._topic_id:
            self._topic_id = found.id
            self._positions = {}
        name = self.world.name_topic(self._topic_id)
        self._names = {number: f"{name}/{number}" for number in range(found.partitions)}
        partitions = None if self.plan.every else [self.plan.partition]
        start: Any = self._positions or "start"
        wait_ms = wait_ms_of(self.plan)
        options: dict[str, Any] = {"fetch_bytes": self.plan.bytes_max, "wait_ms": wait_ms, "tags": self.plan.tags}
        async with client.consumer(TOPIC, partitions, start, **options) as consumer:
            if (await client.admin.resolve_topic(TOPIC)).id != self._topic_id:
                return  # which of the two it reads is not known
            self._consumer = consumer
            try:
                await self._read(consumer)
            finally:
                self._positions = consumer.positions
                self._consumer = None

    async def _read(self, consumer: library.Consumer) -> None:
        while True:
            if self._seeks and self._answers >= self._seeks[0].after:
                await self._seek(consumer, self._seeks.pop(0).to)
            before = consumer.positions
            try:
                if self.plan.singly:
                    message = await anext(consumer)
                    digest = digest_of(message.key, message.value)
                    read = {message.offset: digest}
                    self._take(before, message.partition, message.epoch, read, message.offset + 1)
                else:
                    batch = await consumer.next_batch()
                    keys = batch.keys or [None] * len(batch)
                    read = dict(zip(batch.offsets, map(digest_of, keys, batch.values), strict=True))
                    self._take(before, batch.partition, batch.epoch, read, batch.next_offset)
            except MessagesMissingError as error:
                code = "below-start" if error.reason == "retention" else "diverged"
                self._missed(before, error.partition, code, error.position, -1, error.position)
            except BatchUndecodableError as error:
                self._undecodable(error)
                self._missed(
                    before, error.partition, "damaged", error.first_offset, error.next_offset, error.next_offset
                )
            except RejectedError:
                return
            if self.plan.pause_us:
                await trio.sleep(self.plan.pause_us / 1e6)

    async def _seek(self, consumer: library.Consumer, to: str) -> None:
        try:
            await consumer.seek(int(to) if to.isdigit() else to)
        finally:
            for partition, (offset, _) in consumer.positions.items():
                self._seeked(partition, offset, "asked")

    # ---- the record ------------------------------------------------------------------------------------------

    def _at(self, before: dict[int, tuple[int, int]], partition: int) -> dict[str, Any]:
        """What every answer is recorded with. The client asks ahead: certainly not before its stream was opened."""
        assert self._watcher is not None
        return {
            "process": self.plan.name,
            "partition": self._names[partition],
            "asked_at": self._watcher.side.opened_at,
            "by": self._watcher.side.by,
            "offset": before[partition][0],
            "epoch": before[partition][1],
        }

    def _take(
        self, before: dict[int, tuple[int, int]], partition: int, epoch: int, read: dict[int, str], end: int
    ) -> None:
        """Record messages of one batch by their offsets, and up to where its messages are read."""
        self._answers += 1
        runs: list[list[int]] = []
        for offset in read:
            if runs and runs[-1][-1] + 1 == offset:
                runs[-1].append(offset)
            else:
                runs.append([offset])
        self.world.note(
            FetchAnswered,
            **self._at(before, partition),
            next_offset=end,
            start_offset=0,
            committed_offset=end,
            batches=tuple(
                ReadBatch(base_offset=run[0], epoch=epoch, messages=tuple(read[offset] for offset in run))
                for run in runs
            ),
            tags=self.plan.tags,
            next_epoch=epoch if self.plan.tags else 0,
        )

    def _missed(
        self, before: dict[int, tuple[int, int]], partition: int, code: str, point: int, until: int, goes_on: int
    ) -> None:
        self.world.note(FetchFailed, **self._at(before, partition), code=code, point=point, until=until)
        self._seeked(partition, goes_on, code)

    def _seeked(self, partition: int, offset: int, why: str) -> None:
        self.world.note(Seeked, process=self.plan.name, partition=self._names[partition], offset=offset, why=why)

    def _undecodable(self, error: BatchUndecodableError) -> None:
        """What the broker served cannot be read; what it reported as damaged was not served."""
        if "damaged on the broker" not in str(error):
            question = f"{self.plan.name} checks what it was served from offset {error.first_offset}"
            self.world.probe("G12", question, False, str(error))
