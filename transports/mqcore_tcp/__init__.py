"""The transport ``tcp://HOST:PORT``: every stream is a TCP connection. No encryption, no authentication."""

from mqcore_tcp._transport import TcpTransport

__all__ = ["TcpTransport"]
