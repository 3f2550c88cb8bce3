"""Messages from a file or standard input: a line each, in blocks as they arrive. Knows no broker.

What is held is bounded: one block, and the beginning of one message up to the largest that may be sent.
"""

from __future__ import annotations

import os
import select
from collections.abc import AsyncGenerator

import trio

from mqcore.errors import ConfigurationError

__all__ = ["BLOCK_BYTES", "InputRefused", "blocks"]

BLOCK_BYTES = 1024 * 1024


class InputRefused(ConfigurationError):
    """A message of the input that cannot be sent; those before it were."""


async def blocks(descriptor: int, separator: bytes, message_bytes_max: int) -> AsyncGenerator[list[bytes], None]:
    """Yield the messages in what ``descriptor`` gives, as many at a time as one read brought.

    ``separator`` ends a message and is no part of it; what follows the last one is a message if it is not empty.
    Raises ``InputRefused`` with its number for a message above ``message_bytes_max``. If cancelled, a read may
    go on in a thread, and what it brings is lost.
    """
    rest, count = b"", 0
    while block := await trio.to_thread.run_sync(_read, descriptor, abandon_on_cancel=True):
        pieces = block.split(separator)
        if len(pieces) == 1:
            rest += block
        else:
            pieces[0] = rest + pieces[0]
            rest = pieces.pop()
            for number, piece in enumerate(pieces, count + 1):
                if len(piece) > message_bytes_max:
                    raise _too_large(number, message_bytes_max)
            count += len(pieces)
            yield pieces
        if len(rest) > message_bytes_max:
            raise _too_large(count + 1, message_bytes_max)
    if rest:
        yield [rest]


def _read(descriptor: int) -> bytes:
    while True:
        try:
            return os.read(descriptor, BLOCK_BYTES)
        except BlockingIOError:  # its mode may be a parent's, who shares the open file: it is not ours to reset
            select.select([descriptor], [], [])


def _too_large(number: int, message_bytes_max: int) -> InputRefused:
    return InputRefused(f"message {number} of the input is larger than {message_bytes_max} bytes")
