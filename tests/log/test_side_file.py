"""What is kept aside is read past what of it has rotted."""

from __future__ import annotations

import pytest
import trio
from shelf_storage import NAME, Shelf, batch, start

from mqcore.batch import HEADER_BYTES
from mqcore.log import PARTED, read_side_file, salt_of_name, side_file_batches


@pytest.mark.parametrize("at", [0, HEADER_BYTES], ids=["header", "body"])
@pytest.mark.parametrize("rotten", [(3,), (3, 4), (2, 9), (5, 7)])
def test_g10_what_stands_behind_rot_in_a_side_file_is_read(at: int, rotten: tuple[int, ...]) -> None:
    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf)
        log = await broker.log(salt=salt_of_name(NAME) or 0)
        sent = [batch(b"%04d" % number) for number in range(10)]
        for each in sent:
            await log.append([each])
        points = [await log.batch_of(offset) for offset in range(10)]
        positions = [point.position for point in points if point is not None]
        size = positions[3] - positions[2]
        for offset in rotten:
            shelf.logs[NAME].data[positions[offset] - shelf.logs[NAME].start + at] ^= 0xFF
        name = await log.keep_aside(positions[2], epoch=1, reason=PARTED)
        side = await broker.store.backend.open_log(name)
        whole = [offset for offset in range(2, 10) if offset not in rotten]
        found = await read_side_file(side)
        assert (found.messages, found.first_offset, found.end_offset) == (len(whole), whole[0], whole[-1] + 1)
        assert found.unreadable_bytes == size * len(rotten)
        for bytes_max in (1, 1 << 20):
            following: int | None = 0
            read: list[bytes] = []
            while following is not None:
                batches, following = await side_file_batches(side, following, bytes_max)
                read += batches
            bodies = [bytes(sent[offset].data)[HEADER_BYTES:] for offset in whole]
            assert [each[HEADER_BYTES:] for each in read] == bodies

    trio.run(main)
