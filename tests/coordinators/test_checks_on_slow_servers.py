"""What a check of a coordinator makes of a server that is slow: nothing that is the part's fault."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from mqcore.abc import CellWrite, CoordinatorContext
from mqcore.errors import CoordinatorOutcomeUnknownError, CoordinatorUnreachableError
from mqcore.registry import create_coordinator
from mqcore.testing import FaultyCoordinator, WriteFault, model_ports, run_simulation
from mqcore_conformance.contract import run_check
from mqcore_conformance.contract._checks import Check, Harness
from mqcore_conformance.verdicts import Status

NAME = "sets/slow"
LIMIT_S = 0.4


def put(number: int) -> CellWrite:
    return CellWrite(b"%d" % number, bytes([number]) * 16)


@pytest.mark.parametrize(
    "met", [[WriteFault.NO_ANSWER], [WriteFault.NO_REQUEST], [WriteFault.NO_REQUEST, WriteFault.NO_ANSWER]]
)
@pytest.mark.parametrize("overtaken", [False, True])
def test_a_late_write_is_delivered_until_there_is_an_answer(met: list[WriteFault | None], overtaken: bool) -> None:
    async def main() -> list[bool]:
        context = CoordinatorContext(ports=model_ports(1))
        server = create_coordinator("memory://slow", context)
        road = FaultyCoordinator(server)
        way = FaultyCoordinator(road)
        nothing = await server.read(NAME)
        way.faults = deque([WriteFault.LATE])
        with pytest.raises(CoordinatorOutcomeUnknownError):
            await way.write(NAME, nothing, record=put(1), lease=put(2))
        if overtaken:
            await server.write(NAME, nothing, record=put(3))
        road.faults = deque(met)
        applied = await way.deliver_late()
        assert not road.faults or overtaken
        return applied

    assert run_simulation(main, seconds_max=5) == [not overtaken]


def test_an_away_server_is_waited_for() -> None:
    async def main() -> list[bool]:
        server = create_coordinator("memory://away", CoordinatorContext(ports=model_ports(1)))
        road = FaultyCoordinator(server)
        way = FaultyCoordinator(road)
        way.faults = deque([WriteFault.LATE])
        with pytest.raises(CoordinatorOutcomeUnknownError):
            await way.write(NAME, await server.read(NAME), record=put(1))
        road.is_cut = True
        with pytest.raises(CoordinatorUnreachableError):
            await road.read(NAME)

        async def return_later() -> None:
            await trio.sleep(3)
            road.is_cut = False

        async with trio.open_nursery() as nursery:
            nursery.start_soon(return_later)
            return await way.deliver_late()

    assert run_simulation(main, seconds_max=10) == [True]


async def waits_for_a_server(harness: Harness) -> None:
    """It waits for a server three times as long as it may take itself."""
    for _ in range(3):
        with harness.elsewhere():
            await trio.sleep(LIMIT_S)
        await trio.sleep(LIMIT_S / 20)


async def waits_for_the_part(harness: Harness) -> None:
    """It waits for the part after it has waited for a server."""
    await waits_for_a_server(harness)
    await trio.sleep_forever()


@pytest.mark.parametrize(("function", "wanted"), [(waits_for_a_server, Status.PASS), (waits_for_the_part, Status.FAIL)])
def test_time_that_a_server_takes_is_not_the_parts(
    function: Callable[[Harness], Awaitable[None]], wanted: Status, tmp_path: Path
) -> None:
    one = Check(name=function.__name__, kind="coordinator", clause="G09", function=function, seconds_max=LIMIT_S)
    result = run_check(one, lambda folder: Harness(), tmp_path)
    assert result.status is wanted, result.text
    if wanted is Status.FAIL:
        assert f"nothing came of it in {LIMIT_S:g} s" in result.text
