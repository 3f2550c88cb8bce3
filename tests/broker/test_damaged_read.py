"""A read of what has rotted holds up nothing else that its connection has asked for (G12, G20)."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mqcore.batch import HEADER_BYTES
from mqcore.log import Answers
from mqcore.protocol import Code, Failed, Fetch, Ping, Pong, Produced
from mqcore.testing import ModelDisk, model_ports, seeded

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("is_sought", [False, True])
def test_g12_other_requests_of_a_connection_go_on_while_a_good_copy_is_sought(
    open_setup: Any, run_virtual: Any, is_sought: bool
) -> None:
    disk = ModelDisk(seeded(1, "disk"))

    async def main() -> None:
        keys = {"storage": "mmap:///data", "ports": model_ports(1, disk), "report": lambda notice: None}
        async with open_setup(**keys) as setup:
            setup.broker.mends_damage = lambda log, offset: is_sought
            await test(setup)

    async def test(setup: Any) -> None:
        async with setup.client() as client:
            topic = await client.create("lines")
            for number in range(3):
                assert isinstance(await client.produce(topic, [b"line %d" % number]), Produced)
            store = setup.broker.store
            (log,) = [each for name, each in store._logs.items() if name != "metadata"]
            found = await log.batch_of(1)
            stored = bytes((await log.read_stored(found.position, 1, log.end_position)).chunks[0])
            rotten = bytearray(stored)
            rotten[HEADER_BYTES] ^= 0xFF
            await log._log.overwrite(found.position, rotten)
            asked: list[int] = []

            async def ask(name: str, position: int, reign: object) -> Answers:
                asked.append(position)
                await trio.sleep_forever()
                return Answers({}, is_complete=False)

            met: list[str] = []
            store.good_copies.ask, store.good_copies.met = ask, met.append
            fetch = Fetch(client.id(), topic, 0, 1, 0, 1 << 20, 0)
            ping = Ping(client.id())
            other = Fetch(client.id(), topic, 0, 2, 0, 1 << 20, 0)
            await client.send(fetch, ping, other)
            with trio.fail_after(5):
                received = [await client.receive() for _ in range(3)]
            answers = {each.request_id: each for each in received}
            assert isinstance(answers[ping.request_id], Pong)
            assert answers[other.request_id].next_offset == 3
            failed = answers[fetch.request_id]
            assert isinstance(failed, Failed)
            assert failed.code == (Code.NOT_YET if is_sought else Code.DAMAGED)
            assert met == [log.name]

    run_virtual(main)
