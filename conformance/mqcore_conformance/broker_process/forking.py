"""Starts the brokers of T1: a process that has imported what every broker imports, and forks one for each order.

Most of what a broker's start takes is the import of the core, and a run starts several. It has imported no part, serves
nothing and has no thread, so that each broker begins as a fresh interpreter would, but for the imports. Run as ``python
-m mqcore_conformance.broker_process.forking SOCKET``. An order is one packet: the broker's arguments as JSON, with the
descriptors of a socket for the answers, of its standard streams, and of the socket for diverted calls, if any. Answers:
the process id, and when it has ended how, as ``subprocess`` states it. It is a zombie, and its id nobody else's, until
the suite closes that socket. The end of SOCKET means that the suite is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys
from typing import Any

import attrs

from mqcore_conformance.broker_process.__main__ import run

__all__ = ["ANSWER", "ORDER_BYTES_MAX", "why_not_forked"]

ANSWER = struct.Struct("!q")
ORDER_BYTES_MAX = 65_536
DESCRIPTORS_MAX = 5


def why_not_forked() -> str:
    """Why brokers are started anew here, each with an import of its own; empty when they are forked."""
    if not hasattr(os, "pidfd_open"):
        return f"{sys.platform} has no descriptors of processes"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return f"the kernel has no descriptors of processes: {error}"
    return ""


@attrs.frozen(eq=False)
class _Forked:
    """A broker that was started: where its answers go, and a descriptor that is readable once it has ended."""

    process_id: int
    answers: socket.socket
    ended: int

    def close(self) -> None:
        os.close(self.ended)
        self.answers.close()


class Forker:
    """See the module."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._running: dict[int, _Forked] = {}
        self._over: dict[int, _Forked] = {}

    def run(self) -> dict[str, Any] | None:
        """Fork a broker for each order until the suite is gone (None). In each child: its arguments."""
        while True:
            poll = select.poll()
            poll.register(self._orders, select.POLLIN)
            for ended in self._running:
                poll.register(ended, select.POLLIN)
            answers = {each.answers.fileno(): each for each in (*self._running.values(), *self._over.values())}
            for descriptor in answers:
                poll.register(descriptor, 0)  # whether the suite has closed it
            for descriptor, _ in poll.poll():
                if descriptor in self._running:
                    self._tell(self._running.pop(descriptor))
                elif descriptor in answers:
                    self._collect(answers[descriptor])
                elif descriptor == self._orders.fileno():
                    data, descriptors, _, _ = socket.recv_fds(self._orders, ORDER_BYTES_MAX, DESCRIPTORS_MAX)
                    if not data:
                        return None
                    if (asked := self._fork(json.loads(data), descriptors)) is not None:
                        return asked
                    break  # the descriptor of what has just begun may be that of what has just ended

    def _fork(self, asked: dict[str, Any], descriptors: list[int]) -> dict[str, Any] | None:
        answers, *streams = descriptors
        process_id = os.fork()
        if process_id == 0:
            self._settle(answers, streams[:3])
            if asked["diverted_to"] is not None:
                asked["diverted_to"] = streams[3]
            return asked
        for descriptor in streams:
            os.close(descriptor)
        forked = _Forked(process_id, socket.socket(fileno=answers), os.pidfd_open(process_id))
        self._running[forked.ended] = forked
        with contextlib.suppress(OSError):
            forked.answers.send(ANSWER.pack(process_id))
        return None

    def _settle(self, answers: int, streams: list[int]) -> None:
        """Keep nothing of this process in a child but its imports."""
        os.close(answers)
        self._orders.close()
        for each in (*self._running.values(), *self._over.values()):
            each.close()
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
            os.close(descriptor)

    def _tell(self, forked: _Forked) -> None:
        """Tell how a broker ended. It is not collected yet: the suite may still send signals to its id."""
        self._over[forked.ended] = forked
        result = os.waitid(os.P_PID, forked.process_id, os.WEXITED | os.WNOWAIT)
        assert result is not None
        status = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
        with contextlib.suppress(OSError):
            forked.answers.send(ANSWER.pack(status))

    def _collect(self, forked: _Forked) -> None:
        """Collect a broker in which the suite has no interest any more."""
        if self._running.pop(forked.ended, None) is not None:
            os.kill(forked.process_id, signal.SIGKILL)
        else:
            del self._over[forked.ended]
        os.waitpid(forked.process_id, 0)
        forked.close()


def main() -> None:
    """Fork brokers; in a child: be one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the suite, which ends its children itself
    asked = Forker(socket.socket(fileno=int(sys.argv[1]))).run()
    if asked is not None:
        run(asked)


if __name__ == "__main__":
    main()
