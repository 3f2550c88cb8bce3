"""How long a process had to wait for a processor: time in which nothing can be expected of it."""

from __future__ import annotations

__all__ = ["queued_s"]

NS_PER_S = 1e9


def queued_s(process_id: int | None = None) -> float:
    """Return for how many seconds the first thread of a process (None: this one) could have run while others did.

    Since that thread began; 0.0 where the system does not say.
    """
    try:
        with open(f"/proc/{process_id or 'self'}/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1]) / NS_PER_S
    except (OSError, ValueError, IndexError):
        return 0.0
