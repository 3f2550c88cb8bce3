"""QUIC: ``quic://HOST:PORT``. Encrypted; one connection carries all streams of a client.

``DatagramSocket`` is public for what measures the engine beside it, on the same socket.
"""

from mqcore_quic._socket import DatagramSocket
from mqcore_quic._transport import QuicTransport

__all__ = ["DatagramSocket", "QuicTransport"]
