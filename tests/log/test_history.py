"""Epoch histories: where two logs begin to differ (rules R3, R5), found without reading either."""

from __future__ import annotations

from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.log import EpochEntry, LogPoint, divergence_of_histories
from mqcore.log._history import UNKNOWN_REIGN

BATCH_BYTES = 100


def log_of(*reigns: tuple[int, str, int]) -> tuple[list[EpochEntry], LogPoint, list[str]]:
    """History, end and content of a log: (number, id, batches) of each reign, every batch taking one offset."""
    history: list[EpochEntry] = []
    content: list[str] = []
    for number, name, batches in reigns:
        point = LogPoint(BATCH_BYTES * len(content), len(content))
        history.append(EpochEntry(number, name.encode().ljust(16), *point))
        content += [f"{name} {len(content)}"] * batches
    return history, LogPoint(BATCH_BYTES * len(content), len(content)), content


@pytest.mark.parametrize(
    ("mine", "others", "batches"),
    [
        ([], [], 0),
        ([(1, "a", 3)], [], 0),
        ([(1, "a", 3)], [(1, "a", 3)], 3),
        ([(1, "a", 5)], [(1, "a", 3)], 3),
        ([(1, "a", 5)], [(1, "a", 3), (2, "b", 4)], 3),
        ([(1, "a", 3), (2, "b", 4)], [(1, "a", 3), (3, "c", 1)], 3),
        ([(1, "a", 3), (2, "b", 4)], [(1, "a", 2), (2, "c", 4)], 2),
        ([(1, "a", 3), (2, "b", 2), (4, "d", 1)], [(1, "a", 3), (2, "b", 1), (3, "c", 9)], 4),
        ([(1, "a", 3), (3, "b", 2)], [(1, "a", 2), (2, "x", 1), (3, "c", 2)], 2),
        ([(1, "x", 3)], [(1, "y", 3)], 0),
    ],
    ids=[
        "empty",
        "one-empty",
        "equal",
        "ahead-in-the-last-reign",
        "ahead-of-what-the-next-reign-began-with",
        "two-reigns-after-one",
        "one-number-twice",
        "behind-in-a-middle-reign",
        "KIP-279-the-last-number-alone-would-mislead",
        "nothing-in-common",
    ],
)
def test_r5_the_divergence_is_where_the_last_common_reign_ends_first(
    mine: list[tuple[int, str, int]], others: list[tuple[int, str, int]], batches: int
) -> None:
    my_history, my_end, _ = log_of(*mine)
    their_history, their_end, _ = log_of(*others)
    expected = LogPoint(BATCH_BYTES * batches, batches)
    assert divergence_of_histories(my_history, my_end, their_history, their_end) == expected
    assert divergence_of_histories(their_history, their_end, my_history, my_end) == expected


def test_r5_an_unknown_reign_proves_nothing() -> None:
    unknown = EpochEntry(1, UNKNOWN_REIGN, 0, 0)
    known = EpochEntry(2, b"b" * 16, 300, 3)
    end = LogPoint(500, 5)
    assert divergence_of_histories([unknown], end, [unknown], end) == (0, 0)
    assert divergence_of_histories([unknown, known], end, [known], end) == end


branch = st.lists(st.integers(0, 4), max_size=4)


@given(shared=branch, mine=branch, others=branch, ahead=st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_r5_below_the_divergence_the_logs_are_equal_and_at_it_they_are_not(
    shared: list[int], mine: list[int], others: list[int], ahead: tuple[int, int]
) -> None:
    logs = []
    for name, own, further in (("m", mine, ahead[0]), ("o", others, ahead[1])):
        reigns = [(number, f"s{number}", batches) for number, batches in enumerate(shared, 1)]
        if reigns and (name == "m" or not ahead[0]):  # one node only is primary of the last shared reign
            number, reign, batches = reigns[-1]
            reigns[-1] = (number, reign, batches + further)
        reigns += [(len(shared) + at, f"{name}{at}", batches) for at, batches in enumerate(own, 1)]
        logs.append(log_of(*reigns))
    (my_history, my_end, my_content), (their_history, their_end, their_content) = logs
    equal = takewhile(lambda pair: pair[0] == pair[1], zip(my_content, their_content, strict=False))
    common = len(list(equal))
    assert divergence_of_histories(my_history, my_end, their_history, their_end).offset == common
