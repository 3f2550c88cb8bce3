"""The coordinator ``file`` between real processes that are killed: each number is counted by one, none is lost."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from mqcore.abc import CoordinatorContext
from mqcore.ports import system_ports
from mqcore.registry import create_coordinator

COUNTER = """
import sys
import trio
from mqcore.abc import CellWrite, CoordinatorContext
from mqcore.errors import CoordinatorConflictError, CoordinatorUnreachableError
from mqcore.ports import system_ports
from mqcore.registry import create_coordinator

async def main():
    ports = system_ports()
    coordinator = create_coordinator(sys.argv[1], CoordinatorContext(ports=ports))
    while True:
        try:
            pair = await coordinator.read("counter")
            number = int(pair.record.value or b"0") + 1
            await coordinator.write("counter", pair, record=CellWrite(b"%d" % number, ports.random.randbytes(16)))
        except (CoordinatorConflictError, CoordinatorUnreachableError):
            continue
        print(number, flush=True)

trio.run(main)
"""


@pytest.mark.slow
def test_processes_that_are_killed_count_every_number_once(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/cells"
    rng = random.Random(5)
    counted: list[int] = []
    for _ in range(6):
        counters = [
            subprocess.Popen([sys.executable, "-c", COUNTER, url], stdout=subprocess.PIPE, text=True) for _ in range(3)
        ]
        lines = counters[0].stdout
        assert lines is not None
        for _ in range(rng.randrange(3, 12)):  # they run, and are at work, when they are killed
            counted.append(int(lines.readline()))
        for counter in counters:
            counter.kill()
        for counter in counters:
            rest = counter.communicate()[0]
            # A line that the kill has cut is of a number that was written: it is not known which.
            counted += [int(line) for line in rest.split("\n")[:-1]]
    assert len(counted) == len(set(counted)), "two processes were told that they wrote one number"

    async def last() -> int:
        coordinator = create_coordinator(url, CoordinatorContext(ports=system_ports()))
        pair = await coordinator.read("counter")
        await coordinator.aclose()
        return int(pair.record.value or b"0")

    newest = trio.run(last)
    assert max(counted) <= newest <= len(counted) + 3 * 6  # besides what was counted, one write of each that was killed
