"""Seeds in text: ``0-19, 40`` for many numbers. Knows nothing else."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["ranges_of"]


def ranges_of(numbers: Iterable[int]) -> str:
    """Return whole numbers in order, those that follow each other as a range."""
    if isinstance(numbers, range) and len(numbers) > 1 and numbers.step == 1:
        return f"{numbers[0]}-{numbers[-1]}"
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
