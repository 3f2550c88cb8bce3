"""Numbers of a peer's streams: none is taken for new twice, and what is kept does not grow with a link's life."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mqcore_quic._numbers import StreamNumbers


def kept(numbers: StreamNumbers) -> int:
    return len(numbers._left_out)


@given(st.lists(st.integers(0, 60)))
def test_it_is_a_set_of_numbers(taken: list[int]) -> None:
    numbers, model = StreamNumbers(), set[int]()
    for number in taken:
        left_out = set(range(max(model | {number}))) - model - {number}
        assert numbers.left_out_with(number) == len(left_out)
        numbers.take(number)
        model.add(number)
        assert [each in numbers for each in range(62)] == [each in model for each in range(62)]
        assert [numbers.has_all_below(each) for each in range(62)] == [set(range(each)) <= model for each in range(62)]


def test_g20_what_is_kept_is_what_was_left_out_however_many_there_were() -> None:
    numbers = StreamNumbers()
    for number in range(3, 100_000):  # three that were opened and never used
        numbers.take(number)
    assert kept(numbers) == 3
    for number in range(3):
        numbers.take(number)
    assert kept(numbers) == 0
