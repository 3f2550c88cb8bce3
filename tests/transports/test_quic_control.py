"""Records of QUIC's control streams: whole ones come out in order, however the bytes arrive."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mqcore_quic._control import ControlRecord, ControlRecords

NUMBERS = st.integers(0, (1 << 64) - 1)


@given(st.lists(st.builds(ControlRecord, st.integers(0, 255), NUMBERS, NUMBERS)), st.lists(st.integers(1, 40)))
def test_records_arrive_as_they_were_sent_in_pieces_of_any_size(sent: list[ControlRecord], sizes: list[int]) -> None:
    data = b"".join(record.packed() for record in sent)
    records = ControlRecords()
    received: list[ControlRecord] = []
    while data:
        size = sizes.pop() if sizes else len(data)
        received += records.take(data[:size])
        data = data[size:]
    assert received == sent
