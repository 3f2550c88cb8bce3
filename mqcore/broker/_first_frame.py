"""The first bytes of a stream: a client, a replica, or a login first. Must not know what they say."""

from __future__ import annotations

import trio

from mqcore.abc import ByteStream
from mqcore.protocol import FRAME_BYTES, FollowKind, LoginKind, kind_of_frame

__all__ = ["FirstBytes", "read_first_bytes"]


class FirstBytes:
    """What was read of a stream: ``is_follower``, a replica opened it; ``is_login``, it begins so."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        kind = kind_of_frame(data) if len(data) == FRAME_BYTES else None
        self.is_follower = kind == FollowKind.FOLLOW
        self.is_login = kind == LoginKind.LOGIN_BEGIN


async def read_first_bytes(stream: ByteStream, timeout_s: float) -> FirstBytes:
    """Return the header of the first frame, or what there is of it when the stream ends or is silent for so long.

    Raises ``trio.BrokenResourceError``, ``trio.ClosedResourceError``. If cancelled, the stream is of no more use.
    """
    buffer = bytearray(FRAME_BYTES)
    size = 0
    with trio.move_on_after(timeout_s), memoryview(buffer) as view:
        while size < FRAME_BYTES:
            received = await stream.receive_into(view[size:])
            if received == 0:
                break
            size += received
    return FirstBytes(bytes(buffer[:size]))
