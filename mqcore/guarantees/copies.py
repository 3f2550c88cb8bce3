"""One copy of a batch as an acknowledgement states it on the wire and to a caller (guarantees, section 1).

Must not know how a copy came about, nor what it survives: that is the oracle's subject.
"""

from __future__ import annotations

from typing import NamedTuple

from mqcore.guarantees.levels import Level

__all__ = ["Copy"]


class Copy(NamedTuple):
    """One copy that a receipt states: the node's 16-byte id, the incarnation it had, and the level reached there.

    The incarnation is part of it because a node that came back under a newer one may have lost what it held (R2).
    """

    # a named tuple and not an attrs class: one is built and compared for each reply
    node_id: bytes
    incarnation: int
    level: Level

    def __repr__(self) -> str:
        # As it is written elsewhere (``mqcore topic describe``, reports): raw bytes help no reader of a receipt.
        return f"Copy(node_id={self.node_id.hex()}, incarnation={self.incarnation}, level={self.level.label})"
