"""An acknowledgement that a peer has not taken when the lease ends is not handed to the transport any more (G09)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import trio
from sets import set_of_nodes
from test_elected_set import ASYNC, coordinated
from virtual_time import in_virtual_time

from mqcore.broker._elected import ElectedKeeper
from mqcore.client import Producer
from mqcore.errors import MqcoreError


class StreamOfNoRoom:
    """The stream of a connection whose peer takes nothing."""

    def __init__(self) -> None:
        self.handed = trio.Event()

    def send_now(self, buffers: Iterable[Any]) -> int:
        self.handed.set()
        return 0

    async def send_buffers(self, buffers: Iterable[Any]) -> None:
        self.handed.set()
        await trio.sleep_forever()


async def send(producer: Producer, got: list[object]) -> None:
    try:
        got.append(await producer.send(b"late"))
    except MqcoreError as error:
        got.append(error)


@in_virtual_time
async def test_g09_a_receipt_that_a_peer_has_not_taken_ends_with_the_lease(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, "abc", **coordinated("g09-late"), **ASYNC) as nodes:
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        async with nodes.client("a") as client:
            await client.admin.create_topic("orders")
        async with nodes.client("a") as client, client.producer("orders") as producer:
            await producer.send(b"before")
            node, roles = nodes.node("a"), nodes.node("a").roles
            assert isinstance(roles, ElectedKeeper)
            stuck = list(node.connections)
            streams = [StreamOfNoRoom() for _ in stuck]
            for connection, stream in zip(stuck, streams, strict=True):
                connection.outbox._stream = stream  # type: ignore[assignment]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, producer, [])
                await nodes.until(lambda: any(connection.outbox.has_receipts for connection in stuck))
                assert all(connection in node.connections for connection in stuck)
                late = [connection for connection in stuck if connection.outbox.has_receipts]
                roles.lease_lost("its lease is over")
                await nodes.until(lambda: not any(connection in node.connections for connection in late), seconds=2)
                nursery.cancel_scope.cancel()
