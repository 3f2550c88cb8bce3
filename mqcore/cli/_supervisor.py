"""Tells a supervisor such as systemd how far the broker is: ``READY=1``, ``STOPPING=1`` (``Type=notify``).

The protocol: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html. Without ``NOTIFY_SOCKET`` in the
environment nothing happens.
"""

from __future__ import annotations

import os
import socket

__all__ = ["VARIABLE", "tell_supervisor"]

VARIABLE = "NOTIFY_SOCKET"


def tell_supervisor(state: str) -> None:
    """Send ``state``. Never waits and never raises: a supervisor that does not listen is no reason to stop."""
    address = os.environ.get(VARIABLE, "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as peer:
        try:
            peer.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            return
