"""What groups cost, counted: a sync or a commit does not look at every other member, group or cursor."""

from __future__ import annotations

import sys
from contextlib import contextmanager

import pytest
import trio
from group_members import DirectMember, broker_of_groups, until

from mqcore.testing import ModelDisk, run_simulation


@contextmanager
def counted():
    """How many instructions of Python are carried out meanwhile, in all tasks: a number that no load changes."""
    counts = [0]

    def note(frame, event, argument):
        frame.f_trace_opcodes = True
        counts[0] += event == "opcode"
        return note

    before = sys.gettrace()
    sys.settrace(note)
    try:
        yield counts
    finally:
        sys.settrace(before)


async def cost_of_a_sync(name, count):
    async with broker_of_groups(ModelDisk(), name=name) as (broker, _, topic_id):
        members = [DirectMember(broker, topic_id, f"m{each}") for each in range(count)]
        for _ in range(2):
            for member in members:
                member.sync(wait_ms=20_000)
            await trio.sleep(0.1)
        with counted() as counts:
            members[-1].sync(wait_ms=20_000)
        return counts[0]


def test_a_sync_costs_the_same_among_many_members_as_among_few():
    async def main():
        few, many = [await cost_of_a_sync(f"n{count}", count) for count in (10, 150)]
        assert many < 1.3 * few

    run_simulation(main)


async def cost_in_one_group(name, count, what):
    async with broker_of_groups(ModelDisk(), name=name) as (broker, _, topic_id):
        members = [DirectMember(broker, topic_id, "a", group=f"g{each}") for each in range(count)]
        for _ in range(2):
            for member in members:
                member.sync(wait_ms=0)
            await until(lambda: all(member.answers for member in members))
            await trio.sleep(0.1)
        answers = [member.commit(0, 1) for member in members]
        await until(lambda: all(answers))
        for member in members:
            member.sync(wait_ms=8_000)
        if what == "a commit":
            with counted() as counts:
                done = members[-1].commit(0, 2)
                await until(lambda: done)
        else:
            members[-1].sync(wait_ms=105)
            with counted() as counts:
                await trio.sleep(0.2)
        return counts[0]


@pytest.mark.parametrize("what", ["a commit", "a wait that ends"])
def test_what_happens_in_one_group_costs_the_same_beside_many_others_as_beside_few(what):
    async def main():
        few, many = [await cost_in_one_group(f"n{count}", count, what) for count in (5, 500)]
        assert many < 1.3 * few

    run_simulation(main)
