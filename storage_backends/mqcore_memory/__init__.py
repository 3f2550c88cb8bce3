"""``memory://``: logs in the heap of the process, in preallocated arenas. Lost when the process ends.

It knows nothing of files, and nothing of what the bytes mean.
"""

from mqcore_memory._backend import MemoryStorage

__all__ = ["MemoryStorage"]
