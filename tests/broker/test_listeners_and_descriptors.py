"""G20: connections never take the descriptors that a flush needs."""

from __future__ import annotations

import contextlib
from typing import Any

from mqcore.protocol import Code, Produced, Welcome
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded


def test_g20_connections_leave_half_of_the_descriptors_to_the_storage(open_setup: Any) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"), open_files_max=200)
        async with open_setup("mmap:///data", ports=model_ports(1, disk), flush="sync") as setup:
            async with contextlib.AsyncExitStack() as stack:
                replies = []
                for _ in range(40):
                    client = await stack.enter_async_context(setup.client(greet=False))
                    replies.append(await client.greet())
                taken = [reply for reply in replies if isinstance(reply, Welcome)]
                refused = [reply for reply in replies if not isinstance(reply, Welcome)]
                assert len(taken) == setup.broker.connections_max == 36
                assert {reply.code for reply in refused} == {Code.TOO_MANY_CONNECTIONS}
                assert "ulimit -n" in refused[0].text
            async with setup.client() as client:
                topic = await client.create("lines")
                assert isinstance(await client.produce(topic, [b"x"]), Produced)

    run_simulation(main, seed=1)
