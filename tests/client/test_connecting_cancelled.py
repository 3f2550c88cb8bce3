"""Connecting may be cancelled at any step: nothing stays, and nothing waits for what nobody ends."""

from __future__ import annotations

import pytest
import trio

import mqcore


async def checkpoints(number: int, scope: trio.CancelScope) -> None:
    for _ in range(number):
        await trio.lowlevel.checkpoint()
    scope.cancel()


@pytest.mark.trio
async def test_connecting_ends_when_it_is_cancelled_whatever_step_it_has_come_to() -> None:
    began = 0
    async with mqcore.open_broker(storage="memory://", flush="none", listen="inproc://cancelled") as broker:
        for number in range(80):
            with trio.fail_after(60), trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(checkpoints, number, scope)
                    async with mqcore.connect(broker.urls[0]):
                        began += 1
                        await trio.sleep_forever()
            assert scope.cancelled_caught
    assert 0 < began < 80, "some had connected, others had not"
