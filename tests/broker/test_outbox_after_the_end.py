"""A connection that is being told why it is over takes no more replies, and whoever brings one goes on."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mqcore.protocol import Produced
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

STORAGE = "mmap:///data?segment_bytes=1MiB"


@pytest.mark.parametrize("ticks", range(12))
def test_g20_a_peer_that_breaks_the_rules_while_its_send_is_flushed_harms_nobody(open_setup: Any, ticks: int) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        async with open_setup(STORAGE, ports=model_ports(1, disk), flush="sync") as setup, setup.client() as client:
            topic = await client.create("lines")
            assert isinstance(await client.produce(topic, [b"first"]), Produced)
            async with setup.client() as rude:
                disk.stall_next("flush", 1.0)
                await rude.send(rude.produce_message(topic, [b"second"]))
                await trio.sleep(1.0)
                for _ in range(ticks):
                    await trio.lowlevel.cancel_shielded_checkpoint()
                await rude.stream.send_all(b"\xff" * 12)
                assert isinstance(await client.produce(topic, [b"third"]), Produced)

    run_simulation(main, seed=1)
