"""Producers of ``mqcore.client`` under test: what they are given, and the one outcome that they report of each part.

The client retries by itself, so an attempt in a history is everything that it did about one part of a batch: what it
calls rejected must never be read, and it is idempotent, so nothing may be there twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import trio

from mqcore import client as library
from mqcore.errors import OutcomeUnknownError, RejectedError
from mqcore.nurseries import one_error
from mqcore_conformance.clients._library import GONE, Watcher, connected, watched
from mqcore_conformance.clients._producer import mark_of, messages_of, tags_of
from mqcore_conformance.clients._session import Pauses
from mqcore_conformance.histories import Completed, Invoked, digest_of
from mqcore_conformance.plans import TOPIC, LibraryPlan, ProducerPlan, SendPlan
from mqcore_conformance.world import World

GENERATIONS_MAX = 6
"""How often a send that was rejected is made anew, with other contents."""
REST_S = 30.0
"""How long, at most, nothing new is sent while too many deliveries are open."""
_FINAL = frozenset({"policy-too-weak", "policy-too-strong", "malformed-batch", "batch-too-large", "message-too-large"})


@attrs.frozen(eq=False)
class _Item:
    """One send of the plan; ``generation`` counts how often it was made anew."""

    number: int
    plan: SendPlan
    generation: int = 0

    @property
    def suffix(self) -> str:
        return f".{self.number}" + (f"~{self.generation}" if self.generation else "")


@attrs.define(eq=False)
class _Part:
    """Messages of one send that have their outcome together."""

    item: _Item
    name: str
    values: list[bytes]
    keys: list[bytes | None]
    first: int


class LibraryProducer:
    """One producer of the plan. The same face as ``WireProducer``."""

    def __init__(self, world: World, plan: ProducerPlan) -> None:
        self.world = world
        self.plan = plan
        self.done = False
        self.last_code = ""
        self._options = plan.library or LibraryPlan()
        self._todo = deque(_Item(number, send) for number, send in enumerate(plan.sends))
        self._open = 0
        self._moved = trio.Event()
        self._must_reopen = False
        self._is_refused = False
        self._partition = ""
        self._watcher: Watcher | None = None

    async def run(self) -> None:
        """Send everything, over as many clients as it takes."""
        backoff = Pauses()
        with self.world.host(self.plan.name), watched(self.world) as self._watcher:
            while self._todo:
                try:
                    async with connected(self.world, self._watcher, self.plan.name) as client:
                        await self._use(client, backoff)
                except GONE as error:
                    self.last_code = getattr(error, "name", "") or type(error).__name__
                await backoff.pause()
        self.done = True
        self.world.changed()

    async def _use(self, client: library.Client, backoff: Pauses) -> None:
        while self._todo:
            before = await client.admin.resolve_topic(TOPIC)
            options = attrs.asdict(self._options, filter=lambda field, _: field.name != "singly")
            options["batches_in_flight_max"] = self.plan.window
            async with client.producer(TOPIC, **options) as producer:
                if (await client.admin.resolve_topic(TOPIC)).id != before.id:
                    continue  # which of the two it is for is not known
                name = self.world.name_topic(before.id)
                self._partition = f"{name}/{self.plan.partition}"
                with one_error():
                    async with trio.open_nursery() as waiting:
                        await self._send_all(producer, waiting, backoff)

    async def _send_all(self, producer: library.Producer, waiting: trio.Nursery, backoff: Pauses) -> None:
        self._must_reopen = False
        while not self._must_reopen and (self._todo or self._open):
            if not self._todo or self._open >= 4 * self.plan.window:
                self._moved = trio.Event()
                with trio.move_on_after(REST_S):
                    await self._moved.wait()
                continue
            item = self._todo.popleft()
            if item.generation and self._is_refused:
                await backoff.pause()
            elif item.plan.pause_us:
                await trio.sleep(item.plan.pause_us / 1e6)
            await self._send(producer, item, waiting)

    # ---- sending ---------------------------------------------------------------------------------------------

    async def _send(self, producer: library.Producer, item: _Item, waiting: trio.Nursery) -> None:
        values, keys = messages_of(self.plan.name, item.number, item.generation, item.plan.sizes)
        name = f"{self.plan.name}{item.suffix}"
        if len(values) > 1 and (self._options.singly or item.plan.one_way):
            parts = [_Part(item, f"{name}/{at}", [values[at]], [keys[at]], at) for at in range(len(values))]
        else:
            parts = [_Part(item, name, values, keys, 0)]
        for part in parts:
            if self.plan.window == 1 and len(part.values) == 1 and not item.plan.one_way:
                await self._send_and_wait(producer, part)
            elif item.plan.one_way:
                self._invoke(part)
                await producer.send_one_way(
                    part.values[0], part.keys[0], partition=self.plan.partition, tag=self._tag(part.item)
                )
            else:
                await self._post(producer, part, waiting)

    async def _send_and_wait(self, producer: library.Producer, part: _Part) -> None:
        self._invoke(part)
        self._open += 1
        try:
            receipt = await producer.send(
                part.values[0],
                part.keys[0],
                partition=self.plan.partition,
                policy=_policy(part.item.plan),
                tag=self._tag(part.item),
            )
        except (RejectedError, OutcomeUnknownError) as error:
            self._failed(part, error)
        else:
            self._acknowledged(part, receipt)

    async def _post(self, producer: library.Producer, part: _Part, waiting: trio.Nursery) -> None:
        policy, partition, tag = _policy(part.item.plan), self.plan.partition, self._tag(part.item)
        await producer.wait_for_room(sum(map(len, part.values)))
        deliveries: list[library.Delivery] = []
        try:
            if len(part.values) == 1:
                deliveries = [producer.post(part.values[0], part.keys[0], partition=partition, policy=policy, tag=tag)]
            else:
                keys = part.keys if any(key is not None for key in part.keys) else None
                deliveries = producer.post_many(part.values, keys, partition, policy=policy, tag=tag)
        except RejectedError as error:
            self._invoke(part)
            self._open += 1
            self._failed(part, error)
            return
        # nothing has left yet: the writer is another task
        for each, delivery in zip(_divided(part, deliveries), deliveries, strict=True):
            self._invoke(each)
            self._open += 1
            waiting.start_soon(self._wait_for, each, delivery)

    async def _wait_for(self, part: _Part, delivery: library.Delivery) -> None:
        try:
            receipt = await delivery.wait()
        except (RejectedError, OutcomeUnknownError) as error:
            self._failed(part, error)
        else:
            self._acknowledged(part, receipt)

    def _tag(self, item: _Item) -> str | None:
        """The tag of all messages of a send."""
        return tags_of(self.plan.name, item.number, item.generation, 1)[0] if self.plan.tagged else None

    # ---- the record ------------------------------------------------------------------------------------------

    def _invoke(self, part: _Part) -> None:
        plain = self._options.codec == "none"
        payload = sum(map(len, part.values)) + sum(len(key) for key in part.keys if key is not None)
        self.world.note(
            Invoked,
            process=self.plan.name,
            send=part.name,
            attempt=1,
            partition=self._partition,
            messages=tuple(map(digest_of, part.keys, part.values)),
            size_bytes=payload if plain else 0,  # at least: what else is in the batch is the client's choice
            policy=part.item.plan.policy,
            idempotent=True,
            one_way=part.item.plan.one_way,
            tags=(self._tag(part.item) or "",) * len(part.values) if self.plan.tagged else (),
        )

    def _acknowledged(self, part: _Part, receipt: library.Receipt) -> None:
        assert self._watcher is not None
        self._is_refused = False
        if self._options.codec == "none":
            mark = mark_of(self.plan.name, part.item.number, part.item.generation, part.first)
            self.world.stored.append((self._partition, receipt.offset, mark))
        self._complete(
            part,
            "acknowledged",
            # A duplicate states the epoch of the original, which says nothing of who answered.
            by=self._watcher.main.by if receipt.duplicate else self._watcher.reign_of(receipt.epoch),
            offset=receipt.offset,
            epoch=receipt.epoch,
            level=receipt.level.label,
            copies=self.world.copies_stated(receipt.copies),
            duplicate=receipt.duplicate,
        )
        self.world.acknowledged()

    def _failed(self, part: _Part, error: RejectedError | OutcomeUnknownError) -> None:
        if isinstance(error, OutcomeUnknownError):
            self._complete(part, "unknown", code="unknown")
            return
        self._complete(part, "rejected", code=error.name)
        self.last_code, self._is_refused = error.name, True
        self._must_reopen = self._must_reopen or error.name == "unknown-topic"
        item = part.item
        if self.plan.retries and error.name not in _FINAL and item.generation < GENERATIONS_MAX:
            again = attrs.evolve(item.plan, sizes=item.plan.sizes[part.first : part.first + len(part.values)])
            # a number of its own, so that every part that is sent anew has contents and a name of its own
            self._todo.append(_Item(item.number * 1000 + part.first + 1, again, item.generation + 1))

    def _complete(self, part: _Part, outcome: str, **fields: Any) -> None:
        self.world.note(Completed, process=self.plan.name, send=part.name, attempt=1, outcome=outcome, **fields)
        self._open -= 1
        self._moved.set()


def _divided(part: _Part, deliveries: Sequence[library.Delivery]) -> Iterator[_Part]:
    """Give what each of ``deliveries`` is about: the client may have put a call into several batches."""
    if len(deliveries) == 1:
        yield part
        return
    at = 0
    for delivery in deliveries:
        end = at + delivery.count
        yield _Part(part.item, f"{part.name}/{at}", part.values[at:end], part.keys[at:end], part.first + at)
        at = end


def _policy(send: SendPlan) -> Any:
    return None if send.policy == "topic" else send.policy
