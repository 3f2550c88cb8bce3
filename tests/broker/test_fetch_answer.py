"""The answer to a fetch by itself: what is true when the read begins may not be when it ends."""

from __future__ import annotations

from typing import Any

import trio
from alone import alone

from mqcore.broker._fetch_answer import answer_fetch
from mqcore.errors import StorageError
from mqcore.guarantees import AsyncFlush
from mqcore.protocol import Fetch, Fetched
from mqcore.testing import run_simulation


def test_g11_what_a_flush_loses_while_it_is_read_is_not_served() -> None:
    async def main() -> None:
        async with alone() as setup:
            partition = await setup.partition(flush=AsyncFlush(max_messages=100))
            await partition.append([setup.send(1, [b"durable"], policy=3)])
            await trio.sleep(1)
            await partition.append([setup.send(2, [b"lost"])])
            assert (partition.committed_offset, partition.log.durable_offset) == (2, 1)
            log, read = partition.log, partition.log.read

            async def read_and_fail(*arguments: Any, **options: Any) -> Any:
                result = await read(*arguments, **options)
                log.flush_failed(StorageError("a flush failed", kind="flush"), frozenset({log.name}))
                return result

            class Reading:
                """The partition, with a flush that fails while its log is read."""

                def __getattr__(self, name: str) -> Any:
                    return getattr(partition, name)

            reading: Any = Reading()
            reading.log = _LogThatFails(log, read_and_fail)
            answer = await answer_fetch(reading, Fetch(7, bytes(16), 0, 0, 0, 1 << 20, 0), 1 << 20)
            assert isinstance(answer, Fetched)
            assert b"lost" not in b"".join(map(bytes, answer.batches))
            assert (answer.next_offset, answer.committed_offset) == (1, 1)

    run_simulation(main, seed=1)


class _LogThatFails:
    def __init__(self, log: Any, read: Any) -> None:
        self._log = log
        self.read = read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)
