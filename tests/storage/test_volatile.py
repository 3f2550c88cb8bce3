"""What logs that end with their process have in common: handles that close, a size that is refused, ends as flushed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from mqcore.abc import Capabilities, FlushedLog
from mqcore.errors import StorageError
from mqcore.guarantees import Level
from mqcore.ports import Buffer
from mqcore.volatile import VolatileLog, flush_volatile

CAPABILITIES = Capabilities(append_level=Level.MEMORY, flush_level=Level.MEMORY, append_bytes_max=65_536)


class Counted(VolatileLog):
    start = 0
    end = 0

    async def append(self, chunks: Sequence[Buffer]) -> int:
        position = self.end
        self.end += self.size_of(chunks)
        return position

    async def read(self, position: int, size: int) -> memoryview:
        return memoryview(bytes(size))

    async def truncate(self, position: int) -> None:
        self.end = position

    async def trim(self, position: int) -> int:
        return self.start


def test_a_handle_counts_bytes_of_items_and_refuses_what_is_too_large_or_closed() -> None:
    async def main() -> None:
        log = Counted("a", CAPABILITIES)
        assert await log.append([b"abc", memoryview(bytearray(8)).cast("Q")]) == 0
        assert (log.end, log.durable_end, log.level) == (11, 11, Level.MEMORY)
        with pytest.raises(StorageError, match="an append of 65537 bytes; at most 65536") as caught:
            await log.append([bytes(65_537)])
        assert (caught.value.kind, caught.value.appended, log.end) == ("limit", False, 11)
        await log.aclose()
        assert log.closed
        with pytest.raises(StorageError, match="log a is closed") as caught:
            await log.append([b"x"])
        assert caught.value.kind == "closed"

    trio.run(main)


def test_a_flush_reaches_the_ends_at_the_level_of_an_append() -> None:
    async def main() -> None:
        log = Counted("a", CAPABILITIES)
        await log.append([b"abc"])
        assert await flush_volatile([log, Counted("b", CAPABILITIES)]) == [
            FlushedLog(3, Level.MEMORY),
            FlushedLog(0, Level.MEMORY),
        ]

    trio.run(main)
