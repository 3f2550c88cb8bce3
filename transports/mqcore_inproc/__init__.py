"""The transport ``inproc://NAME``: links inside one Trio program, for embedding and tests. No sockets, no files."""

from mqcore_inproc._transport import InprocTransport

__all__ = ["InprocTransport"]
