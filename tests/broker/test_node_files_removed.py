"""G12: a file without which the next start can use nothing is missed while the broker runs, not by that start."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mqcore.abc import Notice
from mqcore.protocol import Code, Failed, Produced
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded


@pytest.mark.parametrize("name", ["identity@", "identity-copy@", "metadata@"])
def test_g12_nothing_is_acknowledged_for_long_without_a_log_that_every_start_needs(open_setup: Any, name: str) -> None:
    notices: list[Notice] = []

    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        async with (
            open_setup("mmap:///data", ports=model_ports(1, disk), flush="sync", report=notices.append) as setup,
            setup.client() as client,
        ):
            topic = await client.create("t")
            await trio.sleep(2)
            assert isinstance(await client.produce(topic, [b"x"]), Produced)
            (path,) = [path for path in disk.paths() if name in path]
            disk.unlink(path)
            await trio.sleep(2)
            refused = await client.produce(topic, [b"y"])
            assert isinstance(refused, Failed)
            assert (refused.code, f"{path} was removed" in refused.text) == (Code.FLUSH_FAILED, True)
            assert [notice.kind for notice in notices] == ["logs-stopped"]

    run_simulation(main, seed=1)
