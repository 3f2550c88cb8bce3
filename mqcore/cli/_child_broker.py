"""A broker as a child process, as the demonstration needs it: started, killed, started again on the same addresses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from typing import IO

import trio

from mqcore.errors import MqcoreError

__all__ = ["ChildBroker"]

START_SECONDS_MAX = 20
STOP_SECONDS_MAX = 20


class ChildBroker:
    """``mqcore serve`` on ``storage``; ``urls`` are what clients connect to, the same after every start."""

    def __init__(self, storage: str, listen: Sequence[str]) -> None:
        self.storage = storage
        self.urls = list(listen)
        self._process: trio.Process | None = None

    async def start(self) -> float:
        """Start it and wait until it says that it is ready; return how many seconds that took.

        Raises ``MqcoreError`` when it ends instead, or takes longer than 20 s.
        """
        started = trio.current_time()
        command = [sys.executable, "-m", "mqcore", "--output", "json", "serve", "--storage", self.storage]
        for url in self.urls:
            command += ["--listen", url]
        with tempfile.TemporaryFile() as told:
            self._process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=told)
            await self._wait_until_ready(self._process, told)
        return trio.current_time() - started

    async def _wait_until_ready(self, process: trio.Process, told: IO[bytes]) -> None:
        with trio.move_on_after(START_SECONDS_MAX):
            async for line in _lines(process.stdout):
                event = json.loads(line)
                if event.get("event") == "ready":
                    self.urls = list(event["urls"])
                    return
            status = await process.wait()
            told.seek(0)
            last = told.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise MqcoreError(f"the broker on {self.storage} ended at start, with status {status}: {last}")
        raise MqcoreError(f"the broker on {self.storage} was not ready within {START_SECONDS_MAX} s")

    async def kill(self) -> None:
        """SIGKILL, and wait until the process is gone. Nothing when there is none."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """Ask it to stop in order and wait; killed when it takes longer than 20 s. Nothing when there is none."""
        await self._end(signal.SIGTERM)

    async def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with trio.CancelScope(shield=True):
            process.send_signal(how)
            with trio.move_on_after(STOP_SECONDS_MAX) as waiting:
                await process.wait()
            if waiting.cancelled_caught:
                process.kill()
                await process.wait()
            if process.stdout is not None:
                await process.stdout.aclose()


async def _lines(stream: trio.abc.ReceiveStream | None) -> AsyncIterator[bytes]:
    """Yield the lines of ``stream``."""
    assert stream is not None
    rest = b""
    async for block in stream:
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            yield line
