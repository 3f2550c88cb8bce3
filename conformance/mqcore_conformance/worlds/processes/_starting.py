"""Starts a broker's process: forked by one that has imported the core already, or anew where that cannot be.

The one that forks is kept for all runs of this process: it is the suite's, as its environment and folder were.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import IO, Any, TypeAlias

import trio

from mqcore_conformance.broker_process.forking import ANSWER, ORDER_BYTES_MAX, why_not_forked

__all__ = ["BrokerProcess", "end_process", "start_broker"]

MODULE = "mqcore_conformance.broker_process"


class ForkedProcess:
    """A broker's process, as much of ``trio.Process`` as the suite needs."""

    def __init__(self, answers: socket.socket, stdin: int, stdout: int) -> None:
        self.stdin: trio.abc.SendStream = trio.lowlevel.FdStream(stdin)
        self.stdout = trio.lowlevel.FdStream(stdout)
        self.pid = 0
        self._answers = answers
        self._status: int | None = None

    async def begin(self) -> None:
        """Wait until it has begun. Raises ``RuntimeError`` when what forks brokers is gone."""
        await trio.lowlevel.wait_readable(self._answers)
        answer = self._answers.recv(ANSWER.size)
        if not answer:
            raise RuntimeError("the process that starts brokers is gone")
        (self.pid,) = ANSWER.unpack(answer)

    @property
    def returncode(self) -> int | None:
        """Its exit status, or the number of its signal below 0; None while it runs."""
        if self._status is None:
            try:
                answer = self._answers.recv(ANSWER.size, socket.MSG_PEEK | socket.MSG_DONTWAIT)  # ``wait`` sees it too
            except BlockingIOError:
                return None
            self._status = ANSWER.unpack(answer)[0] if answer else -signal.SIGKILL
        return self._status

    async def wait(self) -> int:
        """Return the exit status once it has ended."""
        await trio.lowlevel.checkpoint()
        while (status := self.returncode) is None:
            await trio.lowlevel.wait_readable(self._answers)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.pid and self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Let go of it; it is killed if it still runs."""
        if self._status is None:
            self._status = -signal.SIGKILL
        self._answers.close()


BrokerProcess: TypeAlias = trio.Process | ForkedProcess
"""A broker's process, however it was started."""


class ForkingProcess:
    """The process that forks brokers for this one."""

    def __init__(self, environment: Mapping[str, str], folder: str) -> None:
        self.environment, self.folder = dict(environment), folder
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{MODULE}.forking", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=self.environment,
                pass_fds=[theirs.fileno()],
            )

    @property
    def is_running(self) -> bool:
        """Whether it takes orders."""
        return self._process.poll() is None

    def order(self, arguments: bytes, stderr: int, diverted_to: int | None) -> ForkedProcess:
        """Order a broker with ``arguments``; it has still to begin."""
        ours, answers = socket.socketpair()
        child_in, stdin = os.pipe()
        stdout, child_out = os.pipe()
        process = ForkedProcess(ours, stdin, stdout)
        streams = [answers.fileno(), child_in, child_out, stderr]
        try:
            socket.send_fds(self._orders, [arguments], [*streams, *(() if diverted_to is None else (diverted_to,))])
        except OSError:
            process.close()  # its streams close what they hold when they are collected
            raise
        finally:
            answers.close()
            os.close(child_in)
            os.close(child_out)
        return process

    def close(self) -> None:
        """End it."""
        self._orders.close()
        self._process.kill()
        self._process.wait()


_kept: dict[int, ForkingProcess] = {}
"""By the id of the process that it belongs to: what is forked of this one inherits the table, and uses its own."""


@atexit.register
def _end_kept() -> None:
    kept = _kept.pop(os.getpid(), None)
    if kept is not None:
        kept.close()


def _forking(environment: Mapping[str, str]) -> ForkingProcess:
    kept, folder = _kept.get(os.getpid()), os.getcwd()
    if kept is not None and not (kept.is_running and kept.environment == environment and kept.folder == folder):
        _end_kept()
        kept = None
    if kept is None:
        kept = _kept[os.getpid()] = ForkingProcess(environment, folder)
    return kept


async def start_broker(
    asked: Mapping[str, Any], stderr: IO[str], *, environment: Mapping[str, str], diverted_to: int | None = None
) -> BrokerProcess:
    """Start a broker with the arguments ``asked`` (see ``broker_process``); end it with ``end_process``.

    ``stderr``: open file for what it prints. ``diverted_to``: descriptor of the socket for its diverted calls.
    """
    arguments = json.dumps({**asked, "diverted_to": diverted_to})
    if not why_not_forked() and len(arguments) < ORDER_BYTES_MAX:
        process = _forking(environment).order(arguments.encode(), stderr.fileno(), diverted_to)
        try:
            await process.begin()
        except BaseException:
            with trio.CancelScope(shield=True):
                await end_process(process)
            raise
        return process
    return await trio.lowlevel.open_process(
        [sys.executable, "-m", MODULE, arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=environment,
        pass_fds=[] if diverted_to is None else [diverted_to],
    )


async def end_process(process: BrokerProcess) -> None:
    """Make sure that it is gone, and close its pipes."""
    if isinstance(process, ForkedProcess) and not process.pid:
        process.close()
    if process.returncode is None:
        process.kill()
        await process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            await pipe.aclose()
    if isinstance(process, ForkedProcess):
        process.close()
