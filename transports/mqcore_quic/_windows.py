"""How far ahead peers may send: on each stream of a connection, on all of them, and on all connections. No I/O."""

from __future__ import annotations

__all__ = ["FIRST_WINDOW_BYTES", "StreamWindow", "WindowShares", "full_window"]

FIRST_WINDOW_BYTES = 32 * 1024
"""That of a stream until the peer has said what its own is. With what carries it, it is less than may be sent before a
login, so that nobody is cut off for a large first frame."""

CONNECTION_WINDOWS = 8
"""What a connection may have out of order or on its way, in windows of a stream."""
LEAST_BYTES = 16 * 1024
"""Less than that would have a connection wait for each few packets, so many connections may exceed the total."""
_STEP = 16
"""A connection is given at most a sixteenth of what is left, so that many that come at once find some each."""


def full_window(window_bytes: int) -> int:
    """Return the window of a connection whose streams have ``window_bytes`` each, where there is room for it."""
    return CONNECTION_WINDOWS * window_bytes


class WindowShares:
    """Windows of connections, ``total_bytes`` in all: ``full_bytes`` each, and less the more of it is given out.

    Half of the total is kept for the least that each of ``links_max`` connections is given, however many there are; it
    is exceeded only where ``LEAST_BYTES`` each do that. A window is for life: no engine lets it be changed.
    """

    def __init__(self, total_bytes: int, links_max: int, full_bytes: int) -> None:
        self._least = min(full_bytes, max(LEAST_BYTES, total_bytes // (2 * links_max)))
        self._full = full_bytes
        self._left = max(0, total_bytes - self._least * links_max)

    def take(self) -> int:
        """Return the window of a new connection, in bytes; to be given back when it is over."""
        more = min(self._full - self._least, self._left // _STEP)
        self._left -= more
        return self._least + more

    def give_back(self, window_bytes: int) -> None:
        """Take back what ``take`` returned."""
        self._left += window_bytes - self._least


class StreamWindow:
    """How far a sender may be ahead of its reader on each stream of a connection: the less of what both sides say.

    ``own_bytes`` is what this side lets the peer; ``has_told``: it has said so. The peer's word bounds what this side
    sends, and this side's own what is kept for a peer that promises much and takes nothing.
    """

    def __init__(self, own_bytes: int) -> None:
        self.has_told = False
        self._own = own_bytes
        self._peers = FIRST_WINDOW_BYTES

    def told(self, peers_bytes: int) -> None:
        """The peer has said what it lets this side."""
        self._peers = max(self._peers, peers_bytes)

    @property
    def sending(self) -> int:
        """What this side may be ahead."""
        return min(self._own, self._peers)

    @property
    def step(self) -> int:
        """After how much that was read the peer is to be told: half of what it may be ahead, as far as it knows."""
        return min(self._own if self.has_told else FIRST_WINDOW_BYTES, self._peers) // 2
