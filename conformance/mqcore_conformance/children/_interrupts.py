"""SIGINT and SIGTERM as a flag and a readable descriptor, so that a run ends between two steps and never inside one.

The second signal interrupts at once, as if this module were not there. Knows nothing of what is interrupted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """``happened``: whether somebody asked for the end. ``reader``: a descriptor that is readable from then on."""

    def __init__(self, reader: int = -1) -> None:
        self.happened = False
        self.reader = reader

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.happened:
            raise KeyboardInterrupt
        self.happened = True


@contextlib.contextmanager
def interrupt_watched() -> Iterator[Interrupt]:
    """Watch both signals for a block. A signal that was ignored stays ignored; other threads watch nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield Interrupt()
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    interrupt = Interrupt(reader)
    replaced = {number: signal.getsignal(number) for number in SIGNALS}
    replaced = {number: handler for number, handler in replaced.items() if handler is not signal.SIG_IGN}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        for number in replaced:
            signal.signal(number, interrupt._receive)
        yield interrupt
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(wakeup)
        os.close(reader)
        os.close(writer)
