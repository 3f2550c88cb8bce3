"""What the producers of a run send: every message unique by its bytes, whatever its size."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["mark_of", "messages_of"]


def mark_of(process: str, number: int, generation: int, index: int) -> bytes:
    """Return what makes a message unique."""
    return f"{process}.{number}.{generation}.{index}.".encode()


def messages_of(
    process: str, number: int, generation: int, sizes: Sequence[int]
) -> tuple[list[bytes], list[bytes | None]]:
    """Return values and keys of one send: what is too short to be unique by itself has a key that is."""
    values: list[bytes] = []
    keys: list[bytes | None] = []
    for index, size in enumerate(sizes):
        mark = mark_of(process, number, generation, index)
        if size < len(mark):
            values.append(b"x" * size)
            keys.append(mark)
        else:
            values.append(mark + b"v" * (size - len(mark)))
            keys.append(b"k%d" % (index % 3) if index % 2 else None)
    return values, keys
