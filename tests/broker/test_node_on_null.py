"""A broker on the storage that keeps nothing starts, and acknowledges at the level that is true."""

from __future__ import annotations

from typing import Any

import mqcore
from mqcore.guarantees import Level


def test_g14_a_storage_that_keeps_nothing_acknowledges_at_level_none(run_virtual: Any) -> None:
    async def main() -> None:
        async with mqcore.open_broker(storage="null://", listen=["inproc://null"], flush="none") as node:
            async with mqcore.connect(node.urls[0]) as client:
                await client.admin.create_topic("lines")
                async with client.producer("lines") as producer:
                    receipts = [await producer.send(b"x") for _ in range(3)]
        assert [(receipt.offset, receipt.level) for receipt in receipts] == [(at, Level.NONE) for at in range(3)]

    run_virtual(main)
