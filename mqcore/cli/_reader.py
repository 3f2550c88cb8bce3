"""Notices that the reader of standard output is gone, while there is nothing to write (``consume TOPIC | head``)."""

from __future__ import annotations

import select
import sys
from typing import NoReturn

import trio

from mqcore.cli.shell import ReaderGone

__all__ = ["raise_when_reader_is_gone"]


async def raise_when_reader_is_gone() -> NoReturn:
    """Wait until the other end of standard output is closed, then raise ``ReaderGone``; for ever where none can close.

    A pipe whose reader is gone reports an error to any poll, even for no event at all; a file cannot be polled.
    """
    if hasattr(select, "epoll"):
        with select.epoll() as poll:
            try:
                poll.register(sys.stdout.fileno(), 0)
            except (AttributeError, OSError, ValueError):  # also: there is no standard output
                await trio.sleep_forever()
            await trio.lowlevel.wait_readable(poll.fileno())
            raise ReaderGone
    await trio.sleep_forever()
