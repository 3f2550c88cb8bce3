"""A reign that ends while something is being written: told "not primary", nothing of it was done (R13, G16).

The same run is played again and again, each time with the reign left before another step of the broker's tasks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest
import trio
from group_members import DirectMember, broker_of_groups, until

from mqcore.broker import Node
from mqcore.broker._codes import code_of
from mqcore.errors import MqcoreError
from mqcore.protocol import Code, Committed
from mqcore.testing import ModelDisk, run_simulation, seeded

Told: TypeAlias = set[tuple[int, bool]]
Write: TypeAlias = Callable[[Node, DirectMember], Awaitable[int]]
"""Does it, and returns the code that it is answered with; 0 once it is done."""

STEPS_MAX = 120


class LeaveAt(trio.abc.Instrument):
    """Leaves the reign before the chosen step of all tasks, counted from when the node is named."""

    def __init__(self, step: int) -> None:
        self.node: Node | None = None
        self.steps = 0
        self._at = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.node is not None:
            self.steps += 1
            if self.steps == self._at:
                self.node.leave_reign()


async def answered(node: Node, operation: str, **arguments: Any) -> int:
    try:
        await node.call(operation, arguments)
    except MqcoreError as error:
        return code_of(error)
    return 0


async def commit(node: Node, member: DirectMember) -> int:
    try:
        answers = member.commit(0, 5)
    except MqcoreError as error:
        return code_of(error)
    await until(lambda: answers)
    (answer,) = answers
    return 0 if isinstance(answer, Committed) else code_of(answer)  # type: ignore[arg-type]


def cursor_of(node: Node, member: DirectMember, group: str = "g1") -> object:
    assert node.reign is not None
    known = node.reign.groups.cursors.table.topics.get((group, member.key[1]))
    return None if known is None else known.get(0)


async def create(node: Node, member: DirectMember) -> int:
    return await answered(node, "topic.create", name="new", partitions=1, config={})


async def alter(node: Node, member: DirectMember) -> int:
    return await answered(node, "topic.alter", name="lines", config={"retention_ms": 5000})


async def delete(node: Node, member: DirectMember) -> int:
    return await answered(node, "topic.delete", name="lines")


async def claim(node: Node, member: DirectMember) -> int:
    return await answered(node, "producer.claim", topic="lines", name="billing", above=0)


async def reset(node: Node, member: DirectMember) -> int:
    return await answered(node, "group.reset", name="other", topic="lines", to="end")


WRITES: dict[str, tuple[Write, Callable[[Node, DirectMember], bool]]] = {
    "commit": (commit, lambda node, member: cursor_of(node, member) is not None),
    "create": (create, lambda node, _: "new" in node.reign.topics.by_name),  # type: ignore[union-attr]
    "alter": (alter, lambda node, _: node.reign.topics.by_name["lines"].config.retention_ms == 5000),  # type: ignore[union-attr]
    "delete": (delete, lambda node, _: "lines" not in node.reign.topics.by_name),  # type: ignore[union-attr]
    "claim": (claim, lambda node, _: node.reign.names.count == 1),  # type: ignore[union-attr]
    "reset": (reset, lambda node, member: cursor_of(node, member, "other") is not None),
}


async def play(leaving: LeaveAt, write: Write, is_done: Callable[[Node, DirectMember], bool], told: Told) -> None:
    async with broker_of_groups(ModelDisk(seeded(1, "disk")), flush="sync", partitions=1) as (node, _, topic_id):
        member = DirectMember(node, topic_id, "m1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(member.stay)
            await until(lambda: member.reads == [0])
            nursery.cancel_scope.cancel()
        leaving.node = node
        with trio.fail_after(60):
            code = await write(node, member)
        leaving.node = None
        await until(lambda: node.reign is not None and node.reign.groups.cursors.is_ready)
        told.add((code, is_done(node, member)))


@pytest.mark.parametrize("name", WRITES)
def test_g16_r13_what_is_told_not_primary_has_not_happened(name: str) -> None:
    told: Told = set()
    for step in range(1, STEPS_MAX):
        leaving = LeaveAt(step)

        async def main(leaving: LeaveAt = leaving) -> None:
            await play(leaving, *WRITES[name], told)

        run_simulation(main, seed=1, instruments=[leaving])
        if leaving.steps < step:
            break
    unknown = {(Code.APPEND_FAILED, False), (Code.APPEND_FAILED, True)}
    assert told & unknown, "it was never under way"
    assert (0, True) in told
    assert told <= unknown | {(0, True), (Code.NOT_PRIMARY, False)}, told
    assert leaving.steps < step, f"only {step} of its steps were tried"
