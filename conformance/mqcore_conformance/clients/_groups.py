"""A consumer group of the suite's own: one member after the other reads on from its cursors, commits and leaves.

It records every cursor that a broker states and every commit with what came of it; what a cursor may be is judged from
that alone (G16).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import trio

from mqcore.groups import NO_CURSOR
from mqcore.protocol import Code, Commit, Committed, Failed, Fetched, Message, Sync, Synced
from mqcore_conformance.clients._consumer import PartitionReader
from mqcore_conformance.clients._session import (
    CallFailedError,
    Pauses,
    SessionLostError,
    WireError,
    WireSession,
    code_name,
    connect,
)
from mqcore_conformance.histories import DRAIN, CursorCommitted, CursorSeen
from mqcore_conformance.plans import TOPIC, GroupPlan
from mqcore_conformance.world import World

FETCHES_MAX = 3
SYNCS_MAX = 6
ANSWER_S = 2.0
"""How long an answer may take that needs a commit of the broker's."""
_REFUSALS = frozenset(
    {
        Code.NOT_OWNER,
        Code.DIVERGED,
        Code.CURSOR_PAST_END,
        Code.NOT_YET,
        Code.UNKNOWN_TOPIC,
        Code.INVALID_REQUEST,
        Code.CURSORS_NOT_READY,
        Code.LIMIT_REACHED,
    }
)
"""What a commit is refused with before anything of it is written."""


class GroupReader:
    """One group of the plan; reads on until it is cancelled."""

    def __init__(self, world: World, plan: GroupPlan) -> None:
        self.world = world
        self.plan = plan
        self._members = 0

    async def run(self) -> None:
        """Come, read, commit and leave, again and again, over as many connections as it takes."""
        backoff = Pauses()
        with self.world.host(self.plan.name):
            while True:
                try:
                    async with connect(self.world) as session:
                        while True:
                            await self._visit(session)
                            backoff.reset()
                            await trio.sleep(self.plan.pause_us / 1e6)
                except WireError:
                    await backoff.pause()

    async def _visit(self, session: WireSession) -> None:
        topic_id, name = await session.resolve(TOPIC)
        self._members += 1
        member = _Member(self.world, self.plan, session, topic_id, name, f"{self.plan.name}-{self._members}")
        await member.join()
        await member.read()
        await member.commit()
        await member.leave()


class _Member:
    """One member, from its first sync to its last."""

    def __init__(
        self, world: World, plan: GroupPlan, session: WireSession, topic_id: bytes, topic: str, member: str
    ) -> None:
        self.world = world
        self.plan = plan
        self.session = session
        self.topic_id = topic_id
        self.topic = topic
        self.member = member
        self.token = hashlib.blake2b(member.encode(), digest_size=16).digest()
        self.sequence = 0
        self.seen = 0
        self.held: dict[int, int] = {}
        self.readers: dict[int, PartitionReader] = {}
        self.diverged: set[int] = set()

    async def join(self) -> None:
        for _ in range(SYNCS_MAX):
            await self._sync()
            if len(self.held) == self.world.plan.partitions:
                return

    async def leave(self) -> None:
        await self._sync(leaves=True)

    async def _sync(self, *, leaves: bool = False) -> None:
        asked_at = len(self.world.history)
        self.sequence += 1
        request = Sync(
            self.session.next_id(), self.topic_id, self.plan.name, self.member, self.token, self.sequence,
            self.sequence == 1, leaves, self.seen, self.plan.session_ms, self.plan.session_ms,
            self.plan.session_ms // 3, "", sorted(self.held.items()),
        )  # fmt: skip
        reply = await self._ask(request)
        if isinstance(reply, Failed):
            raise CallFailedError(reply.code, reply.text)
        assert isinstance(reply, Synced)
        self.seen = reply.generation
        if leaves or reply.granted is None:
            return
        for partition, generation, offset, epoch in reply.granted:
            if self.held.get(partition) != generation:
                self._granted(partition, offset, epoch, asked_at)
        self.held = {partition: generation for partition, generation, _, _ in reply.granted}

    def _granted(self, partition: int, offset: int, epoch: int, asked_at: int) -> None:
        reader = self.readers[partition] = PartitionReader(self.world, self.plan.name, partition)
        reader.set_topic(self.topic_id, self.topic)
        is_known = offset != NO_CURSOR
        self.world.note(
            CursorSeen,
            by=self.session.by,
            process=self.member,
            group=self.plan.name,
            partition=reader.partition,
            asked_at=asked_at,
            offset=offset if is_known else -1,
            epoch=epoch,
        )
        reader.go_to(offset if is_known else 0, epoch, "asked")

    async def read(self) -> None:
        for partition in sorted(self.held):
            reader = self.readers[partition]
            for _ in range(FETCHES_MAX):
                before = reader.offset
                reply = await reader.fetch(self.session, self.plan.bytes_max, 0)
                if isinstance(reply, Failed) and reply.code == Code.DIVERGED:
                    self.diverged.add(partition)
                elif not isinstance(reply, Fetched) or reader.offset == before:
                    break

    async def commit(self) -> None:
        if not self.held:
            return
        asked_at = len(self.world.history)
        entries = [
            (partition, generation, self.readers[partition].offset, self.readers[partition].epoch)
            for partition, generation in sorted(self.held.items())
        ]
        request = Commit(self.session.next_id(), self.topic_id, self.plan.name, self.member, self.token, entries)
        outcome, code, in_force = "unknown", "", dict[int, tuple[int, int]]()
        try:
            reply = await self._ask(request)
            if isinstance(reply, Committed):
                outcome = "done"
                in_force = {partition: (offset, epoch) for partition, offset, epoch in reply.cursors}
            elif isinstance(reply, Failed):
                outcome, code = "refused" if reply.code in _REFUSALS else "unknown", code_name(reply.code)
        finally:
            for partition, _, offset, epoch in entries:
                told = in_force.get(partition, (-1, 0))
                self.world.note(
                    CursorCommitted,
                    by=self.session.by,
                    process=self.member,
                    group=self.plan.name,
                    partition=self.readers[partition].partition,
                    asked_at=asked_at,
                    offset=offset,
                    epoch=epoch,
                    outcome=outcome,
                    in_force=told[0],
                    in_force_epoch=told[1],
                    is_diverged=partition in self.diverged,
                    code=code,
                )

    async def _ask(self, request: Sync | Commit) -> Message:
        await self.session.send(request)
        try:
            with trio.fail_after(self.plan.session_ms / 1000 + ANSWER_S):
                return await self.session.receive()
        except trio.TooSlowError:
            raise SessionLostError("no answer in time") from None


async def describe_groups(world: World, retry: Callable[[str], bool]) -> None:
    """Ask where each group of the plan stands in the end, as often as it takes; ``retry`` as for the drain."""
    backoff = Pauses()
    with world.host(DRAIN):
        for group in world.plan.groups:
            while True:
                try:
                    async with connect(world, world.drain_url) as session:
                        await _describe(world, session, group.name)
                    break
                except WireError as error:
                    if isinstance(error, CallFailedError) and error.code == Code.UNKNOWN_GROUP:
                        await _note_none(world, group.name)
                        break
                    if not retry(str(error)):
                        return
                await backoff.pause()


async def _describe(world: World, session: WireSession, group: str) -> None:
    asked_at = len(world.history)
    _, name = await session.resolve(TOPIC)
    told: Any = await session.call("group.describe", {"name": group, "topic": TOPIC})
    for each in told["state"]["partitions"]:
        _note_seen(world, session, group, f"{name}/{each['partition']}", asked_at, each)


def _note_seen(
    world: World, session: WireSession, group: str, partition: str, asked_at: int, told: Mapping[str, Any]
) -> None:
    is_known = told["offset"] is not None
    world.note(
        CursorSeen,
        by=session.by,
        process=DRAIN,
        group=group,
        partition=partition,
        asked_at=asked_at,
        offset=told["offset"] if is_known else -1,
        epoch=told["epoch"] if is_known else 0,
        status=told["status"],
    )


async def _note_none(world: World, group: str) -> None:
    """A group that the broker does not know has no cursor anywhere."""
    async with connect(world, world.drain_url) as session:
        _, name = await session.resolve(TOPIC)
        for number in range(world.plan.partitions):
            told = {"offset": None, "epoch": None, "status": "ok"}
            _note_seen(world, session, group, f"{name}/{number}", len(world.history), told)
