"""Runs of plain batches: the same verdict as batch by batch, and an end before the first that is anything else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore.batch import (
    HEADER_BYTES,
    control_batch,
    encode_batch,
    plain_run,
    seal_body,
    stamp,
    unpack_header,
    whole_batches,
)
from mqcore.limits import Limits

LIMITS = Limits()
SALT = 4711
EPOCH = 3


def stored(sequences: list[tuple[int, int]], *, epoch: int = EPOCH, offset: int = 0) -> list[bytes]:
    """Batches of producers: (producer id, messages) each, stamped one behind the other."""
    found = []
    for number, (producer, count) in enumerate(sequences):
        values = [bytes(number % 7)] * count
        tags = ["a tag"] * count if number % 3 == 1 else None
        ids = {"producer_id": producer, "first_sequence": number}
        data = bytearray(encode_batch(values, tags=tags, created_ms=5, limits=LIMITS, **ids))
        stamp(memoryview(data)[:HEADER_BYTES], base_offset=offset, epoch=epoch, appended_ms=number, salt=SALT)
        found.append(bytes(data))
        offset += count
    return found


PLANS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=12)


@given(PLANS, st.integers(0, 1 << 40))
def test_a_run_has_every_batch_as_its_header_says(plan: list[tuple[int, int]], offset: int) -> None:
    batches = stored(plan, offset=offset)
    run = plain_run(memoryview(b"before" + b"".join(batches)), 6, salt=SALT, offset=offset, epoch=EPOCH)
    assert len(run.batches) == len(batches)
    assert run.size == sum(map(len, batches))
    assert run.end_offset == offset + sum(count for _, count in plan)
    for kept, data in zip(run.batches, batches, strict=True):
        header = unpack_header(data)
        assert kept == tuple(getattr(header, name) for name in kept._fields)


@settings(max_examples=300)
@given(PLANS, st.data())
def test_g12_a_run_ends_before_a_batch_of_which_any_bit_is_another(
    plan: list[tuple[int, int]], data: st.DataObject
) -> None:
    batches = stored(plan)
    number = data.draw(st.integers(0, len(batches) - 1))
    at = data.draw(st.integers(0, len(batches[number]) - 1))
    damaged = bytearray(batches[number])
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    view = memoryview(b"".join([*batches[:number], bytes(damaged), *batches[number + 1 :]]))
    run = plain_run(view, 0, salt=SALT, offset=0, epoch=EPOCH)
    assert run.size == sum(map(len, batches[:number]))
    assert len(run.batches) == number


@pytest.mark.parametrize("what", ["epoch", "offset", "salt", "control", "cut", "newer"])
def test_a_run_ends_before_what_somebody_has_to_look_at(what: str) -> None:
    first, second = stored([(1, 2), (1, 2)])
    salt = SALT
    if what == "epoch":
        (second,) = stored([(1, 2)], epoch=EPOCH + 1, offset=2)
    elif what == "offset":
        (second,) = stored([(1, 2)], offset=3)
    elif what == "control":
        control = control_batch(b"{}", created_ms=5)
        stamp(memoryview(control)[:HEADER_BYTES], base_offset=2, epoch=EPOCH, appended_ms=1, salt=SALT)
        second = bytes(control)
    elif what == "newer":
        newer = bytearray(second)
        newer[8] |= 0x20
        seal_body(newer)
        stamp(memoryview(newer)[:HEADER_BYTES], base_offset=2, epoch=EPOCH, appended_ms=1, salt=SALT)
        second = bytes(newer)
    elif what == "cut":
        second = second[:-1]
    else:
        second = second[: HEADER_BYTES - 4] + bytes(4) + second[HEADER_BYTES:]
    run = plain_run(memoryview(first + second), 0, salt=salt, offset=0, epoch=EPOCH)
    assert (len(run.batches), run.size, run.end_offset) == (1, len(first), 2)
    assert plain_run(memoryview(first), 0, salt=SALT + 1, offset=0, epoch=EPOCH).batches == []


@given(PLANS, st.integers(0, 200))
def test_whole_batches_are_counted_by_their_sizes(plan: list[tuple[int, int]], cut: int) -> None:
    batches = stored(plan)
    data = b"".join(batches)
    data = data[: max(len(data) - cut, 0)]
    ends = [sum(map(len, batches[:number])) for number in range(len(batches) + 1)]
    whole = max(end for end in ends if end <= len(data))
    begins = ends[ends.index(whole) - 1] if whole else 0
    assert whole_batches(memoryview(data)) == (whole, begins)


@given(st.binary(max_size=400))
def test_sizes_that_mean_nothing_never_lead_out_of_the_bytes(data: bytes) -> None:
    whole, begins = whole_batches(memoryview(data))
    assert 0 <= begins <= whole <= len(data)
