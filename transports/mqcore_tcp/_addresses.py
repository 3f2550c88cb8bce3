"""Trying the addresses of a host: the first that answers wins, and a dead one costs a quarter of a second (RFC 6555).

Must not know how a connection is made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import trio
from trio import socket as tsocket

__all__ = ["ATTEMPT_DELAY_SECONDS", "Address", "connect_first", "order_for_racing"]

Address: TypeAlias = tuple[int, tuple[object, ...]]
"""Family and address, as ``connect`` of a socket takes it."""

ATTEMPT_DELAY_SECONDS = 0.25
"""Head start of an address before the next one is tried beside it; what ``trio.open_tcp_stream`` gives."""


def order_for_racing(addresses: Sequence[Address]) -> list[Address]:
    """Return ``addresses`` with one of another family second: where one family is dead, the other is tried early."""
    ordered = list(addresses)
    for index, (family, _) in enumerate(ordered[1:], start=1):
        if family != ordered[0][0]:
            ordered.insert(1, ordered.pop(index))
            break
    return ordered


async def connect_first(
    addresses: Sequence[Address], connect: Callable[[Address], Awaitable[tsocket.SocketType]]
) -> tsocket.SocketType:
    """Return the first socket that ``connect`` makes of ``addresses`` (at least one); the other attempts are dropped.

    Each begins when the one before has failed, or after a head start. Raises the ``OSError`` of the last that failed
    when all have. If cancelled, nothing stays open.
    """
    if len(addresses) == 1:
        return await connect(addresses[0])
    winners: list[tsocket.SocketType] = []
    failures: list[OSError] = []

    async def attempt(address: Address, failed: trio.Event) -> None:
        try:
            winners.append(await connect(address))
        except OSError as error:
            failures.append(error)
            failed.set()
        else:
            nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(ATTEMPT_DELAY_SECONDS):
                    await failed.wait()
    except BaseException:
        for socket in winners:
            socket.close()
        raise
    if not winners:
        raise failures[-1]
    winner, *late = winners
    for socket in late:  # two that answered before the first could cancel the other
        socket.close()
    return winner
