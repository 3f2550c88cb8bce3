"""The coordinator ``memory://NAME``: cells inside one Trio program, for tests, simulations and embedding. No I/O."""

from mqcore_memory_coordinator._coordinator import MemoryCoordinator

__all__ = ["MemoryCoordinator"]
