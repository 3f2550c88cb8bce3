"""Sessions: what ties the streams of one client together. A stream that presents an unknown one is refused."""

from __future__ import annotations

from mqcore.errors import RemoteProtocolError
from mqcore.ports import Ports
from mqcore.protocol import Code

__all__ = ["Sessions"]


class Sessions:
    """Session ids (16 random bytes) with the number of streams that present each."""

    def __init__(self, ports: Ports) -> None:
        self._random = ports.random
        self._streams: dict[bytes, int] = {}
        self._owners: dict[bytes, str] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def join(self, session: bytes, principal: str = "") -> bytes:
        """Count a stream in: into a new session when ``session`` is empty, else into that one, if the peer is the same.

        Raises ``RemoteProtocolError``.
        """
        if not session:
            session = self._random.randbytes(16)
            self._streams[session] = 1
            self._owners[session] = principal
        elif self._owners.get(session) == principal:
            self._streams[session] += 1
        else:
            raise RemoteProtocolError("the session is not known here: connect again", code=Code.UNKNOWN_SESSION)
        return session

    def leave(self, session: bytes) -> None:
        """Count a stream out; the session ends with its last stream."""
        left = self._streams.get(session, 0) - 1
        if left > 0:
            self._streams[session] = left
        else:
            self._streams.pop(session, None)
            self._owners.pop(session, None)
