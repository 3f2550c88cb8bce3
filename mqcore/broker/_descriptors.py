"""How many connections the descriptors of the process allow."""

from __future__ import annotations

from mqcore.limits import Limits
from mqcore.ports import Ports

__all__ = ["connections_max"]

_CONNECTIONS_LEAST = 16
_DESCRIPTORS_SPARE = 64


def connections_max(limits: Limits, ports: Ports) -> int:
    """The limit, or what half of the process's descriptors allow.

    The other half is the storage's: a flush that finds none cannot be told from one that failed, and stops its logs.
    """
    try:
        open_files_max = ports.files.open_files_max()
    except OSError:  # a platform without such a limit, where only the memory parts run
        return limits.connections_max
    return min(limits.connections_max, max(_CONNECTIONS_LEAST, open_files_max // 2 - _DESCRIPTORS_SPARE))
