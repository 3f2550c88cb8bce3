"""Large sends cut into pieces, so that a slow peer can be told from a silent one.

A stream says only that all bytes went, and a time limit that measured that would give up a large message on a slow link
again and again. Each piece that is taken is a sign of life; so a limit is about silence, whatever the message's size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mqcore.ports import Buffer

__all__ = ["PIECE_BYTES", "in_pieces"]

PIECE_BYTES = 384 * 1024
"""More than a full batch of 256 KiB with its columns, of which a few bytes would else be a send of their own.

Of fixed size: one that grew with the speed seen would grow with what the kernel's buffers take, and then wait.
"""


def in_pieces(buffers: Iterable[Buffer]) -> Iterator[list[Buffer]]:
    """Cut ``buffers`` (of single bytes) into lists of ``PIECE_BYTES`` together, the last one of what is left."""
    piece: list[Buffer] = []
    size = 0
    for buffer in buffers:
        view = memoryview(buffer)
        while view:
            part = view[: PIECE_BYTES - size]
            view = view[len(part) :]
            piece.append(part)
            size += len(part)
            if size == PIECE_BYTES:
                yield piece
                piece, size = [], 0
    if piece:
        yield piece
