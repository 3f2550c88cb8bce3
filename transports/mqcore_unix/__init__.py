"""The transport ``unix:///PATH``: every stream is a connection to a Unix socket; peers show their credentials."""

from mqcore_unix._transport import UnixTransport

__all__ = ["UnixTransport"]
